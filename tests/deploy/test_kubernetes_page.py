"""The page about Kubernetes: its values are rendered, and its commands and tables name what the chart makes."""

import re
from functools import cache

import pytest
import yaml

from tests.deploy.chart import DEFAULTS, Rendered, merged, render
from tests.deploy.files import CHECKOUT, Object
from tests.deploy.kubernetes_schemas import NEWEST, errors

PAGE = (CHECKOUT / "docs" / "kubernetes.md").read_text()
NAMESPACE = "atlas-broker"
VALUES: list[Object] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
FIRST, DEMO = VALUES[0], VALUES[-1]
COMMANDS = [line for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in text.splitlines()]
ALL_PARTS: Object = {
    "flower": {"enabled": True},
    "serviceCatalog": {"enabled": True, "existingSecret": "atlas-broker-catalog"},
}


@cache
def deployed() -> Rendered:
    return Rendered(render(merged(FIRST, ALL_PARTS), "atlas-broker", NAMESPACE))


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of a table by the part that its rows begin with."""
    table = PAGE.partition(heading)[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {re.findall(r"`([\w-]+)`", row[0])[0]: row for row in cells}


@pytest.mark.parametrize("values", VALUES, ids="-".join)
def test_values_of_the_page_can_be_installed(values: Object) -> None:
    whole = DEMO if values is DEMO else merged(FIRST, values)
    assert [problem for each in render(whole, "atlas-broker", NAMESPACE) for problem in errors(each, NEWEST)] == []


def test_the_secrets_that_the_page_makes_have_the_keys_that_the_pods_read() -> None:
    made: dict[str, set[str]] = {}
    for name, folder in re.findall(
        r"create secret generic (\S+) --from-file=(\S+)$", "\n".join(COMMANDS), re.MULTILINE
    ):
        made[name] = {path.removeprefix(f"{folder}/") for path in re.findall(rf"> ({folder}/\w+)", PAGE)}
    read: dict[str, set[str]] = {}
    for pod in deployed().pods().values():
        for volume in pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                keys = {item["key"] for item in source["secret"]["items"]}
                read.setdefault(source["secret"]["name"], set()).update(keys)
    assert made == read


def test_the_commands_name_what_is_there() -> None:
    made, demo = deployed(), Rendered(render(DEMO, "demo", "demo"))
    for command in COMMANDS:
        if command.startswith(("kubectl", "helm")):
            assert re.search(r"namespace (atlas-broker|demo)\b|-n (atlas-broker|demo)\b|show values", command), command
        objects = demo if "demo" in command else made
        for kind, name in re.findall(r"\b(deploy|service|job)/([\w-]+)", command):
            assert name in objects.of_kind({"deploy": "Deployment"}.get(kind, kind.capitalize())), command
        for name in re.findall(r"get secret ([\w-]+)", command):
            assert name in objects.of_kind("Secret"), command
        for name, port in re.findall(r"port-forward service/([\w-]+) (?:\d+:)?(\d+)", command):
            assert objects.of_kind("Service")[name]["spec"]["ports"][0]["port"] == int(port), command
        for label in re.findall(r"-l (\S+)", command):
            key, _, value = label.partition("=")
            assert objects.selected_by({key: value}), command
        for path in re.findall(r"docker/[\w/.-]+", command):
            assert (CHECKOUT / path).exists(), command


def test_commands_of_other_pages_name_what_is_there_too() -> None:
    for page in (CHECKOUT / "docs").rglob("*.md"):
        for kind, name in re.findall(r"kubectl -n atlas-broker .*\b(deploy|service)/([\w-]+)", page.read_text()):
            assert name in deployed().of_kind({"deploy": "Deployment"}.get(kind, kind.capitalize())), page


def test_the_secrets_of_further_values_are_made_by_commands_of_the_page() -> None:
    for name in ("atlas-broker-catalog", "prometheus-user"):
        (command,) = (line for line in COMMANDS if f"create secret generic {name} " in line)
        assert re.findall(r"--from-literal=(\w+)=", command) == ["username", "password"]


def test_the_address_for_platforms_is_that_of_the_api() -> None:
    (url,) = (each["spec"]["url"] for each in deployed().of_kind("ClusterServiceBroker").values())
    assert f"| `{url}` |" in PAGE


def test_the_table_of_needs_has_each_part_with_its_ports_and_queue() -> None:
    table = rows("## Which part needs what\n\n")
    parts = {name.removeprefix("atlas-broker-"): name for name in deployed().ours()}
    assert table.keys() == parts.keys()
    for part, name in parts.items():
        spec = deployed().of_kind("NetworkPolicy")[name]["spec"]
        admitted = [str(port["port"]) for rule in spec["ingress"] for port in rule["ports"]]
        assert re.findall(r"port (\d+)", table[part][5]) == admitted
        goes = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
        for port, target in ((27017, "MongoDB"), (6379, "Redis"), (443, "Atlas"), (27015, "clusters")):
            assert (port in goes) == (target in table[part][6]), (part, target)
        for queue in deployed().queues().get(name, []):
            assert f"`{queue}`" in table[part][1]


def test_the_table_of_sizes_has_the_defaults() -> None:
    table = rows("limits it to your addresses.\n\n")
    for part, row in table.items():
        outer, _, queue = part.partition("-")
        values = DEFAULTS[outer][queue] if queue else DEFAULTS[outer]
        scaling = values.get("autoscaling", {"type": "none"})
        fixed = str(values.get("replicas", 1))
        pods = fixed if scaling["type"] == "none" else f"{scaling['minReplicas']} to {scaling['maxReplicas']}, by CPU"
        asked = values["resources"]
        cpu = int(asked["requests"]["cpu"].removesuffix("m")) / 1000
        memory = asked["requests"]["memory"].removesuffix("Mi"), asked["limits"]["memory"].removesuffix("Mi")
        assert row[1:3] == [pods, f"{cpu} CPU, {memory[0]} MiB; at most {memory[1]} MiB"]
