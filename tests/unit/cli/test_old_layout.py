"""An output of an earlier version, with stages in `OUTPUT/STAGE` itself, is refused by every command with one
sentence.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import MARKER, STARTED, refuse_old_layout
from diht_k8s.api.run import Stage
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from tests.unit.api.documents import changed

SAYS = (
    "out has the layout of an earlier version (filter/ without a folder for each configuration): choose another "
    "data.output"
)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/filter").mkdir(parents=True)
    (tmp_path / "out/filter" / STARTED).write_text("{}")
    sources = [{"name": "web", "shards": ["a.tar"]}]
    Path("run.json").write_text(json.dumps(changed(spec__data__output="out", spec__data__sources=sources)))
    Path("list.txt").write_text("a-uid\n")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "run run.json",
        "stage filter --run run.json",
        "stage train --run run.json",
        "report out",
        "report run.json",
        "path out filter",
        "path run.json filter",
        "prune out",
        "prune run.json --yes",
        "purge run.json --exclude list.txt",
        "status out",
        "status run.json",
        "logs out",
        "concepts out",
        "concepts run.json",
        "uids run.json",
    ],
)
def test_command_refuses_an_output_of_an_earlier_version(
    command: str, old: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 64
    said = capfd.readouterr()
    assert SAYS in said.err
    assert len(said.err.splitlines()) == 1, "one sentence"
    assert [path.name for path in (old / "out/filter").iterdir()] == [STARTED]


def test_list_names_it_and_goes_on(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "."]) == 0
    assert SAYS in capsys.readouterr().err


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("name", [STARTED, MARKER])
def test_marker_in_a_stages_own_folder_says_that_an_output_is_old(stage: Stage, name: str, tmp_path: Path) -> None:
    (tmp_path / stage.value / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / stage.value / "0123456789abcdef" / name).write_text("{}")
    (tmp_path / stage.value / "notes.json").write_text("{}")
    (tmp_path / "run.json").write_text("a person's document")
    refuse_old_layout(str(tmp_path), Storage().names)
    (tmp_path / stage.value / name).write_text("{}")
    with pytest.raises(UserError, match=re.escape(f"earlier version ({stage.value}/")):
        refuse_old_layout(str(tmp_path), Storage().names)
