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
        words = ("run", "-s", "local_cwd", *component, "--", "--run", "run.json", "--set", "seed=3")
        done = torchx(folder, *words, interpreters=True)
        assert done.returncode == 0, done.stderr
    assert (folder / "out" / "runs/latest/filter" / "part-1").exists()
    committed = json.loads((folder / "out" / "runs/latest/train" / "COMMITTED.json").read_text())
    assert committed["config"]["seed"] == 3


def test_overrides_are_repeated_in_the_form_that_the_help_of_a_component_shows(folder: Path) -> None:
    overrides = ["--set=seed=3", "--set=filter.minActions=0"]
    done = torchx(folder, "run", "-s", "local_cwd", "components.cat_filter", "--", "--run", "run.json", *overrides)
    assert done.returncode == 0, done.stderr
    config = json.loads((folder / "out" / "runs/latest/filter" / "COMMITTED.json").read_text())["config"]
    assert config["config"]["minActions"] == 0
    assert json.loads((folder / "out/runs/latest/run.json").read_text())["spec"]["seed"] == 3


def test_a_failed_stage_fails_torchx_with_the_programs_words(folder: Path) -> None:
    done = torchx(folder, "run", "-s", "local_cwd", "components.train", "--", "--run", "run.json")
    assert done.returncode == 1
    assert "the stage filter of this run has not begun in out: run the stage filter first" in done.stdout + done.stderr


@pytest.mark.parametrize("component", ["cat_filter", "label", "train", "evaluate"])
def test_help_of_a_component_says_what_it_does_and_takes(tmp_path: Path, component: str) -> None:
    shown = torchx(tmp_path, "run", "-s", "local_cwd", f"components.{component}", "--help")
    text = " ".join(shown.stdout.split())
    assert shown.returncode == 0
    for words in (
        "Stage ",
        f"Example: torchx run -s local_cwd components.{component}",
        "--run FILE, --set=PATH=VALUE",
        "--image str container image",
    ):
        assert words in text


def test_mistake_of_the_user_is_one_line_and_64(tmp_path: Path) -> None:
    done = torchx(tmp_path, "run", "-s", "local_cwd", "components.train", "--", "--run", "absent.yaml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert done.stderr.startswith("diht: cannot read the run document absent.yaml")
