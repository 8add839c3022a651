"""The documentation site for tests: built into a folder, and what newcomers search in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = {
    "resume interrupted run": "how-to/resume-elsewhere.html",
    "out of memory": "troubleshooting.html",
    "own images": "tutorial/own-images.html",
    "exit code 64": "troubleshooting.html",
    "cpu torch": "packages.html",
    "takedown": "how-to/takedown.html",
    "kueue": "how-to/kueue.html",
    "s3 credentials": "how-to/s3.html",
    "compare runs": "tutorial/compare-runs.html",
    "minActions": "api.html",
    "install operator helm": "install.html",
    "hard negatives beta": "concepts.html",
    "no space left": "how-to/free-space.html",
    "how long does training take": "how-to/gpu-nodes.html",
    "delete an image": "how-to/takedown.html",
    "topK too large": "troubleshooting.html",
    "minio": "how-to/s3.html",
    "export to hugging face transformers": "how-to/evaluation-only.html",
    "several GPUs": "how-to/gpu-nodes.html",
    "free disk": "how-to/free-space.html",
    "elastic nodes": "operations.html",
    "hyperparameter sweep": "how-to/sweep.html",
}
"""What a newcomer types -> the page that answers it."""


def build(folder: Path) -> str:
    """Build the site strictly; what mkdocs says."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr
