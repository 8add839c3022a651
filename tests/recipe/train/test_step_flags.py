"""What the ranks tell each other after a step: flags of any of them, times of each, bad samples of all."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.recipe.train.flags_rank import WORLD, told

pytestmark = pytest.mark.timeout(300)


def test_flags_of_any_rank_are_all_ranks_flags_and_bad_samples_add_up(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    ranks = [spawn.Process(target=told, args=(rank, str(tmp_path / "store"), answers)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    found = dict(answers.get(timeout=240) for _ in ranks)
    for rank in ranks:
        rank.join()
    expected = [(True, True, True, [0.5, 1.5, 2.5], 3 * 10**9 + 3), (False, False, False, [0.0, 0.0, 0.0], 0)]
    assert found == dict.fromkeys(range(WORLD), expected)
