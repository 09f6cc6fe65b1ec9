"""One broker with all settings that are unusual and do not exclude each other."""

from collections.abc import Iterator

import pytest

from tests.certificates import Authority
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import HOST, free_port
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.integration.unusual_settings.collector import Collector, collecting
from tests.integration.unusual_settings.foreign import FLOWERS, FOREIGN, OPTIONS
from tests.integration.unusual_settings.tls import PASSWORD, TlsFront, query


@pytest.fixture(scope="package")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("trusted"))


@pytest.fixture(scope="package")
def plain() -> Iterator[Redis]:
    """The Redis behind TLS."""
    with Redis("behind-tls", ("--requirepass", PASSWORD), f"redis://:{PASSWORD}@{HOST}:{{port}}/0") as running:
        yield running


@pytest.fixture(scope="package")
def secure(plain: Redis, trusted: Authority) -> Iterator[TlsFront]:
    with TlsFront(plain, "secure", trusted).serving() as running:
        yield running


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="package")
def unusual(
    secure: TlsFront, trusted: Authority, collector: Collector, state_mongod: Mongod, emulator: AtlasEmulator
) -> Iterator[Stack]:
    """A broker with Redis over TLS, traces, and variables in its environment that mislead Celery and Flower."""
    settings = {
        **FOREIGN,
        **OPTIONS,
        **FLOWERS,
        "BROKER_REDIS_URL": f"rediss://{HOST}:{free_port()};{secure.uri}?{query(trusted)}",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{collector.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "BROKER_API_PROCESSES": "1",
        "BROKER_SETTLE_SECONDS": "0",
    }
    with Stack(
        workers=1,
        settings=settings,
        state=state_mongod,
        cluster=emulator.cluster,
        redis=secure.redis,
        emulator=emulator,
    ) as running:
        yield running
