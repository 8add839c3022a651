"""What `validate` takes, the API server takes: every object of every stage of generated runs, and a Pod of each template."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.cluster.dry_runs import opened, refusals
from tests.cluster.tools import Kubectl

pytestmark = pytest.mark.cluster
RUNS: Final = int(os.environ.get("DIHT_DRY_RUNS", "200"))


def test_api_server_takes_every_object_of_a_valid_run(kubectl: Kubectl) -> None:
    with opened(kubectl) as dry_run:
        _, lines, counted = refusals(dry_run, RUNS)
    assert counted["accepted"] == RUNS
    assert lines == []
