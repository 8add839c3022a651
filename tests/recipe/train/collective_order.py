"""The collectives that a rank has issued, over all its communicators, in the order in which it issued them.

From torch's flight recorder, which NCCL and gloo both write at the call: what the host asks for, not when it ran.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from torch._C import _distributed_c10d as c10d

DUMPS = {"nccl": "_dump_nccl_trace_json", "gloo": "_dump_fr_trace_json"}

Call = tuple[str, str, str, str]
"""(communicator, operation, shapes and types of its inputs)."""


def keep_records() -> None:
    """Have the recorder of this process forget nothing; to be called before its first process group."""
    os.environ["TORCH_FR_BUFFER_SIZE"] = "100000"


def entries(backend: str) -> list[dict[str, Any]]:
    """What the recorder of a backend still holds, oldest first."""
    found = json.loads(getattr(c10d, DUMPS[backend])(includeCollectives=True, onlyActive=False)).get("entries") or []
    return sorted(found, key=lambda entry: entry["record_id"])


def next_record(backend: str) -> int:
    """Number of the next collective."""
    found = entries(backend)
    return found[-1]["record_id"] + 1 if found else 0


def issued(backend: str, first: int) -> list[Call]:
    """All collectives since the one of that number.

    Raises:
        AssertionError: the recorder has forgotten some.
    """
    found = [entry for entry in entries(backend) if entry["record_id"] >= first]
    assert not found or found[0]["record_id"] == first, "the flight recorder is too short"
    return [
        (entry["process_group"][0], entry["profiling_name"], str(entry["input_sizes"]), str(entry["input_dtypes"]))
        for entry in found
    ]


def first_difference(ranks: Sequence[Sequence[Call]]) -> str | None:
    """Where ranks part; None where all issue the same in one order.

    With two communicators, NCCL's kernels can wait for each other for ever if two ranks issue them in different orders.
    """
    for number, calls in enumerate(itertools.zip_longest(*ranks)):
        if len(set(calls)) > 1:
            return f"call {number}: " + "; ".join(f"rank {rank} issues {call}" for rank, call in enumerate(calls))
    return None
