"""Who works on a stage: a run, as its claims and the lease of its training name it.

On a cluster it is the run's UID, which the operator gives to the pods; here it is one `diht run`, or one program that
a shell started, by its process. So a restarted worker knows its own claims again, and where an owner's process was of
this machine, its death is known at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diht_k8s.api.pods import OWNER_VARIABLE

PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Owner:
    """Who works on a stage."""

    id: str


def owner_of(environ: Mapping[str, str]) -> Owner:
    """The owner that the environment names, else this process."""
    return Owner(environ.get(OWNER_VARIABLE) or this_process())


def this_process() -> str:
    """This process by boot, process namespace, number and start: no other one has ever the same name."""
    return f"process {_place()} {os.getpid()} {_started_at(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether an owner is known to have ended: a process of this machine that runs no more. False if nothing is known."""
    kind, _, rest = owner.partition(" ")
    place, _, process = rest.partition(" ")
    pid, _, started_at = process.partition(" ")
    if kind != "process" or not pid.isdigit() or place != _place():
        return False
    return started_at != _started_at(int(pid))


def _place() -> str:
    """Boot of this machine and its process namespace: where a process number means something."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(PROC / 'self/ns/pid').readlink()}"
    except OSError:  # no Linux: a process is known by its number and the machine alone
        return os.uname().nodename


def _started_at(pid: int) -> str:
    """When a process started, in ticks since boot; empty if there is none, or it has ended and waits for its parent."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
