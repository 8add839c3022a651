"""The `torchx` command with our components, as a user types it (stub stage programs)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.local import DOCUMENT, torchx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(DOCUMENT))
    return tmp_path


def test_builtins_lists_our_components_beside_torchx_own(tmp_path: Path) -> None:
    listed = torchx(tmp_path, "builtins")
    names = [line.split(". ", 1)[1] for line in listed.stdout.splitlines() if ". " in line]
    ours = [name for name in names if name.startswith("components.")]
    assert ours == ["components.cat_filter", "components.evaluate", "components.label", "components.train"]
    assert {"dist.ddp", "utils.echo"} <= set(names)


def test_stages_run_one_by_one_where_no_environment_is_activated(folder: Path) -> None:
    for component in (
        ["components.cat_filter", "-j", "2"],
        ["components.train", "-j", "1x2"],
    ):
        done = torchx(folder, "run", "-s", "local_cwd", *component, "--", "--run", "run.json", "--set", "seed=3")
        assert done.returncode == 0, done.stderr
    assert (folder / "out" / "filter" / "part-1").exists()
    committed = json.loads((folder / "out" / "train" / "COMMITTED.json").read_text())
    assert committed["config"]["seed"] == 3


def test_a_failed_stage_fails_torchx_with_the_programs_words(folder: Path) -> None:
    done = torchx(folder, "run", "-s", "local_cwd", "components.train", "--", "--run", "run.json")
    assert done.returncode == 1
    assert "out/filter is not committed: run the stage filter first" in done.stdout + done.stderr


@pytest.mark.parametrize("component", ["cat_filter", "label", "train", "evaluate"])
def test_help_of_a_component_says_what_it_does_and_takes(tmp_path: Path, component: str) -> None:
    shown = torchx(tmp_path, "run", "-s", "local_cwd", f"components.{component}", "--help")
    text = " ".join(shown.stdout.split())
    assert shown.returncode == 0
    for words in (
        "Stage ", f"Example: torchx run -s local_cwd components.{component}", "--run FILE, --set PATH=VALUE",
        "--image str container image",
    ):  # fmt: skip
        assert words in text
