"""What the pages for the platform engineer say is so: commands, values, metrics, alerts, rights, reasons, files."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from diht_k8s.controller import metrics
from tests.contract.charts import CHART, EVERYTHING, MONITORING, NEWEST, ROOT, rendered

pytestmark = pytest.mark.timeout(3600)  # the first one may build helm, after Kubernetes
PAGES = [ROOT / "docs/install.md", ROOT / "docs/operations.md", CHART / "README.md"]
TEXTS = {page.name: page.read_text() for page in PAGES}
OPERATIONS = TEXTS["operations.md"]


def commands() -> list[str]:
    """Each `helm install` and `helm upgrade` of the pages with its options; continued lines are one."""
    lines = "\n".join(TEXTS.values()).replace("\\\n", " ")
    return re.findall(r"^helm (?:install|upgrade) .*$", lines, re.MULTILINE)


def settings(command: str) -> list[str]:
    words = shlex.split(command)
    return [after for word, after in itertools.pairwise(words) if word == "--set"]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command.split())[:60])
def test_install_command_of_the_docs_names_values_that_there_are(helm: str, command: str) -> None:
    options = [word for each in settings(command) for word in ("--set", each)]
    call = [helm, "template", "diht-operator", str(CHART), "--kube-version", NEWEST, *options]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_values_that_the_docs_name_are_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    named = {name for text in TEXTS.values() for name in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)(?:=[^`]*)?`", text)}
    ours = {name for name in named if name.partition(".")[0] in schema["properties"]}
    assert len(ours) > 20
    for name in ours:
        node: Any = schema
        for key in name.split("."):
            assert key in node.get("properties", {}) or node.get("additionalProperties") is not False, name
            node = node.get("properties", {}).get(key, {})


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_table_of_metrics_has_those_of_the_operator() -> None:
    found = {
        name.partition("{")[0]
        for row in rows(OPERATIONS, "Health and metrics")
        for name in re.findall(r"`(.+?)`", row[0])
    }
    have = set()
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for family in metric.describe():
                have.add(f"{family.name}_total" if family.type == "counter" else family.name)
    assert found == have


def test_table_of_alerts_has_those_of_the_chart_with_something_to_do(helm: str) -> None:
    objects = rendered(helm, EVERYTHING, apis=MONITORING)
    rule = next(each for each in objects if each["kind"] == "PrometheusRule")
    table = {row[0].strip("`"): row for row in rows(OPERATIONS, "Alerts")}
    assert set(table) == {alert["alert"] for alert in rule["spec"]["groups"][0]["rules"]}
    assert all(len(row) == 3 and len(row[2]) > 20 for row in table.values())


def test_table_of_rights_is_that_of_the_operators_roles(helm: str) -> None:
    roles = {
        each["metadata"]["name"]: each["rules"]
        for each in rendered(helm, {})
        if each["kind"] in ("ClusterRole", "Role")
    }
    wide, lease = (
        {
            (group or "core", resource, ", ".join(rule["verbs"]))
            for rule in roles[name]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for name in ("diht-operator", "diht-operator-lease")
    )
    table = rows(OPERATIONS, "Rights")
    told = {(row[0].strip("`"), row[1].strip("`"), row[2]) for row in table}
    assert wide <= told
    assert {row[:2] for row in told} == {rule[:2] for rule in wide | lease}
    assert all(len(row[3]) > 15 for row in table)
