"""Users who create pods, Jobs, events, runs and statuses with anything in them stop the operator for nobody else.

A few hundred objects here; `benchmarks/run fuzzed_objects` creates 10,000 and measures the time to each status, too.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.cluster.tools import CLUSTER, PROJECT, cannot

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
FEW = ("--objects", "400", "--tenants", "10", "--per-second", "20", "--seconds", "20")


@pytest.mark.parametrize("seed", [1, 2])
def test_operator_among_fuzzed_objects_serves_all_others_skips_some_and_comes_to_rest(seed: int) -> None:
    if not (CLUSTER / "bin/kwok").exists():
        cannot("kwok is not built: tests/cluster/extra kwok")
    command = [PROJECT / "benchmarks/run", "fuzzed_objects", *FEW, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["tenants_not_complete"] == 0
    assert figures["skipped"] > 0
    assert figures["writes_at_rest"] == 0, figures["at_rest"]
