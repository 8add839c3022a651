"""`validate` and the API server agree on what stands in pods: generated runs and objects, which the API server checks
and does not keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

import pytest

from diht_k8s.api.documents import check
from tests.cluster.dry_runs import DryRun, Refusals, opened, refusals, refused_by_us_alone
from tests.cluster.tools import PROJECT, Kubectl
from tests.contract.documents.fields import CASES as FIELDS
from tests.contract.documents.rules import CASES as RULES

pytestmark = pytest.mark.cluster
RUNS: Final = int(os.environ.get("DIHT_DRY_RUNS", "200"))
"""How many; 2,000 take six minutes."""
ON_PURPOSE: Final = re.compile(
    r"no longer mounts such volumes|run on Linux only"
    r"|(secretRef|claimName|secretName|configMap)\S*: "  # names that no object can have
    r"|securityContext.capabilities|volumeMounts.mountPath|volumes.fc.lun|runAsUser 0 is root"
    r"|invalid quantity '\d+\.'"  # rather a slip than a number
    r"|tolerationSeconds: .* -?46116860184273879"  # the CRD's bounds are floating-point numbers
)
"""What Kubernetes' API server takes and its nodes do not."""


@pytest.fixture(scope="module")
def dry_run(kubectl: Kubectl) -> Iterator[DryRun]:
    with opened(kubectl) as found:
        yield found


def test_api_server_takes_every_object_of_a_valid_run(dry_run: DryRun) -> None:
    found = refusals(dry_run, RUNS)
    assert found.counted["Pod"] > 2 * RUNS
    assert str(found) == ""


def test_api_server_takes_every_object_of_the_samples_and_of_good_documents(dry_run: DryRun) -> None:
    """Also one that is older than the fields of pods that `validate` knows."""
    documents = [case.text for case in (*FIELDS, *RULES) if case.good]
    documents += [path.read_text() for path in sorted((PROJECT / "manifests/samples").glob("*.yaml"))]
    found = Refusals()
    for number, text in enumerate(documents):
        run, problems = check(text, overrides=["spec.pods.image=recipe:1"])
        assert run is not None, problems
        found.add(number, run, dry_run)
    assert found.counted["Job"] > 100
    assert str(found) == ""


def test_object_that_the_api_server_takes_is_refused_on_purpose_only(dry_run: DryRun) -> None:
    found = list(refused_by_us_alone(dry_run, range(10 * RUNS)))
    assert found
    assert [why for why in found if not ON_PURPOSE.search(why)] == []
