"""Documents that nobody should send: each ends with 64 and a few lines, never with a traceback or without an end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diht_k8s.cli.main import main

GOOD = """\
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: small}
spec:
  data: {sources: [{name: web, shards: ["a.tar"]}], output: out}
  filter: {}
  seed: 1
"""
INTEGER = "spec.seed: expected a whole number, got"


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        pytest.param("0x_", f'line 7: {INTEGER} "0x_"', id="hexadecimal without a digit"),
        pytest.param("0b_", f'line 7: {INTEGER} "0b_"', id="binary without a digit"),
        pytest.param("0o_", f'line 7: {INTEGER} "0o_"', id="octal without a digit"),
        pytest.param("9" * 5000, f'line 7: {INTEGER} "999', id="more digits than a number has"),
        pytest.param("9" * 310, f'line 7: {INTEGER} "999', id="more than a float holds"),
        pytest.param("1e999", f'line 7: {INTEGER} "1e999"', id="exponent beyond a float"),
        pytest.param(r'"\ud800"', "line 7: half a surrogate pair is not a character", id="lone surrogate"),
    ],
)
def test_value_that_is_no_number_is_one_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: str, message: str
) -> None:
    path = write(tmp_path, GOOD.replace("seed: 1", f"seed: {seed}"))
    assert main(["validate", path]) == 64
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"{path}: {message}")
    assert (stderr.count("\n"), len(stderr) < 400) == (1, True)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param(r'"a\nb": 1', r"spec.a\nb: unknown key", id="line break in a key"),
        pytest.param(r'"\u202e": 1', r"spec.\u202e: unknown key", id="right-to-left mark in a key"),
        pytest.param(r'"\x1b[2J": 1', r"spec.\x1b[2J: unknown key", id="escape sequence in a key"),
        pytest.param(r'suspend: "\u2028"', r'got "\u2028"', id="line separator in a value"),
        pytest.param("k" * 1000 + ": 1", "kkk...", id="long key"),
        pytest.param(r"!!binary aGk=: 1", "a tag is not allowed here", id="tag of a key"),
        pytest.param("\x07: 1", r"the character '\x07' is not allowed in YAML", id="control character"),
    ],
)
def test_problem_is_one_printable_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, shown: str
) -> None:
    assert main(["validate", write(tmp_path, f"{GOOD}  {line}\n")]) == 64
    stderr = capsys.readouterr().err.removesuffix("\n")
    assert shown in stderr
    assert (stderr.isprintable(), len(stderr) < 2000) == (True, True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=[", "--set seed=[: "),
        ('filter.exclude="', '--set filter.exclude=": '),
        ("data.sources.²=1", "--set data.sources.²=1: data.sources is a list of 1: write an index below that"),
        ("data.output=\udcff", "--set data.output=\\udcff: not UTF-8 text"),
        ("data.\udcff=1", "--set data.\\udcff=1: not UTF-8 text"),
        (r'data.output="\ud800"', '--set data.output="\\ud800": '),
        ("seed=[\n]]", r"--set seed=[\n]]: line 2: "),
        ("seed.\x1b[2J=1", r"--set seed.\x1b[2J=1: seed is not a mapping"),
    ],
)
def test_override_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["validate", write(tmp_path, GOOD), "--set", override]) == 64
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"diht: {message}")
    assert stderr.count("\n") == 1


def test_of_many_problems_the_first_fifty_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = ", ".join(["{nam: x}"] * 2000)
    path = write(tmp_path, GOOD.replace('[{name: web, shards: ["a.tar"]}]', f"[{sources}]"))
    assert main(["validate", path]) == 64
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 51
    assert lines[0] == f"{path}: line 5: spec.data.sources[0].name: is missing: add it"
    assert lines[-1] == f"{path}: and 3,950 more problems"
    assert main(["plan", path]) == 64
    assert len(capsys.readouterr().err.splitlines()) == 51


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
def test_path_that_is_no_document_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.yaml"
    if kind == "device":
        path = Path("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "diht_k8s.cli", "validate", str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    message = {"folder": "Is a directory", "large": "is larger than 4 MiB"}.get(kind, "is not a regular file")
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert message in done.stderr


def test_dash_reads_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "diht_k8s.cli", "validate", "-"],
        input=GOOD,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (
        0,
        "-: valid: run small, stages filter, output out, Pod Security restricted\n",
    )


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (GOOD.replace("  filter", "\tfilter"), [], "line 6: column 1: a tab: indent by spaces"),
        (f"{GOOD}---\n{GOOD}", [], "another document begins: a file holds one, remove what follows ---"),
        (GOOD, ["--set", "metadata.name=x"], "--set metadata.name=x: only fields of spec are set: edit the document"),
    ],
    ids=["tab", "two documents", "override outside of spec"],
)
def test_document_that_a_person_mistook_is_told_what_to_do(
    text: str, overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", write(tmp_path, text), *overrides]) == 64
    assert message in capsys.readouterr().err
