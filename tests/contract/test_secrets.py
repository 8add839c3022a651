"""A canary in place of a token: it goes through stages, operator and commands, and is found in pod specs only."""

from __future__ import annotations

import copy
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import check, dump
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli import run as run_command
from diht_k8s.cli.cluster import planned_objects
from diht_k8s.cli.main import main
from diht_k8s.cli.status_sentences import details, sentence
from diht_k8s.data.shards.storage import Storage
from diht_k8s.kube.errors import ClusterError
from diht_k8s.report import write_report
from diht_k8s.report.page import write_run_page
from diht_k8s.runtime.commit import commit
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context
from tests.contract.local import STUBS, Diht
from tests.folders import planted
from tests.unit.api.documents import changed
from tests.unit.controller.fake import Process
from tests.unit.controller.stories import Clock, make, settle, status
from tests.unit.launch.kubelet import started

CANARY = "canary-5b1d7e20"
PODS: dict[str, Any] = {
    "image": "recipe:1",
    "env": [{"name": "HF_TOKEN", "value": CANARY}, {"name": "PLAIN", "value": f"x{CANARY}"}],
    "annotations": {"note": CANARY},
    "volumes": [{"name": "v", "csi": {"driver": "d", "volumeAttributes": {"password": CANARY}}}],
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
}


def document(output: str = "out") -> dict[str, Any]:
    return changed(
        spec__data__output=output,
        spec__pods=PODS,
        spec__evaluate__pods={"env": [{"name": "STAGE_KEY", "value": CANARY}]},
    )


def write(folder: Path, given: dict[str, Any]) -> str:
    path = folder / "user.json"
    path.write_text(json.dumps(given))
    return str(path)


def files_with_canary(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY in path.read_text(errors="replace")]


def without_literals(job: dict[str, Any]) -> str:
    """A Job without the places of its pod spec where a literal value belongs."""
    rest = copy.deepcopy(job)
    template = rest["spec"]["template"]
    template["metadata"].pop("annotations", None)
    template["spec"]["volumes"] = [volume for volume in template["spec"]["volumes"] if "csi" not in volume]
    for container in template["spec"]["containers"]:
        own = ("HF_TOKEN", "PLAIN", "STAGE_KEY")
        container["env"] = [variable for variable in container["env"] if variable["name"] not in own]
    return json.dumps(rest)


def diht(folder: Path, *arguments: str, **env: str) -> str:
    code, stdout, stderr = Diht(folder, *arguments, variables={**STUBS, **env}).end()
    assert code == 0, stderr
    return stdout + stderr


