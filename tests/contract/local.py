"""What the tests of commands share: a small run document, and the commands `diht` and `torchx` with stub programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.recipe.train import fork_server

TESTS = Path(__file__).resolve().parents[1]

DOCUMENT: dict[str, Any] = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "tiny"},
    "spec": {
        "data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "out"},
        "filter": {"workers": 5},
        "train": {"model": "ViT-B-32", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}},
    },
}
SHARDS = ("a.tar", "b.tar")


def write_run(folder: Path, document: dict[str, Any]) -> None:
    """A document, and shards under the names that it gives them: stub programs do not read them."""
    for name in SHARDS:
        (folder / name).touch()
    (folder / "run.json").write_text(json.dumps(document))


STUBS = {"DIHT_PROGRAMS": "stub_programs", "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
FORKED = "tests.contract.forked"
Stub = Mapping[str, Sequence[Any]]


class Diht:
    """A `diht` that has begun in a folder: a fork, as are the programs that it starts, or `interpreters`."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        stub: Stub | None = None,
        variables: Mapping[str, str] = STUBS,
        interpreters: bool = False,
        modules: Sequence[str] = (FORKED,),
        program: str = FORKED,
    ) -> None:
        env = {**os.environ, **variables, "DIHT_STUB": json.dumps(stub or {})}
        said = tempfile.mkdtemp(prefix="said-", dir=folder)
        self._said = [Path(said, name) for name in ("stdout", "stderr")]
        self.process: subprocess.Popen[Any] | fork_server.Forked
        with self._said[0].open("w") as stdout, self._said[1].open("w") as stderr:
            if interpreters:
                command = [sys.executable, "-P", "-m", "diht_k8s.cli", *words]
                self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=stdout, stderr=stderr)
            else:
                self.process = fork_server.start(
                    program, str(folder), *words, variables=env, modules=modules, stdout=stdout, stderr=stderr
                )

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; exit code, stdout and stderr."""
        code = self.process.wait(300)
        stdout, stderr = (path.read_text() for path in self._said)
        return code, stdout, stderr


TORCHX = Path(sys.executable).with_name("torchx")


def torchx(folder: Path, *arguments: str, interpreters: bool = False) -> subprocess.CompletedProcess[str]:
    variables = {**STUBS, "PATH": "/usr/bin:/bin"}  # no virtual environment is activated
    if interpreters:
        env, command = {**os.environ, **variables, "PYTHONPATH": str(TESTS)}, [TORCHX, *arguments]
        return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=300, check=False)
    found = Diht(folder, *arguments, variables=variables, program=f"{FORKED}:torchx").end()
    return subprocess.CompletedProcess(arguments, *found)


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
