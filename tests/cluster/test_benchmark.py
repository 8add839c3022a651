"""The benchmarks of operators, small: they go through all their phases on a control plane of their own."""

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


def test_benchmark_of_peers_when_small_measures_all_three():
    if not (CLUSTER / "bin/kwok").exists():
        cannot("kwok is not built: tests/cluster/extra kwok")
    small = ("--jobs", "4", "--pods", "2", "--failures", "2", "--table")
    done = subprocess.run([PROJECT / "benchmarks/run", "peers", *small], capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr[-2000:]
    line, *rows = done.stdout.splitlines()
    figures = json.loads(line)
    for name in ("ours", "jobset", "trainer"):
        assert 0 < figures[name]["writes_start"] < 30
        assert figures[name]["again_p99_s"] < 60
        assert figures[name]["peak_mib"] > 10
    assert "JobSet v0.12.0" in rows[0]
