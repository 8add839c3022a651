"""Owners whose process has ended."""

from __future__ import annotations

import subprocess
import sys


def ended_process() -> str:
    """An owner whose process has ended."""
    code = "from diht_k8s.runtime.owner import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
