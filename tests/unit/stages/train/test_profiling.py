"""Steps of an attempt that `train.profileSteps` records, and the files that it writes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from torch.profiler import record_function

from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.telemetry import FIRST_STEP, Profiler
from tests.folders import flat


def recorded(folder: Path) -> list[int]:
    """Steps in the trace of rank 3."""
    trace = json.loads(gzip.decompress((folder / "train/profile/rank-00003.json.gz").read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    return sorted(int(name.removeprefix("step ")) for name in names if name.startswith("step "))


@pytest.mark.parametrize(
    ("steps", "ran", "expected"),
    [
        (2, FIRST_STEP + 5, [FIRST_STEP, FIRST_STEP + 1]),
        (3, FIRST_STEP + 1, [FIRST_STEP]),
        (1, FIRST_STEP, None),
        (0, FIRST_STEP + 5, None),
    ],
    ids=["whole", "ended within", "ended before", "off"],
)
def test_profile_when_steps_run_then_those_after_the_first_are_written(
    tmp_path: Path, steps: int, ran: int, expected: list[int] | None
) -> None:
    profiler = Profiler(Storage(), flat(tmp_path), steps=steps, rank=3)
    for number in range(ran):
        profiler.step()
        with record_function(f"step {number}"):
            pass
    written = (tmp_path / "train/profile").exists()
    assert written == (expected is not None and ran > FIRST_STEP + steps)
    profiler.finish()
    if expected is None:
        assert not (tmp_path / "train/profile").exists()
    else:
        assert recorded(tmp_path) == expected
        assert "Self CPU" in (tmp_path / "train/profile/rank-00003.txt").read_text()
