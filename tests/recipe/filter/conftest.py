"""What the tests of the filter share. Torch and open_clip are imported by those that need them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from diht_k8s.stages.filter.captions.graph import CaptionGraph
from diht_k8s.stages.filter.captions.parser import CaptionParser


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions that are parsed from now on."""
    found, parse = list[str](), CaptionParser.parse

    def counted(parser: CaptionParser, captions: Sequence[str]) -> list[CaptionGraph]:
        found.extend(captions)
        return parse(parser, captions)

    monkeypatch.setattr(CaptionParser, "parse", counted)
    return found


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
    from tests.recipe.filter.clip_scores import write_scored

    return write_scored(tmp_path / "in")
