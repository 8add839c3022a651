"""What the chart renders, against the schemas of the oldest and the newest Kubernetes, a linter of manifests, and
Prometheus' parser.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.contract.charts import CASES, MINORS, MONITORING, ROOT, rendered, template, tool

pytestmark = pytest.mark.timeout(3600)  # the first one may build helm, after Kubernetes
ENDS = MINORS[0], MINORS[-1]
"""What both know, those between them know, too."""
PROMETHEUS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of an API that is not Kubernetes' own: their schemas are in no package."""


def validate(document: dict[str, Any], minor: str) -> None:
    """By the schema of that minor version, unknown fields being errors."""
    assert kubernetes_validate.validate(document, minor, strict=True) == minor, "there is a schema of this very version"


@pytest.mark.parametrize("minor", ENDS)
def test_jobs_of_stages_and_applications_satisfy_the_schema(minor: str) -> None:
    files = (ROOT / "tests/unit/launch/golden").glob("*.yaml")
    objects = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    jobs = [document for document in objects if document["apiVersion"] == "batch/v1"]
    assert any("successPolicy" in job["spec"] for job in jobs)
    for job in jobs:
        validate(job, minor)


@functools.cache
def objects(helm: str, case: str) -> list[dict[str, Any]]:
    """Of the chart; each supported Kubernetes gets the same."""
    return [each for each in rendered(helm, CASES[case], apis=MONITORING) if each["kind"] not in PROMETHEUS]


@pytest.mark.parametrize("minor", ENDS)
@pytest.mark.parametrize("case", CASES)
def test_objects_satisfy_the_schemas_of_kubernetes(helm: str, case: str, minor: str) -> None:
    own = objects(helm, case)
    assert len(own) >= 9
    for document in own:
        validate(document, minor)


def findings(program: str, manifests: str) -> set[str]:
    """The checks of kube-score that any object fails."""
    done = subprocess.run(
        [program, "score", "--output-format=json", "-"], input=manifests, capture_output=True, text=True
    )
    objects = json.loads(done.stdout)
    return {
        check["check"]["id"]
        for each in objects
        for check in each["checks"] or []
        if not check["skipped"] and check["grade"] < 10
    }


def test_findings_of_a_linter_are_those_that_the_docs_explain(helm: str) -> None:
    program = tool("kube-score") or pytest.skip("no kube-score: put it on the PATH, or install Go")
    found = set()
    for case, values in CASES.items():
        done = template(helm, values, apis=MONITORING)
        assert done.returncode == 0, case
        found |= findings(program, done.stdout)
    section = (ROOT / "docs/operations.md").read_text().partition("## What a linter finds")[2].partition("\n## ")[0]
    assert found == set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))


def expressions(objects: list[dict[str, Any]]) -> Iterator[str]:
    """What alerts and dashboard ask of Prometheus; Grafana's own variables are filled in."""
    for document in objects:
        if document["kind"] == "PrometheusRule":
            yield from (rule["expr"] for group in document["spec"]["groups"] for rule in group["rules"])
        if document["metadata"]["name"].endswith("-dashboard"):
            for panel in json.loads(document["data"]["diht-operator.json"])["panels"]:
                yield from (target["expr"].replace("$__rate_interval", "5m") for target in panel.get("targets", []))


def complaints(asked: list[str]) -> str:
    """Of Prometheus' own parser."""
    program = tool("promql") or pytest.skip("no Go to build Prometheus' parser with")
    return subprocess.run([program], input=json.dumps(asked), capture_output=True, text=True, check=True).stdout


def test_alerts_and_dashboard_ask_what_prometheus_understands(helm: str) -> None:
    asked = list(expressions(rendered(helm, CASES["everything"], apis=MONITORING)))
    assert len(asked) >= 10
    assert complaints(asked) == ""
