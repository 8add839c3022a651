"""The tree as a stranger's clone has it, and the wheel that it builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked_tree(folder: Path) -> Path:
    """The files that git knows here, as a stranger's clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", ":!examples/data", ":!tests"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def build_wheel(tree: Path) -> Path:
    """The wheel of a tree, in its `dist`, as `make wheel` makes it: its files carry the commit's time."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=tree, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    return next((tree / "dist").glob("diht_k8s-*.whl"))
