"""What the tests of the clip score share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.recipe.evaluate.small_run import export_model
from tests.recipe.filter.clip_scores import CAPTIONS, image_of
from tests.recipe.filter.shards import pair, tar_of


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the stage sets it, so that the tests see equal bits in whatever order they run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path: Path) -> str:
    export_model(tmp_path / "clip")
    return str(tmp_path / "clip")


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two shards of eight pairs whose second one has too simple a caption."""
    (tmp_path / "in").mkdir()
    for shard in range(2):
        members = [
            member
            for number, caption in enumerate(CAPTIONS)
            for member in pair(f"{shard}-{number}", caption, image_of(shard, number))
        ]
        (tmp_path / "in" / f"{shard}.tar").write_bytes(tar_of(members))
    return f"{tmp_path}/in/*.tar"
