import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from broker_api.server import GRACE_SECONDS
from broker_api.settings.settings import Part, load
from tests.deploy.files import ATLAS_SETTINGS, COMPOSE, DOCKER, SECRET_SETTINGS, SETTINGS, WORKING, Object, objects
from tests.deploy.test_dockerfile import stages

VARIABLE = re.compile(r"\$\{([A-Z_]+)(:[?-])?([^}]*)\}")


@cache
def services() -> dict[str, Object]:
    (document,) = objects(COMPOSE)
    found: dict[str, Object] = document["services"]
    return found


def environment(service: str) -> dict[str, str]:
    """The broker's settings; what other images want is theirs."""
    given = services()[service].get("environment", {})
    return {name: value for name, value in given.items() if service in ("api", "worker", "flower")}


def sample() -> dict[str, str]:
    listed = re.findall(r"^#?([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE)
    return dict(listed)


def filled_in(variable: re.Match[str]) -> str:
    """What somebody who follows the sample has in docker/.env, else the default."""
    name, operator, text = variable.groups()
    return WORKING.get(name) or sample().get(name) or (text if operator == ":-" else "")


def test_it_is_a_valid_compose_file() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    result = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_broker_needs_these_services_and_the_emulated_atlas_comes_only_with_its_profile() -> None:
    profiles = {name: service.get("profiles", []) for name, service in services().items()}
    assert {name for name, listed in profiles.items() if not listed} == {"api", "worker", "flower", "mongo", "redis"}
    assert {name for name, listed in profiles.items() if listed == ["emulator"]} == {"emulator", "cluster"}


def test_what_is_built_here_is_a_target_of_the_dockerfile() -> None:
    for service in services().values():
        if build := service.get("build"):
            assert build["target"] in stages()
            assert (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file()


def test_what_is_not_built_here_has_an_exact_version_and_digest() -> None:
    for service in services().values():
        digest = "" if "build" in service else "@sha256:[0-9a-f]{64}"
        assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+(-[a-z]+)?" + digest, service["image"])


@pytest.mark.parametrize("name", services())
def test_a_service_can_write_only_where_it_must_and_gains_no_privilege(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "devices"} & service.keys()
    assert service.get("network_mode", "service:").startswith("service:")


@pytest.mark.parametrize("name", services())
def test_a_service_has_a_health_check(name: str) -> None:
    assert services()[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", services())
def test_a_service_waits_until_what_it_depends_on_is_healthy(name: str) -> None:
    for other, condition in services()[name].get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in services()[other]


def test_the_api_starts_without_redis() -> None:
    assert services()["api"]["depends_on"].keys() == {"mongo"}


def test_every_port_is_bound_to_this_machine_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["api", "worker", "flower"])
def test_the_environment_names_only_settings_of_the_broker(name: str) -> None:
    assert environment(name)
    assert environment(name).keys() <= SETTINGS


@pytest.mark.parametrize("part", ["api", "worker", "flower"])
def test_a_process_starts_with_what_it_is_given_here(part: Part) -> None:
    filled = {name: VARIABLE.sub(filled_in, value) for name, value in environment(part).items()}
    assert load(filled, part).redis.celery_url == "redis://redis:6379/0"


@pytest.mark.parametrize("name", ["api", "flower"])
def test_only_the_worker_is_told_about_atlas(name: str) -> None:
    assert not environment(name).keys() & ATLAS_SETTINGS
    assert environment("worker").keys() >= ATLAS_SETTINGS


def test_flower_gets_no_more_than_it_shows() -> None:
    assert environment("flower").keys() == {"BROKER_REDIS_URL", "BROKER_USERS"}


def test_secrets_come_from_outside_and_compose_refuses_to_start_without_those_that_must_be() -> None:
    for name in ("api", "worker", "flower"):
        for setting in environment(name).keys() & SECRET_SETTINGS - {"BROKER_MONGO_URI", "BROKER_REDIS_URL"}:
            found = VARIABLE.fullmatch(environment(name)[setting])
            assert found is not None, setting
            variable, operator, text = found.groups()
            assert variable == setting
            optional = setting.startswith("MONGODB_ATLAS_") and setting != "MONGODB_ATLAS_PROJECT_ID"
            assert (operator, bool(text)) == ((":-", False) if optional else (":?", True)), setting


def test_the_sample_names_every_variable_without_a_default_and_no_secret() -> None:
    used = VARIABLE.findall(COMPOSE.read_text())
    assert {variable for variable, operator, text in used if operator == ":?" or not text} <= sample().keys()
    assert sample().keys() <= {variable for variable, _, _ in used}
    assert not any(value for name, value in sample().items() if name in ("BROKER_USERS", "BROKER_ENCRYPTION_KEYS"))


def test_the_sample_opens_the_emulated_atlas() -> None:
    (emulator,) = (service for service in services().values() if service.get("build", {}).get("target") == "emulator")
    options = dict(option.removeprefix("--").split("=", 1) for option in emulator["command"])
    assert emulator["network_mode"] == "service:worker"
    assert sample()["MONGODB_ATLAS_BASE_URL"] == f"http://{options['host']}:{options['port']}"
    assert sample()["MONGODB_ATLAS_PROJECT_ID"] == options["project"]
    assert sample()["MONGODB_ATLAS_PUBLIC_API_KEY"] == options["public-key"]
    assert sample()["MONGODB_ATLAS_PRIVATE_API_KEY"] == options["private-key"]


def test_what_is_filled_in_from_the_samples_is_kept_out_of_git() -> None:
    assert {".env", "kubernetes/secrets.yaml"} <= set((DOCKER / ".gitignore").read_text().splitlines())


def test_mongodb_is_a_replica_set_that_makes_itself() -> None:
    mongo = services()["mongo"]
    assert mongo["command"][1:3] == ["--replSet", "rs0"]
    assert "rs.initiate" in mongo["healthcheck"]["test"][-1]
    assert "replicaSet=rs0" in environment("api")["BROKER_MONGO_URI"]


def test_redis_never_evicts_and_keeps_nothing() -> None:
    command = services()["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--save"], options["--appendonly"]) == ("", "no")


def test_the_workers_health_check_asks_its_readiness_probe() -> None:
    (port,) = (step.value[1] for step in stages()["worker"].steps if step.value[0] == "BROKER_METRICS_PORT")
    assert f"http://localhost:{port}/ready" in services()["worker"]["healthcheck"]["test"][-1]


def test_the_processes_of_the_broker_listen_on_addresses_of_both_families() -> None:
    for name in ("api", "worker", "flower"):
        assert not [part for part in services()[name].get("command", []) if "0.0.0.0" in part]
        assert not [part for part in services()[name]["healthcheck"]["test"] if "127.0.0.1" in part]


def test_a_request_that_waits_for_its_job_outlives_the_order_to_stop() -> None:
    variable = VARIABLE.fullmatch(environment("api")["BROKER_SYNC_WAIT_SECONDS"])
    assert variable is not None
    assert float(variable.group(3)) == load(WORKING, "api").sync_wait
    seconds = int(services()["api"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= load(WORKING, "api").sync_wait + GRACE_SECONDS
