"""The `diht` command: usage, validate, stage; what needs the recipe is tested elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli import main as main_module
from diht_k8s.cli import stage as stage_module
from diht_k8s.cli.arguments import STAGES
from diht_k8s.cli.main import main
from tests.unit.api.documents import changed

GOOD = """\
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: laion-cat}
spec:
  data:
    sources: [{name: web, shards: ["a.tar"]}]
    output: runs/a
  filter: {minActions: 0}
  train:
    model: ViT-B-16
    samples: 16000000000
    distillation: {mode: Disabled}
    optimizer: {lr: 5e-4}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["stage", "bogus"], ["run"], ["run", "x", "--until", "bogus"]])
def test_wrong_usage_is_a_user_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 64
    assert "usage: diht" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from diht_k8s.cli import main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "pydantic", "yaml", "rich", "torchx", "fsspec", "spacy", "numpy"}
    assert heavy & set(json.loads(done.stderr.replace("'", '"'))) == set()


def test_line_about_the_system_goes_to_stderr_and_the_command_still_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main_module, "platform_note", lambda _: "a line\n")
    assert main(["crd"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "a line\n"
    assert captured.out.startswith("#")


def test_purge_imports_no_parser() -> None:
    code = "import sys, diht_k8s.cli.corpus, diht_k8s.outputs.takedown; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert {"spacy", "torch"} & set(done.stdout.split()) == set()


def test_stages_of_the_parser_are_those_of_the_run_document() -> None:
    assert tuple(Stage) == STAGES


def test_validate_names_the_pod_security_level_and_each_field_that_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path,
        f"""{GOOD}
  pods:
    volumes: [{{name: share, nfs: {{server: nfs.example.org, path: /x}}}}]
    securityContext:
      capabilities: {{add: [IPC_LOCK]}}
""",
    )
    assert main(["validate", path, "--set", "train.pods.hostNetwork=true"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("output runs/a, Pod Security privileged\n")
    lines = [
        line.removeprefix(f"{path}: ").partition(": ")[2] for line in shown.err.splitlines() if "relative" not in line
    ]
    assert lines[0].startswith(
        "line 18: spec.pods.securityContext.capabilities.add: capabilities take effect for root only"
    )
    assert lines[1:] == [
        "spec.pods.volumes[0].nfs: needs Pod Security baseline (restricted volume types)",
        "spec.pods.securityContext.capabilities.add[0]: needs Pod Security privileged (capability IPC_LOCK)",
        "spec.train.pods.hostNetwork: needs Pod Security privileged (host namespaces)",
    ]


@pytest.mark.parametrize(
    ("context", "warned"),
    [
        ("{capabilities: {add: [IPC_LOCK]}}", True),
        ("{capabilities: {add: [IPC_LOCK]}, runAsUser: 0, runAsNonRoot: false}", False),
        ("{capabilities: {add: [IPC_LOCK]}, privileged: true}", False),
        ("{capabilities: {drop: [ALL]}}", False),
    ],
)
def test_validate_warns_of_capabilities_that_the_containers_user_cannot_use(
    context: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, f"{GOOD}\n  pods: {{securityContext: {context}}}\n")
    assert main(["validate", path]) == 0
    assert ("warning: " in (err := capsys.readouterr().err) and "take effect for root only" in err) == warned


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("optimizer", "optimzer", "line 13: spec.train.optimzer: unknown key; did you mean optimizer?"),
        ("16000000000", "many", 'line 11: spec.train.samples: expected a whole number, got "many"'),
        (
            "minActions: 0",
            "minActions: -1",
            "line 8: spec.filter.minActions: expected a number of at least 0",
        ),
        ("mode: Disabled", "mode: Concept", "line 12: spec.train.distillation.mode: "),
        ("kind: DihtRun", "kind: DihtRun\nkind: DihtRun", "line 3: the key 'kind' appears twice in one mapping"),
    ],
)
def test_validate_of_a_wrong_document_names_line_field_and_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, problem: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    assert main(["validate", path]) == 64
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"{path}: {problem}")


@pytest.mark.parametrize("command", [["validate"], ["run"], ["stage", "filter", "--run"]])
def test_a_document_that_is_not_there_is_a_user_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, str(tmp_path / "nowhere.yaml")]) == 64
    assert "nowhere.yaml: No such file or directory: check the path" in capsys.readouterr().err


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Calls of run_stage in place of a real stage; signal handlers are left alone."""
    calls: list[Any] = []

    def run_stage(program: object, run: DihtRun, stage: Stage, **options: Any) -> None:
        calls.append((run, stage, options["worker"], options["workers"]))
        if run.metadata.name == "fails":
            raise DataError("three of four samples are bad")

    monkeypatch.setattr(stage_module, "run_stage", run_stage)
    monkeypatch.setattr(stage_module, "program_of", lambda stage: stage)
    monkeypatch.setattr(stage_module.StopFlag, "install", lambda self: self)
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "cause.json"))
    for variable in ("DIHT_RUN", "DIHT_WORKER", "DIHT_WORKERS"):
        monkeypatch.delenv(variable, raising=False)
    return calls


def test_stage_takes_document_and_worker_from_the_environment(
    called: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_RUN", json.dumps(changed()))
    monkeypatch.setenv("DIHT_WORKER", "2")
    monkeypatch.setenv("DIHT_WORKERS", "4")
    assert main(["stage", "label"]) == 0
    ((_, stage, worker, workers),) = called
    assert (stage, worker, workers) == (Stage.LABEL, 2, 4)


def test_stage_takes_a_file_and_options_before_the_environment(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIHT_RUN", json.dumps(changed(metadata__name="other")))
    path = write(tmp_path, GOOD)
    assert main(["stage", "train", "--run", path, "--set", "seed=5", "--worker", "0", "--workers", "1"]) == 0
    ((run, *_),) = called
    assert (run.metadata.name, run.spec.seed) == ("laion-cat", 5)


def test_stage_that_fails_ends_with_its_code_and_leaves_the_cause(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIHT_RUN", json.dumps(changed(metadata__name="fails")))
    assert main(["stage", "filter"]) == 65
    assert capsys.readouterr().err == "diht: three of four samples are bad\n"
    cause = json.loads((tmp_path / "cause.json").read_text())
    assert (cause["exit_code"], cause["reason"]) == (65, "DataError")


@pytest.mark.parametrize("options", [["--worker", "2", "--workers", "2"], ["--worker", "-1"], ["--workers", "0"]])
def test_stage_with_an_impossible_worker_is_a_user_error(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("DIHT_RUN", json.dumps(changed()))
    assert (main(["stage", "filter", *options]), called) == (64, [])


def test_stage_without_a_document_says_how_to_give_one(called: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", "filter"]) == 64
    assert capsys.readouterr().err == "diht: no run document: give --run FILE, or set DIHT_RUN to one\n"


def test_stage_finds_the_master_that_torchx_names(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIHT_RUN", json.dumps(changed()))
    monkeypatch.setenv("DIHT_MASTER_VARIABLE", "RANK0")
    monkeypatch.setenv("RANK0", "a-run-train-1-0.a-run")
    monkeypatch.delenv("DIHT_MASTER", raising=False)
    assert main(["stage", "train"]) == 0
    assert stage_module.os.environ.pop("DIHT_MASTER") == "a-run-train-1-0.a-run"
