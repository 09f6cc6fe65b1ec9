"""The metrics of the documentation are those that are served, and alerts and dashboard use no others."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.files import CHECKOUT, DOCKER
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import INSTANCE, PROVISION, a_client, send

ALERTS = DOCKER / "monitoring" / "alerts.yaml"
DASHBOARD = DOCKER / "monitoring" / "dashboard.json"
MONITORING = (CHECKOUT / "docs" / "monitoring.md").read_text()
TROUBLESHOOTING = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
OF_PROMETHEUS = {"le"}
"""The label of the buckets of a histogram."""

Labels = dict[str, set[str]]


def documented(heading: str = "") -> Labels:
    """Return the labels of each metric in the tables of the page, or in that below a heading."""
    text = MONITORING.partition(heading)[2].partition("\n#")[0] if heading else MONITORING
    rows = re.findall(r"^\| `(atlas_broker_\w+)(?:\{([\w,]*)\})?` \|", text, re.MULTILINE)
    return {name: set(filter(None, labels.split(","))) for name, labels in rows}


def served() -> Labels:
    """Return the labels of each metric of the API, of a broker that has all trouble at once."""
    client = a_client(InMemoryService())
    send(client, "PUT", INSTANCE, json=PROVISION)
    send(client, "GET", INSTANCE, auth=("platform", "wrong"))
    found: Labels = {}
    for family in text_string_to_metric_families(send(client, "GET", "/metrics").text):
        for sample in family.samples if family.type != "gauge" or not family.name.endswith("_created") else ():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.setdefault(name, set()).update(sample.labels.keys() - OF_PROMETHEUS)
    return found


def expressions() -> list[str]:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_page_lists_exactly_the_metrics_that_the_api_serves() -> None:
    assert documented("## The metrics of the API") == served()


@pytest.mark.parametrize("expression", expressions())
def test_alerts_and_dashboard_use_metrics_and_labels_that_exist(expression: str) -> None:
    known = documented()
    used = re.findall(r"(atlas_broker_\w+?)(?:_bucket|_count|_sum)?\b(?![\w])(?:\{([^}]*)\})?", expression)
    assert used
    labels = set()
    for name, selected in used:
        assert name in known, expression
        labels |= known[name] | OF_PROMETHEUS
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected)) <= known[name], expression
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", grouped)) <= labels, expression


def test_each_alert_leads_to_a_section_and_stands_in_the_table_of_alerts() -> None:
    """The name of an anchor is made from its heading in the way of GitHub."""
    headings = re.findall(r"^## (.*)$", TROUBLESHOOTING, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    rows = dict(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| \[[^\]]*\]\(#([^)]*)\) \|$", TROUBLESHOOTING, re.MULTILINE))
    listed = {name: anchor for names, anchor in rows.items() for name in re.findall(r"`(\w+)`", names)}
    alerts = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert {name for name in listed if name.startswith("AtlasBroker")} == {rule["alert"] for rule in alerts}
    for rule in alerts:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, anchor) == ("docs/troubleshooting.md", listed[rule["alert"]])
        assert anchor in anchors, rule["alert"]
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert labels <= set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))


def test_promtool_accepts_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is not installed: set-up.sh installs wheels only, and none has it; Debian's package prometheus "
            "does"
        )
    done = subprocess.run([promtool, "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
