"""The time-out of collectives: one for all groups, whoever makes them."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.ports import free_port
from tests.recipe.train.timeouts_rank import told

TIMEOUT_S = 77
pytestmark = pytest.mark.timeout(300)


def test_timeout_when_set_then_groups_of_deepspeed_of_meshes_and_later_ones_have_it() -> None:
    spawn = multiprocessing.get_context("spawn")
    answers, port = spawn.Queue(), free_port()
    ranks = [spawn.Process(target=told, args=(rank, port, TIMEOUT_S, answers)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    found = [answers.get(timeout=240) for _ in ranks]
    for rank in ranks:
        rank.join()
    for of_training, seconds, nccl in found:
        assert of_training >= 2, "DeepSpeed makes a group of its own"
        assert len(seconds) >= of_training + 2
        assert {*seconds, nccl} == {TIMEOUT_S}
