"""An alert of the chart fires in each outage, and none fires on a healthy operator: its real metrics, Prometheus' own
engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cluster.alerting import alerts
from tests.cluster.operators import Runs, output_folder, project
from tests.cluster.outages import OUTAGES, Outage, Place, placed
from tests.cluster.tools import PROJECT, Kubectl, cannot, fresh_namespace, wait_until
from tests.contract.charts import EVERYTHING, MONITORING, helm_program, rendered, tool

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
OBSERVED_S = 25.0
"""Time from the outage to the last scrape."""


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    helm = helm_program() or pytest.skip("no helm: put it on the PATH, or install Go")
    objects = rendered(helm, EVERYTHING, apis=MONITORING)
    return next(each for each in objects if each["kind"] == "PrometheusRule")["spec"]["groups"][0]["rules"]


@pytest.fixture(scope="module")
def promql() -> str:
    return tool("promql") or pytest.skip("no Go to build Prometheus' engine with")


@pytest.fixture(scope="module")
def places(
    kubectl: Kubectl, own: bool, recipe_image: str, rules: Any, promql: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    """All outages at once, each with an operator of its own, as they were observed."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its pods cannot share a folder of this machine")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(PROJECT / "manifests/crd/diht.dev_dihtruns.yaml"))
    kubectl.wait_established("dihtruns.diht.dev")
    with ExitStack() as stack:
        found: dict[str, Place] = {}
        for name, outage in OUTAGES.items():
            namespace = stack.enter_context(fresh_namespace(kubectl, "alert"))
            output = stack.enter_context(output_folder(kubectl, namespace))
            volume = stack.enter_context(project(kubectl, namespace))
            runs = Runs(kubectl, namespace, recipe_image, volume, output)
            place = placed(outage, runs, kubectl.kubeconfig, tmp_path_factory.mktemp("outage"))
            stack.enter_context(place.proxy.serving())
            stack.callback(place.operator.stop)
            found[name] = place
        observe(found)
        yield found


def observe(places: dict[str, Place]) -> None:
    for name, place in places.items():
        start(place, OUTAGES[name])
    for place in places.values():
        wait_until(lambda place=place: place.operator.get("/metrics")[0] == 200, "an operator", 90)
        place.scrapes.began = time.monotonic()
        place.scrapes.scrape()
    for name, place in places.items():
        OUTAGES[name].inject(place)
    until = time.monotonic() + OBSERVED_S
    while time.monotonic() < until:
        time.sleep(2.0)
        for place in places.values():
            place.scrapes.scrape()


def start(place: Place, outage: Outage) -> None:
    os.environ["DIHT_TEST_RECONCILE"] = outage.reconcile
    try:
        place.operator.start()
    finally:
        del os.environ["DIHT_TEST_RECONCILE"]


@pytest.mark.parametrize("name", OUTAGES)
def test_alerts_that_fire_are_those_of_the_outage(
    places: dict[str, Place], rules: list[dict[str, Any]], promql: str, name: str
) -> None:
    place, outage = places[name], OUTAGES[name]
    if place.operator.log.exists():
        print(place.operator.log.read_text()[-3000:])
    assert alerts(promql, rules, place.scrapes.continued(outage.lasting)) == outage.alerts


def test_each_alert_has_an_outage_in_which_it_fires(rules: list[dict[str, Any]]) -> None:
    fired = {alert for outage in OUTAGES.values() for alert in outage.alerts}
    assert {rule["alert"] for rule in rules} - fired == {"DihtOperatorErrors"}, "it takes ten failing runs or more"
