"""One thread for torch, since several test processes share the machine; one evaluated run for all of the folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.recipe.evaluate.small_run import document, evaluate, make_run


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, evaluated once; tests look at it and change nothing."""
    folder = tmp_path_factory.mktemp("run")
    run = document(folder)
    make_run(folder, run)
    evaluate(run)
    return folder


@pytest.fixture
def fresh(tmp_path: Path, done: Path) -> Path:
    """Its inputs again, not evaluated; paths inside differ, contents do not."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(tmp_path / "out" / "evaluate")
    return tmp_path
