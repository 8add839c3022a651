"""`diht status`, `list` and `logs` on runs of this machine, which real `diht run`s with stub programs have made."""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path

import pytest

from diht_k8s.cli.main import main
from tests.contract.local import DOCUMENT, Diht, Stub, write_run


def started(folder: Path, stub: Stub) -> int:
    write_run(folder, DOCUMENT)
    return Diht(folder, "run", "run.json", stub=stub).end()[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert started(folder, {}) == 0
    return folder


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failed")
    assert started(folder, {"train": [64]}) == 64
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("place", ["run.json", "out"])
def test_status_of_a_finished_run_by_its_document_or_folder(
    place: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    first, *stages = shown(capsys, "status", place).splitlines()[:3]
    assert re.fullmatch(r"tiny is complete since 20[\dTZ:-]+", first)
    assert stages == [
        "  filter    complete: 3 steps",
        "  train     complete: 3 steps",
    ]
    found = json.loads(shown(capsys, "status", place, "--json"))
    assert (found["name"], found["state"], found["output"]) == ("tiny", "complete", str(finished / "out"))


def test_status_of_a_failed_run_says_why(
    failed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(failed)
    found = json.loads(shown(capsys, "status", "run.json", "--json"))
    assert found["state"] == "failed"
    assert found["says"]
    assert [stage["state"] for stage in found["stages"]] == ["complete", "begun"]


def test_status_of_a_run_that_a_process_works_on_is_running(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (failed / "out/runs/latest/logs/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shown(capsys, "status", str(failed / "out")).startswith("tiny runs")


def test_list_names_each_run_below_a_folder_with_its_state(
    finished: Path, failed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        each["output"]: each["state"] for each in json.loads(shown(capsys, "list", str(finished.parent), "--json"))
    }
    assert found[str(finished / "out")] == "complete"
    assert found[str(failed / "out")] == "failed"
    assert "tiny  complete" in shown(capsys, "list", str(finished))
    assert shown(capsys, "list", str(finished / "out/filter")).startswith("no runs below")


def test_logs_of_a_stage_are_those_of_its_newest_attempt(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    text = shown(capsys, "logs", "run.json", "train")
    assert "train    stubbing: 3/3 steps" in text
    assert '"diht"' not in text, "progress is in words"
    assert len(shown(capsys, "logs", "out", "train", "--tail", "1").splitlines()) == 1
    assert shown(capsys, "logs", "out", "train", "--follow") == text
    assert main(["logs", "out", "evaluate"]) == 64
    assert re.search(
        r"no logs of the stage evaluate in \S+/out/runs/tiny/\w{16}/logs: diht status", capsys.readouterr().err
    )


@pytest.mark.parametrize("place", ["run.json", "out", "out/runs/latest"])
def test_path_of_a_stage_by_document_output_or_folder(
    place: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    assert Path(shown(capsys, "path", place, "train").strip()).resolve() == Path("out/runs/latest/train").resolve()
    assert main(["path", place, "evaluate"]) == 64
    assert "the stage evaluate of this run has not begun in" in capsys.readouterr().err


def test_a_run_that_has_not_begun_says_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps(
            {
                **DOCUMENT,
                "spec": {**DOCUMENT["spec"], "data": {**DOCUMENT["spec"]["data"], "output": f"{tmp_path}/out"}},
            }
        )
    )
    assert main(["status", str(tmp_path / "run.json")]) == 64
    assert "no run has begun in" in capsys.readouterr().err


def test_status_and_logs_take_the_name_that_list_prints(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(finished)
    assert shown(capsys, "list").startswith("tiny  complete")
    assert shown(capsys, "status", "tiny").startswith("tiny is complete since ")
    assert "train    stubbing: 3/3 steps" in shown(capsys, "logs", "tiny", "train")
    assert main(["status", "tony"]) == 64
    assert "no run tony below runs (diht list), and no cluster: " in capsys.readouterr().err
    assert main(["logs", "tiny", "-n", "research"]) == 64
    assert "no cluster: " in capsys.readouterr().err, "a namespace means the cluster's run"
