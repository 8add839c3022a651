"""What the tests of the recipe share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recipe.filter.shared_models import shared_models


@pytest.fixture(scope="session", autouse=True)
def models_loaded_once() -> Iterator[None]:
    with shared_models():
        yield
