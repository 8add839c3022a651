"""Thousands of damaged shards: no crash, no hang, and no sample that is neither delivered nor within a reported
damage.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.samples import DamagedShardError, Sample, count_samples, read_samples
from diht_k8s.data.shards.storage import Storage
from tests.fuzz.tars import MUTATIONS, Case, case

FEW = 760
MANY = 10_000
MAX_SECONDS = 2.0


def read(path: Path) -> tuple[list[Sample], DataError | None]:
    samples = list[Sample]()
    try:
        for sample in read_samples(Storage(), str(path)):
            samples.append(sample)  # what came before an error counts
    except DataError as error:
        return samples, error
    return samples, None


def problem_of(made: Case, path: Path) -> str | None:
    """What a reader did wrong, None if all is well."""
    path.write_bytes(made.data)
    began = time.process_time()
    samples, error = read(path)
    counted = count_samples(Storage(), str(path))
    if time.process_time() - began > MAX_SECONDS:
        return "took more than 2 s"
    if counted != len(samples):
        return f"{counted} samples counted, {len(samples)} read"
    if isinstance(error, DamagedShardError) and (error.samples != len(samples) or str(path) not in str(error)):
        return f"wrong report: {error}"
    for sample, owed in zip(samples, made.unharmed, strict=False):
        if (sample.key, sample.caption, sample.image, sample.problem) != (owed.key, owed.caption, owed.image, None):
            return f"{owed.key} came out as {sample.key} ({sample.problem})"
    if len(samples) < len(made.unharmed):
        return f"{len(samples)} samples, {len(made.unharmed)} stand before the damage: {error}"
    if made.sound and (error is not None or len(samples) != len(made.unharmed)):
        return f"{len(samples)} of {len(made.unharmed)} samples of a sound archive: {error}"
    if error is None and made.total is not None and len(samples) < made.total:
        return f"{len(samples)} of {made.total} samples and no damage"
    return None


def problems(seeds: range, path: Path) -> list[str]:
    found = []
    for seed in seeds:
        made = case(seed)
        if (problem := problem_of(made, path)) is not None:
            found.append(f"seed {seed} ({made.kind}): {problem}")
    return found


@pytest.mark.parametrize("part", range(len(MUTATIONS)), ids=lambda part: MUTATIONS[part].__name__.strip("_"))
def test_no_sample_is_lost_silently(tmp_path: Path, part: int) -> None:
    assert problems(range(part, FEW, len(MUTATIONS)), tmp_path / "s.tar") == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_no_sample_is_lost_silently_in_many(tmp_path: Path, part: int) -> None:
    begin = FEW + part * MANY // 10
    assert problems(range(begin, begin + MANY // 10), tmp_path / "s.tar") == []


MEMORY = """
import resource, sys
from pathlib import Path
from tests.fuzz.tars import case, sound_case
from tests.fuzz.test_tars import read
make, path = {"damaged": case, "clean": sound_case}[sys.argv[1]], Path(sys.argv[2])
for seed in range(int(sys.argv[3])):
    path.write_bytes(make(seed).data)
    read(path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(kind: str, path: Path, cases: int) -> int:
    """Peak resident memory of a process that reads N cases."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, kind, str(path), str(cases)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_damaged_shards_take_no_more_memory_than_sound_ones(tmp_path: Path) -> None:
    clean, damaged = (peak_kib(kind, tmp_path / "s.tar", 320) for kind in ("clean", "damaged"))
    assert damaged - clean < 200 << 10
