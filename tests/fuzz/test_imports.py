"""Hundreds of hostile sources: no crash, nothing from outside, and every file, row and entry accounted for, always."""

from __future__ import annotations

import contextlib
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import ExitCode
from diht_k8s.cli.main import main
from diht_k8s.data.shards import tar_writer
from tests.fuzz.sources import SECRET, Source, source

FEW = 72
PARTS = 6
MANY = 6_000
ERRORS = (ExitCode.USER_ERROR, ExitCode.BAD_DATA)


def run(made: Source, output: Path) -> tuple[int, str]:
    """Exit code and what was said on stderr, of both streams as one text."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["import", str(made.path), str(output), "--shard-size", "3", *made.options])
    return code, said.getvalue()


def stored(output: Path) -> tuple[list[str], bytes]:
    """Captions in the tars by Python's own reader, and all bytes of the tars."""
    captions, data = [], b""
    for path in sorted(output.glob("*.tar")):
        data += path.read_bytes()
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if member.name.endswith(".txt") and file is not None:
                    captions.append(file.read().decode())
    return captions, data


def problem_of_account(made: Source, marker: dict[str, Any]) -> str | None:
    seen = marker["seen"]
    bad, ignored = (sum(each["count"] for each in tally.values()) for tally in (marker["bad"], seen["ignored"]))
    if seen["count"] != marker["images"] + bad + seen["beside"] + ignored:
        return f"does not add up: {marker}"
    if made.count is not None and seen["count"] != made.count:
        return f"{made.count} lie there, {seen['count']} were seen: {seen}"
    return None


def problem_of(made: Source, root: Path) -> str | None:
    """What an import did wrong, None if all is well."""
    code, said = run(made, root / "out")
    if code in ERRORS:
        if made.captions:
            return f"{len(made.captions)} sound pairs are refused: {said}"
        return f"left a marker: {said}" if (root / "out/COMMITTED.json").exists() else None
    if code != ExitCode.DONE:
        return f"exit code {code}: {said}"
    marker = json.loads((root / "out/COMMITTED.json").read_bytes())
    captions, data = stored(root / "out")
    if SECRET.encode() in data or SECRET in said:
        return "the secret came out"
    if len(captions) != marker["samples"]:
        return f"{len(captions)} pairs in the tars, {marker['samples']} in the marker"
    if missing := Counter(made.captions) - Counter(captions):
        return f"sound pairs are missing: {missing}: {marker['bad']}"
    if len([line for line in said.splitlines() if line.startswith(("left out", "ignored"))]) < len(marker["bad"]):
        return f"not all is said: {said}"
    return problem_of_account(made, marker)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def problem_of_resumption(made: Source, root: Path, rng: random.Random, patch: pytest.MonkeyPatch) -> str | None:
    """Interrupt an import twice, at any record or byte, and finish it: the same files as in one go."""
    for _ in range(2):
        left = iter(range(rng.randrange(1, 12)))

        def end(*arguments: Any, write: Any = tar_writer.ContentDigest.write, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return write(*arguments)

        with patch.context() as patched:
            patched.setattr(tar_writer.ContentDigest, "write", end)
            code, said = run(made, root / "again")
        if code not in (ExitCode.STOPPED, ExitCode.DONE):
            return f"exit code {code}: {said}"
    code, said = run(made, root / "again")
    return None if code == 0 and tree(root / "again") == tree(root / "out") else f"not the same after two ends: {said}"


def problems(seeds: range, root: Path, patch: pytest.MonkeyPatch) -> list[str]:
    found = []
    for seed in seeds:
        place = root / str(seed)
        place.mkdir()
        made = source(seed, place)
        try:
            problem = problem_of(made, place)
            if problem is None and (place / "out/COMMITTED.json").exists():
                problem = problem_of_resumption(made, place, random.Random(seed), patch)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            found.append(f"seed {seed} ({made.kind}): {problem}")
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_everything_in_a_source_is_accounted_for(tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(range(part, FEW, PARTS), tmp_path, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_everything_in_many_sources_is_accounted_for(
    tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = FEW + part * MANY // 10
    assert problems(range(begin, begin + MANY // 10), tmp_path, monkeypatch) == []
