"""All ranks issue their collectives in one order, over all communicators together, at every ZeRO stage.

Statistics of a batch (SyncBatchNorm) travel over the world's communicator in the middle of a backward pass, in which
DeepSpeed reduces gradients over its own at ZeRO 1 and 2; at ZeRO 0 and 3 both take the world's. NCCL orders the kernels
of two communicators as the host issues them (NCCL_LAUNCH_ORDER_IMPLICIT, which the stage sets): that is free of
deadlocks if all hosts issue them alike, which is what is tested here. The order is that of autograd, of hooks and of
DeepSpeed's fetches, none of which knows of a device; `tests/gpu` has the same check over NCCL.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.recipe.train.collective_order import Call, first_difference
from tests.recipe.train.small_run import ORDER, RESNET, Job, Table, document, make_data, train_in_ranks

STEPS, BATCH = 4, 16
"""From its third step on ZeRO 3 fetches weights ahead, in an order that it has recorded."""
KINDS: Table = {
    **{f"batch statistics, zero {stage}": {"modelConfig": RESNET, "zeroStage": stage} for stage in range(4)},
    "batch statistics, zero 2, parts": {"modelConfig": RESNET, "zeroStage": 2, "microBatchSize": 4},
    "unequal parts, zero 3": {"zeroStage": 3, "batchSize": 15, "microBatchSize": 4, "samples": STEPS * 15},
}
WORLD = "0"
"""Name of the world's communicator."""
pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("order")
    make_data(folder / "data")

    def job(name: str, **train: Any) -> Job:
        return Job(document(folder / name, data=folder / "data", **{"samples": STEPS * BATCH, **train}))

    jobs = {name: job(name, **train) for name, train in KINDS.items()}
    return train_in_ranks(2, jobs, folder / "ranks", program=ORDER)


@pytest.mark.parametrize("name", KINDS)
def test_collectives_when_issued_then_in_one_order_on_all_ranks(trained: Table, name: str) -> None:
    found = trained[name]
    assert found["error"] is None
    assert [len(calls) > 10 * STEPS for calls in found["calls"]] == [True, True]
    assert first_difference(found["calls"]) is None


@pytest.mark.parametrize("name", [name for name in KINDS if "zero 1" in name or "zero 2" in name])
def test_communicators_when_at_zero_1_or_2_then_both_are_used_in_turn(trained: Table, name: str) -> None:
    calls: list[Call] = trained[name]["calls"][0]
    assert len({call[0] for call in calls}) == 2
    assert sum((one[0] == WORLD) != (other[0] == WORLD) for one, other in pairwise(calls)) > 4 * STEPS


def test_check_when_a_rank_issues_in_another_order_then_it_is_seen(tmp_path: Path) -> None:
    calls: Any = train_in_ranks(2, {}, tmp_path, program=ORDER)
    found = first_difference(calls)
    assert found is not None
    assert found.startswith("call 0: rank 0 issues ('0', 'gloo:all_reduce'")