def test_local_run_writes_and_prints_no_literal_value(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    given = document()
    given["spec"]["data"]["sources"][0]["shards"] = given["spec"]["evaluate"]["benchmarks"][0]["shards"] = ["a.tar"]
    (tmp_path / "here/a.tar").touch()
    printed = diht(tmp_path / "here", "run", write(tmp_path, given))
    assert CANARY not in printed
    assert len(list((tmp_path / "here").rglob("COMMITTED.json"))) == 4
    assert files_with_canary(tmp_path / "here") == []


def test_pods_write_no_literal_value(tmp_path: Path) -> None:
    run = DihtRun.model_validate(document(str(tmp_path / "out")))
    for job in (item for item in planned_objects(run, "n") if item["kind"] == "Job"):
        assert CANARY not in without_literals(job)
        words, env = started(job["spec"]["template"]["spec"]["containers"][0], 0)
        assert env["HF_TOKEN"] == CANARY
        own = {name: value for name, value in env.items() if name not in ("HOME", "USER", "PATH")} | {
            "DIHT_WORKERS": "1"
        }
        assert CANARY not in diht(tmp_path, *words[words.index("diht_k8s.cli") + 1 :], **own)
    assert len(list(tmp_path.rglob("COMMITTED.json"))) == 4
    assert files_with_canary(tmp_path) == []


def test_stage_that_reads_the_users_file_writes_no_literal_value(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    diht(folder, "stage", "filter", "--run", write(tmp_path, document()))
    assert (folder / "out/runs/latest/run.json").exists()
    assert files_with_canary(folder) == []


def test_report_and_comparison_show_no_literal_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = document(str(tmp_path / "out"))
    for stage in ("filter", "label", "train"):
        del given["spec"][stage]
    given["spec"]["evaluate"]["model"] = "m"
    (tmp_path / "a.tar").touch()
    shards = [str(tmp_path / "a.tar")]
    given["spec"]["data"]["sources"][0]["shards"] = given["spec"]["evaluate"]["benchmarks"][0]["shards"] = shards
    run = DihtRun.model_validate(given)
    storage = Storage()
    context = Context(
        run,
        Stage.EVALUATE,
        storage,
        planted(run, Stage.EVALUATE),
        {"inputs": {}, "stage_version": 1},
        Reporter(Stage.EVALUATE),
        StopFlag(),
    )
    write_report(context, [])
    assert (tmp_path / "out/runs/latest/evaluate/report.html").exists()
    assert files_with_canary(tmp_path) == []
    commit(storage, context.layout, Stage.EVALUATE, {"inputs": {}}, [], {})
    write_run_page(run, storage, context.layout)
    report = json.loads((tmp_path / "out/runs/latest/report.json").read_text())
    assert report["document"]["spec"]["pods"]["env"][0] == {"name": "HF_TOKEN", "value": "REDACTED"}
    page = tmp_path / "comparison.html"
    assert main(["report", str(tmp_path / "out"), "--output", str(page)]) == 0
    assert CANARY not in capsys.readouterr().out
    assert files_with_canary(tmp_path) == []


@pytest.mark.parametrize("refused", [False, True], ids=["program fails", "API server refuses"])
def test_operator_shows_no_literal_value(refused: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cluster = make(pods=PODS, filter={"workers": 1}, failurePolicy={"maxRestarts": 1})
    process = Process(cluster, Clock())
    if refused:
        cluster.refuse["create Job"] = ClusterError(422, "Invalid", f"spec.env[0].value: Invalid value: {CANARY}")
    settle(process)
    if not refused:
        cluster.run_pods("r-filter-1")
        cluster.logs["r-filter-1-0"] = f"Traceback\ntoken {CANARY} refused"
        cluster.end("r-filter-1", 1, message=f"token {CANARY} refused")
    settle(process)
    assert all(CANARY not in without_literals(job) for job in cluster.jobs.values())
    shown = json.dumps([cluster.runs["r"]["status"], cluster.recorded, cluster.services])
    assert "REDACTED" in shown
    assert CANARY not in shown + caplog.text
    assert CANARY not in sentence("r", status(cluster)) + "".join(details(status(cluster)))


def test_commands_print_no_literal_value_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, document())
    assert main(["validate", file]) == 0
    warned = capsys.readouterr()
    assert "spec.pods.env[0].value: HF_TOKEN looks like a secret" in warned.err
    assert "spec.evaluate.pods.env[0].value: STAGE_KEY looks like a secret" in warned.err
    assert "valueFrom" in warned.err
    assert "PLAIN" not in warned.err
    assert main(["plan", file]) == 0
    plan = capsys.readouterr()
    assert CANARY not in f"{warned}{plan}"
    assert "- name: HF_TOKEN\n          value: REDACTED" in plan.out
    assert main(["plan", file, "--show-secrets"]) == 0
    assert CANARY in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"spec__pods__env": {"HF_TOKEN": CANARY}},
        {"spec__pods__env": [CANARY]},
        {"spec__pods__env": [{"name": "A", "value": [CANARY]}]},
        {"spec__pods__env": [{"name": "A", "value": CANARY * 400}]},
        {"spec__pods__annotations": CANARY},
        {"spec__pods": [{"env": CANARY}]},
        {"spec": [{"pods": {"env": CANARY}}]},
        {"spec__data__output": f"s3://key:{CANARY}@bucket/x"},
        {"spec__data__output": f"s3://key:{CANARY}/x@bucket/x"},
        {"spec__data__output": f"s3://K:{CANARY}"},
        {"spec__data__output": f"s3://bucket/x?X-Amz-Signature={CANARY}"},
        {"spec__storage": [{"prefix": "s3://aaa", "endpointURL": f"https://key:{CANARY}@host"}]},
        {"spec__storage": [{"prefix": "s3://aaa", "endpointURL": f"https://host/?token={CANARY}"}]},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
def test_problem_of_a_document_repeats_no_secret(change: dict[str, Any]) -> None:
    run, problems = check(json.dumps(changed(**change)))
    assert run is None
    assert CANARY not in "".join(map(str, problems))


@pytest.mark.parametrize(
    "override",
    [
        f"pods.env=[{CANARY}",
        f"spec.train.pods.env.x={CANARY}",
        f"pods.env=[{{value: {CANARY}",
        f"data.output=s3://k:{CANARY}@b",
        f"pods.image.env={CANARY}",
    ],
)
def test_problem_of_an_override_repeats_no_secret(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", write(tmp_path, changed(spec__pods={"image": "recipe:1"})), "--set", override]) == 64
    assert CANARY not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--set", f"pods.env=[{CANARY}]"], [f"--set=spec.train.pods.env=[{CANARY}]"]])
def test_command_to_resume_repeats_no_secret(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diht", "run", "file", *words])
    assert run_command._command().startswith("diht run file --set")
    assert CANARY not in run_command._command()


def test_document_that_leaves_the_process_is_a_valid_one() -> None:
    text = dump(DihtRun.model_validate(document()))
    run, problems = check(text)
    assert problems == []
    assert run is not None
    assert dump(run) == text
    assert CANARY not in text
