"""What a user may give by mistake to each command: one line on stderr and the exit code 64, never a traceback."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.cli.main import main

RUN = """\
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: small}
spec:
  data: {sources: [{name: web, shards: ["a.tar"]}], output: out}
  filter: {}
  label: {}
"""
CLUSTER_RUN = RUN.replace("a.tar", "s3://corpus/a.tar").replace("output: out", "output: s3://corpus/out")
NO_FILE = "cannot read the run document absent: No such file or directory: check the path"
NO_DOCUMENT = "a run document is a mapping with apiVersion, kind, metadata and spec"
NO_REPORT = "has no report of the stage evaluate: run that stage first, or name a report.json"
NOT_A_REPORT = "is not a report of the stage evaluate: give a run's output folder, or its report.json"
NOT_A_MODEL = "is not a model: give a folder with open_clip_config.json or a checkpoint file that exists"
DOCUMENT_COMMANDS = (
    ["run"],
    ["validate"],
    ["plan"],
    ["submit"],
    ["sweep", "--seeds", "2"],
    ["concepts"],
    ["purge", "--exclude", "uids"],
    ["stage", "filter", "--run"],
)
CLUSTER_COMMANDS = (
    ["watch", "x"],
    ["logs", "x"],
    ["retry", "x"],
    ["cancel", "x"],
    ["submit", "cluster.yaml"],
    ["sweep", "cluster.yaml", "--submit", "--seeds", "2"],
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder with what the tests name; signals, which `diht stage` handles, stay those of pytest."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr("diht_k8s.cli.stage.end_with_parent", lambda: None)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "cluster.yaml").write_text(CLUSTER_RUN)
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "COMMITTED.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "config": {}}))
    (tmp_path / "bytes").write_bytes(bytes(range(128, 256)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "open_clip_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    for variable in ("KUBERNETES_SERVICE_HOST", "DIHT_RUN", "DIHT_WORKER", "DIHT_WORKERS"):
        monkeypatch.delenv(variable, raising=False)
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def check_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code = main(arguments)
    stderr = capsys.readouterr().err
    assert (code, stderr.count("\n")) == (64, 1), stderr
    assert message in stderr


@pytest.mark.parametrize("command", DOCUMENT_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("file", "message"),
    [
        pytest.param("absent", NO_FILE, id="missing"),
        pytest.param("empty", "cannot read the run document empty: Is a directory: check the path", id="folder"),
        pytest.param("text.txt", NO_DOCUMENT, id="text"),
        pytest.param("list.json", NO_DOCUMENT, id="list"),
        pytest.param("bytes", "bytes is not UTF-8 text", id="bytes"),
    ],
)
def test_file_that_is_no_run_document(
    capsys: pytest.CaptureFixture[str], command: list[str], file: str, message: str
) -> None:
    if command == ["concepts"] and file == "empty":  # a run's output folder does as well
        message = "empty has no vocabulary: run the stage label of this run first"
    check_one_line(capsys, [*command, file], message)


@pytest.mark.parametrize("command", CLUSTER_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("absent", "no cluster: Invalid kube-config file"),
        ("empty", "cannot read the kubeconfig (IsADirectoryError"),
        ("bytes", "cannot read the kubeconfig (UnicodeDecodeError"),
        ("text.txt", "kube"),
    ],
)
def test_command_of_the_cluster_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], config: str, message: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", config)
    check_one_line(capsys, command, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "absent"], f"absent {NO_REPORT}"),
        (["report", "empty"], f"empty {NO_REPORT}"),
        (["report", "text.txt"], f"text.txt {NO_REPORT}"),
        (["report", "list.json"], f"list.json {NOT_A_REPORT}"),
        (["report", "object.json"], f"object.json {NOT_A_REPORT}"),
        (["report", "COMMITTED.json"], f"COMMITTED.json {NOT_A_REPORT}"),
        (["benchmarks", "absent"], "absent is not a folder: name the folder that holds the benchmarks"),
        (["benchmarks", "text.txt"], "text.txt is not a folder: name the folder that holds the benchmarks"),
        (["benchmarks", "--yaml"], "--yaml needs a ROOT"),
        (["benchmarks", "--yaml", "empty"], "empty holds no complete benchmark of diht29"),
        (["benchmarks", "--list", "diht92"], "did you mean diht29?"),
        (["benchmarks", "--only", "imagenet1"], "did you mean imagenet"),
        (["convert", "absent.pt", "out"], f"absent.pt {NOT_A_MODEL}"),
        (["convert", "empty", "out"], f"empty {NOT_A_MODEL}"),
        (["convert", "text.txt", "out"], f"text.txt {NOT_A_MODEL}"),
        (["convert", "model", "out"], "model holds open_clip_config.json but no weights"),
        (["concepts", "run.yaml"], "run.yaml has no vocabulary: run the stage label of this run first"),
        (["purge", "run.yaml", "--exclude", "absent"], "cannot read absent: it does not exist"),
        (["purge", "run.yaml", "--exclude", "empty"], "cannot read empty: Is a directory"),
        (["purge", "run.yaml", "--exclude", "bytes"], "bytes is not UTF-8 text"),
        (["run", "run.yaml", "--until", "train"], "--until train: the run has no such stage"),
        (["stage", "filter"], "no run document: give --run FILE, or set DIHT_RUN to one"),
        (["stage", "filter", "--run", "run.yaml", "--worker", "2", "--workers", "2"], "worker 2 of 2 workers"),
        (["stage", "filter", "--run", "run.yaml", "--step", "wait"], "--step wait: the stage filter has no such step"),
        (["stage", "label", "--run", "run.yaml", "--step", "wait"], "--step wait: the stage label has no such step"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_argument_that_is_something_else(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    check_one_line(capsys, arguments, message)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (
            ["run", "run.yaml", "--untill", "train"],
            "diht run: error: unrecognized option --untill: did you mean --until?",
        ),
        (["run", "run.yaml", "--untill=train"], "unrecognized option --untill: did you mean --until?"),
        (
            ["import", "a", "b", "--caption-col", "c"],
            "unrecognized option --caption-col: did you mean --caption-column?",
        ),
        (["benchmarks", "import", "a", "b", "--templ", "c"], "unrecognized option --templ: did you mean --templates?"),
        (["run", "run.yaml", "--xyzzy"], "unrecognized option --xyzzy: see --help"),
        (
            ["run", "run.yaml", "--set", "a=1", "b=2"],
            "unrecognized argument b=2: repeat --set for each field (--set b=2)",
        ),
        (["doctor", "run.yaml", "other"], "diht doctor: error: unrecognized argument other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_argument_that_a_command_does_not_have(
    capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    stderr = capsys.readouterr().err
    assert (ended.value.code, hint in stderr) == (64, True), stderr


@pytest.mark.parametrize("variable", ["DIHT_WORKER", "DIHT_WORKERS"])
@pytest.mark.parametrize("value", ["x", "-1", "²", pytest.param("9" * 5000, id="long"), ""])
def test_environment_of_a_worker_that_is_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    check_one_line(capsys, ["stage", "filter", "--run", "run.yaml"], f"{variable}={value[:800]}")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("pars", "unknown command 'pars': did you mean parse?"),
        ("benchmark", "unknown command 'benchmark': did you mean benchmarks?"),
        ("xyzzy", "unknown command 'xyzzy': `diht --help` lists the commands"),
    ],
)
def test_command_that_does_not_exist(capsys: pytest.CaptureFixture[str], word: str, hint: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word])
    stderr = capsys.readouterr().err
    assert (ended.value.code, hint in stderr, "benchmarks-import" in stderr) == (64, True, False), stderr
