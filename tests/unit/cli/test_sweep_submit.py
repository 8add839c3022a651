"""`diht sweep --submit`: what is sent to the API server, and what is said when it is sent again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.cli.main import main
from diht_k8s.kube.runs import RunClient
from tests.unit.api.documents import changed
from tests.unit.kube.api_server import ApiServer, refusal

FIRST, SECOND = "a-run-beta-1", "a-run-beta-2"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ApiServer:
    found = ApiServer()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diht_k8s.cli.sweep.run_client", lambda namespace: RunClient(found.cluster(), namespace or "n"))
    Path("run.json").write_text(json.dumps(changed()))
    return found


def known(name: str, generation: int, sweep: str | None = "a-run") -> dict[str, Any]:
    labels = {} if sweep is None else {"labels": {"diht.dev/sweep": sweep}}
    return {"metadata": {"name": name, "generation": generation, **labels}}


def submit(*arguments: str) -> int:
    return main(["sweep", "run.json", "--vary", "train.loss.beta=1,2", "--submit", *arguments])


def listed(*runs: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"items": list(runs), "metadata": {}}


def test_each_variant_is_a_run_with_the_label_of_the_sweep(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [listed(), (200, known(FIRST, 1)), (200, known(SECOND, 1))]
    assert submit() == 0
    bodies = [asked.body for asked in server.asked[1:]]
    assert [body["metadata"] for body in bodies] == [
        {"name": name, "namespace": "n", "labels": {"diht.dev/sweep": "a-run"}} for name in (FIRST, SECOND)
    ]
    assert [body["spec"]["train"]["loss"] for body in bodies] == [{"beta": 1}, {"beta": 2}]
    shown = capsys.readouterr().out.splitlines()
    assert shown[3] == "filter: 1 for 2 variants"
    assert shown[-3:] == [
        f"submitted run n/{FIRST}",
        f"submitted run n/{SECOND}",
        "to follow them: diht list -n n --sweep a-run",
    ]


def test_second_submission_says_what_is_unchanged_and_what_it_changed(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [listed(known(FIRST, 1), known(SECOND, 1)), (200, known(FIRST, 1)), (200, known(SECOND, 2))]
    assert submit("--namespace", "team") == 0
    shown = capsys.readouterr().out
    assert f"unchanged run team/{FIRST}\nchanged run team/{SECOND}\n" in shown


def test_a_variant_that_names_what_is_not_there_keeps_all_of_them_here(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "run.json", "--vary", "train.model=ViT-B-16,ViT-B-33", "--submit"]) == 64
    assert capsys.readouterr().err.startswith("diht: spec.train.model: ViT-B-33 is not known to open_clip")
    assert server.asked == []


@pytest.mark.parametrize("other", [None, "another"])
def test_run_of_the_same_name_that_is_no_variant_stays_and_the_others_are_submitted(
    other: str | None, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [listed(known(FIRST, 1, other)), (200, known(SECOND, 1))]
    assert submit() == 64
    captured = capsys.readouterr()
    assert f"run n/{FIRST} exists and is no variant of a-run: delete it (diht cancel {FIRST})" in captured.err
    assert f"submitted run n/{SECOND}" in captured.out
    assert [asked.method for asked in server.asked] == ["GET", "PATCH"]


def test_refused_variant_decides_the_exit_code_and_the_others_are_submitted(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [listed(), (422, refusal("delete the run and apply it again")), (200, known(SECOND, 1))]
    assert submit() == 64
    captured = capsys.readouterr()
    assert "delete the run and apply it again" in captured.err
    assert f"submitted run n/{SECOND}" in captured.out


def test_dry_run_only_asks(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [listed(), (200, known(FIRST, 1)), (200, known(SECOND, 1))]
    assert submit("--dry-run") == 0
    assert [asked.query.get("dryRun") for asked in server.asked[1:]] == ["All", "All"]
    assert capsys.readouterr().out.splitlines()[-2:] == [f"accepted run n/{FIRST}", f"accepted run n/{SECOND}"]
