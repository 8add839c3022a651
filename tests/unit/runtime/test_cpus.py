"""CPUs of a pod: the least of affinity and quotas, of both versions of control groups, of all groups above."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.train import Train
from diht_k8s.runtime.cpus import usable_cpus
from diht_k8s.stages.train.data.loader import MAX_WORKERS, loader_workers


@pytest.mark.parametrize(
    ("own", "files", "affinity", "cpus"),
    [
        ("0::/", {}, 16, 16),
        ("0::/", {"cpu.max": "max 100000"}, 16, 16),
        ("0::/", {"cpu.max": "250000 100000"}, 16, 2.5),
        ("0::/", {"cpu.max": "3200000 100000"}, 16, 16),
        ("0::/pods/one", {"pods/cpu.max": "200000 100000", "pods/one/cpu.max": "400000 100000"}, 16, 2),
        (
            "4:cpu,cpuacct:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            16,
            3,
        ),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 16, 0.5),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16, 16),
        ("7:memory:/m", {"cpu.max": "damaged"}, 4, 4),
    ],
)
def test_cpus_when_limited_then_the_least_counts(
    tmp_path: Path, own: str, files: dict[str, str], affinity: int, cpus: float
) -> None:
    (tmp_path / "own").write_text(own + "\n")
    for name, content in files.items():
        place = tmp_path / "groups" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content + "\n")
    assert usable_cpus(own=tmp_path / "own", root=tmp_path / "groups", affinity=affinity) == cpus


@pytest.mark.parametrize(
    ("asked", "cpus", "ranks", "device", "workers"),
    [
        (None, 2.0, 1, "cpu", 0),
        (None, 64.0, 8, "cuda", 7),
        (None, 8.0, 8, "cuda", 1),
        (None, 0.5, 1, "cuda", 1),
        (None, 500.0, 1, "cuda", MAX_WORKERS),
        (0, 64.0, 8, "cuda", 0),
        (3, 64.0, 8, "cpu", 3),
    ],
)
def test_workers_when_not_asked_for_then_those_that_the_pods_cpus_leave(
    asked: int | None, cpus: float, ranks: int, device: str, workers: int
) -> None:
    train = Train(model="ViT-B-32", samples=1, loader_workers=asked, processes_per_node=ranks)
    assert loader_workers(train, cpus, device) == workers
