"""What the tests of the recipe share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recipe.filter.shared_models import shared_models


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the stages set it, so that the tests see equal bits in whatever order they run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def models_loaded_once() -> Iterator[None]:
    with shared_models():
        yield
