"""The controller's benchmark, small: it goes through all its phases on a control plane of its own, and finds nothing that scale does not excuse."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.cluster.tools import CLUSTER, PROJECT, cannot

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]
SMALL = ("--runs", "10", "--finished", "30", "--pods", "5", "--edits", "4", "--ending", "1", "--seconds", "10")


def test_benchmark_of_the_controller_when_small_misses_no_count():
    if not (CLUSTER / "bin/kwok").exists():
        cannot("kwok is not built: tests/cluster/extra kwok")
    done = subprocess.run(
        [PROJECT / "benchmarks/run", "controller", *SMALL], capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["idle"]["writes"] == 0
    assert figures["restart"]["writes"] == 0
    assert figures["ending"]["writes_per_stage"] <= 10
    assert figures["edits"]["edits"] == 8
    assert figures["targets"]["memory_peak_mib"] <= 250
