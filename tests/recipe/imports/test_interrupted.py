"""An import that is stopped or killed: one line, nothing half-written for long, and the same bytes in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import ExitCode, RetryableError
from diht_k8s.cli.main import main
from diht_k8s.data.imports import pair_import
from diht_k8s.data.lease import WorkLease
from diht_k8s.data.shards.storage import Storage
from tests.recipe.imports.loose_pairs import in_folder
from tests.recipe.imports.outputs import imported, pairs, tree

COMMAND = "import sys; from diht_k8s.cli.main import main; sys.exit(main(sys.argv[1:]))"
IMAGES = 600


def many(folder: Path) -> Path:
    """Images in numbers that take a second or two."""
    in_folder(folder, 1)
    for number in range(1, IMAGES):
        for suffix in (".jpg", ".txt"):
            os.link(folder / f"0000{suffix}", folder / f"{number:04d}{suffix}")
    return folder


def interrupted(source: Path, output: Path, number: signal.Signals, when: Callable[[], bool]) -> tuple[int, str]:
    """Exit code and stderr of an import that gets a signal at some moment."""
    arguments = [sys.executable, "-c", COMMAND, "import", str(source), str(output), "--shard-size", "60"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while process.poll() is None and not when():
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        return process.returncode, said


def temporary(output: Path) -> list[Path]:
    return sorted(output.rglob(".*.tmp"))


def test_import_when_asked_to_stop_says_so_in_one_line_and_resumes(tmp_path: Path) -> None:
    source, output = many(tmp_path / "in"), tmp_path / "out"
    code, said = interrupted(source, output, signal.SIGTERM, (output / "00001.tar").exists)
    assert (code, said.strip().splitlines()[-1]) == (
        ExitCode.STOPPED,
        "diht: stopped on request; finished shards are kept: start again to resume",
    )
    assert "Traceback" not in said
    assert temporary(output) == []
    assert not (output / "COMMITTED.json").exists()
    assert imported(source, output, "--shard-size", "60")["samples"] == IMAGES
    imported(source, tmp_path / "whole", "--shard-size", "60")
    assert tree(output) == tree(tmp_path / "whole")


def test_check_of_shards_when_asked_to_stop_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(in_folder(tmp_path / "in", 1), source := tmp_path / "shards")
    capsys.readouterr()
    monkeypatch.setattr(pair_import, "read_samples", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody heeds SIGTERM"))
    try:
        assert main(["import", str(source), str(tmp_path / "out")]) == ExitCode.STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.strip().splitlines()[-1] == "diht: stopped on request; nothing was written"


def test_import_when_stopped_between_the_making_of_a_file_and_its_use_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output, made = in_folder(tmp_path / "in", 1), tmp_path / "out", tempfile.mkstemp

    def interrupted_in(*arguments: Any, **options: Any) -> Any:
        found = made(*arguments, **options)
        if "lease" not in options["prefix"]:  # a half lease goes with the next import
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(tempfile, "mkstemp", interrupted_in)
    assert main(["import", str(source), str(output)]) == ExitCode.STOPPED
    assert temporary(output) == []


def test_import_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    source, output = many(tmp_path / "in"), tmp_path / "out"
    for _ in range(20):
        interrupted(source, output, signal.SIGKILL, lambda: bool(temporary(output)))
        if temporary(output):
            break
    assert temporary(output)
    foreign = [output / ".notes.abcdefgh.tmp", output / ".00000.tar.short.tmp", output / ".99999.tar.abcdefgh.tmp"]
    for path in (*foreign, output / ".COMMITTED.json.abcdefgh.tmp", output / "import/.3.json.abcd_fgh.tmp"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert imported(source, output, "--shard-size", "60")["samples"] == IMAGES
    assert temporary(output) == sorted(foreign)
    assert len(pairs(output)) == IMAGES


def test_import_waits_for_nobody_where_another_writes_on_any_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output, owner = in_folder(tmp_path / "in", 1), tmp_path / "out", "from diht_k8s.data.lease import *; "
    half = output / ".00000.tar.abcdefgh.tmp"
    with subprocess.Popen(
        [sys.executable, "-c", owner + "print(this_process(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        holder = {"owner": other.stdout.readline().strip()}
        assert WorkLease(Storage(), f"{output}/lease.json", holder).take()
        half.write_bytes(b"x")
        assert main(["import", str(source), str(output)]) == RetryableError.exit_code
        other.communicate("\n")
    assert "another import writes to" in capsys.readouterr().err
    assert half.exists()
    imported(source, output)
    assert not half.exists()
    assert not (output / "lease.json").exists()
