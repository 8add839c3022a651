"""How the next version of the API comes and the older one goes, by the commands of the docs: a v1alpha2 beside
v1alpha1, without a webhook.

The migration is that of the definition itself, under an operator and a client that know v1alpha1 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.schema.crd import GROUP
from tests.cluster import forked
from tests.cluster.api_versions import FIELD, NEW, OLD, Definition, Version
from tests.cluster.operators import World, world
from tests.cluster.tools import PROJECT, Kubectl, KubectlError, cannot

pytestmark = pytest.mark.cluster
ONE_STAGE: dict[str, Any] = {"label": None, "train": None, "evaluate": None}
BOTH_OLD_STORED = (Version(OLD, stored=True), Version(NEW))
BOTH_NEW_STORED = (Version(OLD), Version(NEW, stored=True))


@pytest.fixture
def real(kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Definition]:
    """The definition that operators watch; at the end it is again that of this checkout, by the way back of the
    docs.
    """
    monkeypatch.setenv(
        "KUBECACHEDIR", str(tmp_path / "kubectl")
    )  # what is served then is not for the tests after this one
    found = Definition(kubectl)
    yield found
    if found.stored_versions() != [OLD]:
        found.apply(*BOTH_OLD_STORED)
        found.migrate(OLD)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(PROJECT / "manifests/crd/diht.dev_dihtruns.yaml"))


@pytest.fixture
def place(kubectl: Kubectl, own: bool, recipe_image: str, tmp_path: Path) -> Iterator[World]:
    if not own:
        cannot("KUBECONFIG is another cluster's: its etcd is not at hand, and its runs are not ours to rewrite")
    with world(kubectl, recipe_image, tmp_path) as found:
        yield found


def diht(place: World, *arguments: str) -> str:
    """What the client of this checkout prints."""
    words = [*arguments, "--namespace", place.namespace]
    done = forked.call(*words, KUBECONFIG=str(place.kubectl.kubeconfig), COLUMNS="200")
    assert done.returncode == 0, done.stdout
    return done.stdout


def create(place: World, name: str, rules: dict[str, Any]) -> None:
    """Make a run of the next version."""
    document = place.runs.document(name, **{**ONE_STAGE, "filter": rules})
    place.kubectl.create({**document, "apiVersion": f"{GROUP}/{NEW}"}, place.namespace)


@pytest.mark.exclusive
def test_next_version_is_served_then_stored_and_the_older_one_goes_while_operator_and_client_of_the_older_go_on(
    place: World, real: Definition, audit: Any
) -> None:
    runs, since = place.runs, datetime.now(UTC)
    runs.apply("long", {"filter": ["hang"]}, **ONE_STAGE)
    runs.apply("later", suspend=True, **ONE_STAGE)
    runs.wait_for("long", "Progressing", "Running")
    runs.wait_for("later", "Progressing", "Suspended")
    before = runs.children("long")

    real.apply(*BOTH_OLD_STORED)
    assert real.stored_versions() == [OLD]
    assert "long runs: filter: attempt 1 runs" in diht(place, "status", "long")
    create(place, "plain", {})
    # the operator's watch of before, which does not show the field, ends within the seconds that this takes
    runs.wait_for("plain", "Complete")
    create(place, "new", {FIELD: True})
    assert f"spec.filter.{FIELD}" in runs.wait_for("new", "Accepted", "InvalidSpec")["conditions"][0]["message"]
    assert set(real.in_etcd(place.namespace).values()) == {OLD}

    real.apply(*BOTH_NEW_STORED)
    runs.apply("first", suspend=True, **ONE_STAGE)
    assert real.stored_versions() == [OLD, NEW]
    stored = real.in_etcd(place.namespace)
    del stored["long"]  # whose progress the operator may have written meanwhile
    assert stored == {"later": OLD, "plain": OLD, "new": OLD, "first": NEW}
    real.rewrite()
    assert set(real.in_etcd(place.namespace).values()) == {NEW}
    real.declare(NEW)
    assert real.stored_versions() == [NEW]
    diht(place, "cancel", "first")
    runs.patch("later", {"suspend": False})
    runs.wait_for("later", "Complete")
    rules = {name: spec["filter"] for name, spec in both(place).items()}
    assert rules == {"long": {}, "later": {}, "plain": {}, "new": {FIELD: True}}, (
        "what the operator has written erased nothing"
    )
    assert runs.children("long") == before
    calls = audit(user=place.operator.user, since=since, verbs=("get", "list", "watch", "create", "patch", "delete"))
    assert {event["responseStatus"]["code"] for event in calls} <= {200, 201, 404, 409, 429}
    assert place.operator.get("/readyz")[0] == 200

    real.apply(Version(OLD, served=False), Version(NEW, stored=True))
    with pytest.raises(KubectlError, match=r"could not find the requested resource|404 page not found"):
        runs.get("long")
    assert both(place, NEW).keys() == rules.keys()
    assert runs.children("long") == before
    real.apply(*BOTH_NEW_STORED)
    runs.patch("long", {"suspend": True})
    runs.wait_for("long", "Progressing", "Suspended")


def both(place: World, *versions: str) -> dict[str, Any]:
    """What runs ask for, by name, which is the same by each version; the operator writes their statuses meanwhile."""
    lists = [
        place.kubectl.read(f"/apis/diht.dev/{version}/namespaces/{place.namespace}/dihtruns")["items"]
        for version in versions or (OLD, NEW)
    ]
    found = [{each["metadata"]["name"]: each["spec"] for each in items} for items in lists]
    assert all(each == found[0] for each in found)
    return found[0]
