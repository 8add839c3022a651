"""What the tests of the chart share."""

from __future__ import annotations

import pytest

from tests.contract.charts import helm_program


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm program."""
    return helm_program() or pytest.skip("no helm: put it on the PATH, or install Go")
