"""clip-benchmark as the judge of our figures, in an environment below the user's cache folder.

`judge-requirements.txt` pins numpy 2.3: clip-benchmark fails with 2.4.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = Path(__file__).with_name("judge-requirements.txt")


@dataclass(frozen=True)
class Verdict:
    """What clip-benchmark says, and what it took."""

    metrics: dict[str, float]
    seconds: float
    """wall time of the whole program."""
    cpu_seconds: float
    """CPU time of the program and its loader processes."""


def environment() -> Path:
    """The Python of clip-benchmark's environment, made where it is not there yet (needs the package index)."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = _cache() / f"clip-benchmark-{digest}"
    python, done = folder / "bin" / "python", folder / "installed"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    (packages / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # another checkout may have made it
    if not done.exists():
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)], check=True)
        done.touch()
    return python


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diht-k8s"


def judge(task: str, root: Path, model: Path, output: Path, *, loaders: int = 0, batch: int = 64) -> Verdict:
    """Evaluate a model folder on shards in clip-benchmark's layout, without mixed precision.

    Args:
        task: `zeroshot_classification` or `zeroshot_retrieval`.
        root: folder with `test/*.tar`, `test/nshards.txt` and, for classification, class names and templates.
        model: open_clip folder.
        output: JSON file for its metrics.
        loaders: processes that decode.
        batch: batch size.
    """
    python = environment()
    command = [
        *(str(python), "-m", "clip_benchmark.cli", "eval", "--dataset", "wds/judged", "--dataset_root", str(root)),
        *("--task", task, "--model", f"local-dir:{model}", "--pretrained", "", "--no_amp", "--quiet"),
        *("--output", str(output), "--num_workers", str(loaders), "--batch_size", str(batch)),
        *("--recall_k", "1", "5", "10"),
    ]
    found, seconds, cpu_seconds = timed(command)
    if found.returncode:
        raise RuntimeError(f"clip-benchmark failed: {found.stderr[-2000:]}")
    return Verdict(json.loads(output.read_text())["metrics"], seconds, cpu_seconds)


def timed(command: Sequence[str]) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run a program: how it ended, wall seconds, and CPU seconds of it and all that it started.

    Modules are compiled once for all runs, as in any installation, even where this process was told not to keep them.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPYCACHEPREFIX": str(_cache() / "compiled")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return found, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
