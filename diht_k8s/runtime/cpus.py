"""The CPUs that this process may use: its affinity and the quotas of its control groups (versions 1 and 2).

In a pod with `limits.cpu` the kernel shows all CPUs of the node, and throttles whoever uses more than the quota.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def usable_cpus(*, own: Path = _OWN, root: Path = _ROOT, affinity: int | None = None) -> float:
    """Number of CPUs, which a quota may make fractional; at least a hundredth.

    Args:
        own: lists this process's control groups, as /proc/self/cgroup.
        root: where they are mounted.
        affinity: CPUs on which the process may run; None asks the kernel.
    """
    found = float(len(os.sched_getaffinity(0)) if affinity is None else affinity)
    for folder in _folders(own, root):
        found = min(found, _quota_2(folder / "cpu.max"), _quota_1(folder))
    return max(found, 0.01)


def _folders(own: Path, root: Path) -> list[Path]:
    """Folders of this process's groups and of those above: every quota on the way counts."""
    found = [root, root / "cpu", root / "cpu,cpuacct"]
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            bases = [root / "cpu", root / controllers] if controllers else [root]
            parts = PurePosixPath(path).parts[1:]
            found += [base.joinpath(*parts[:depth]) for base in bases for depth in range(1, len(parts) + 1)]
    return found


def _quota_2(file: Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = file.read_text().split()
        return float(quota) / float(period)  # "max" is no number
    return float("inf")


def _quota_1(folder: Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = float((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            return quota / float((folder / "cpu.cfs_period_us").read_text())
    return float("inf")
