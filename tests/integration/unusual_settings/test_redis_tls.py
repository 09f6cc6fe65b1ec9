"""``rediss://``: each server's certificate is checked, for everything that connects to Redis."""

from collections.abc import Iterator

import pytest

from broker_api.jobs.queue import Queue
from broker_api.settings.redis_settings import RedisSettings
from tests.certificates import Authority
from tests.dev.processes import HOST, free_port
from tests.dev.services import Redis
from tests.dev.stack import Stack
from tests.integration.rates import share_the_rate_limit
from tests.integration.unusual_settings.tls import PASSWORD, TlsFront, query
from tests.tenant import REDIS_STALLED, Tenant, redis_is_well, works


@pytest.fixture(scope="module")
def impostor(plain: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsFront]:
    """Has a certificate of another authority."""
    with TlsFront(plain, "impostor", Authority(tmp_path_factory.mktemp("other"))).serving() as running:
        yield running


def trouble(url: str) -> str | None:
    """What /ready and check tell."""
    return Queue(RedisSettings.parse(url)).problem()


def test_the_certificate_of_each_server_in_the_list_is_checked(
    secure: TlsFront, impostor: TlsFront, trusted: Authority
) -> None:
    away = f"rediss://{HOST}:{free_port()}"
    assert trouble(f"{away};{secure.uri}?{query(trusted)}") is None
    assert trouble(f"{secure.uri}?{query(trusted)};{away}") is None
    for url in (
        f"{impostor.uri}?{query(trusted)}",
        f"{impostor.uri}?{query(trusted)};{impostor.uri}",
        f"{impostor.uri};{impostor.uri}?{query(trusted)}",
    ):
        told = trouble(url)
        assert told is not None
        assert "its certificate is not trusted" in told
        assert PASSWORD not in told


def test_the_name_in_the_certificate_is_checked(plain: Redis, trusted: Authority) -> None:
    with TlsFront(plain, "elsewhere", trusted, "192.0.2.1").serving() as running:
        told = trouble(f"{running.uri}?{query(trusted)}")
        assert told is not None
        assert "its certificate is not trusted" in told


def test_the_broker_works_unusual_with_certificates_of_clients(unusual: Stack) -> None:
    with unusual.client() as client:
        redis_is_well(client)
        assert works(Tenant(client).provision().bind())
    for process in (unusual.api, *unusual.workers, unusual.flower):
        assert process is not None
        assert PASSWORD not in process.log_text()
        lost = [line for line in process.log_text().splitlines() if "redis_lost" in line]
        assert [line for line in lost if REDIS_STALLED not in line] == []


@pytest.mark.parametrize(
    "options",
    ["", "&ssl_cert_reqs=CERT_REQUIRED", "&ssl_cert_reqs=required", "&ssl_cert_reqs=optional"],
)
def test_the_rate_limit_is_shared_unusual(secure: TlsFront, trusted: Authority, options: str) -> None:
    url = f"rediss://{HOST}:{free_port()};{secure.uri}?{query(trusted)}{options}"
    share_the_rate_limit(RedisSettings.parse(url), f"project{options}")
