from __future__ import annotations

import sys
from typing import Any

import pytest

from diht_k8s.runtime.hangs.awaited_rank import Collective, GroupRecord
from diht_k8s.stages.train import collectives
from diht_k8s.stages.train.flight_recorder import groups_of, innermost_frame
from diht_k8s.stages.train.optimizer import learning_rate


def entry(
    sequence: int,
    name: str = "gloo:all_reduce",
    *,
    group: str = "0",
    state: str = "scheduled",
    retired: bool = True,
    p2p: bool = False,
) -> dict[str, Any]:
    """As torch's flight recorder writes it."""
    return {
        "collective_seq_id": sequence,
        "profiling_name": name,
        "process_group": [group, "desc"],
        "state": state,
        "retired": retired,
        "is_p2p": p2p,
    }


def collective(sequence: int, name: str) -> Collective:
    return Collective(sequence=sequence, name=name)


@pytest.mark.parametrize(
    ("entries", "groups"),
    [
        ([], {}),
        ([entry(1), entry(2)], {"gloo:0": GroupRecord(issued=2)}),
        ([entry(1), entry(2, retired=False)], {"gloo:0": GroupRecord(issued=2, pending=collective(2, "all_reduce"))}),
        # NCCL issues more behind the one that hangs
        (
            [
                entry(7, "nccl:_all_gather_base", retired=False, state="completed"),
                entry(8, "nccl:_reduce_scatter_base", retired=False),
                entry(9, "nccl:all_reduce", retired=False),
            ],
            {"nccl:0": GroupRecord(issued=9, pending=collective(8, "reduce_scatter"))},
        ),
        (
            [entry(3, retired=False), entry(1, "gloo:barrier", group="1"), entry(5, "gloo:send", p2p=True)],
            {"gloo:0": GroupRecord(issued=3, pending=collective(3, "all_reduce")), "gloo:1": GroupRecord(issued=1)},
        ),
    ],
)
def test_entries_of_the_flight_recorder_say_what_each_group_has_done(
    entries: list[dict[str, Any]], groups: dict[str, GroupRecord]
) -> None:
    assert groups_of(entries) == groups


class Settings:
    """Asked by the code that it is passed to: where is it?"""

    @property
    def lr(self) -> float:
        self.place = innermost_frame(sys._getframe())
        return 0.1

    warmup_samples, type, min_lr = 0, "Constant", 0.0


def test_place_is_the_innermost_frame_of_this_projects_code() -> None:
    settings: Any = Settings()
    learning_rate(settings, settings, seen=0, samples=1)
    name, _, function = settings.place.partition(":")
    assert name == "optimizer.py"
    assert function.endswith(" in learning_rate")


def test_place_passes_over_the_exchanges_and_is_empty_elsewhere() -> None:
    found = []
    collectives.broadcast_error(lambda: found.append(innermost_frame(sys._getframe())))
    assert found == [""]
