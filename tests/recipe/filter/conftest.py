"""What the tests of the clip score share. They import torch and open_clip, so the other tests must not pay for that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipe.filter.shards import pair, tar_of


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the stage sets it, so that the tests see equal bits in whatever order they run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.recipe.evaluate.small_run import export_model

    folder = tmp_path_factory.mktemp("exported")
    export_model(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path, exported: Path) -> str:
    return str(shutil.copytree(exported, tmp_path / "clip"))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two shards of eight pairs whose second one has too simple a caption."""
    from tests.recipe.filter.clip_scores import CAPTIONS, image_of

    (tmp_path / "in").mkdir()
    for shard in range(2):
        members = [
            member
            for number, caption in enumerate(CAPTIONS)
            for member in pair(f"{shard}-{number}", caption, image_of(shard, number))
        ]
        (tmp_path / "in" / f"{shard}.tar").write_bytes(tar_of(members))
    return f"{tmp_path}/in/*.tar"
