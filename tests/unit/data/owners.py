"""Owners whose process has ended."""

from __future__ import annotations

import subprocess
import sys

CODE = "from diht_k8s.data.lease import this_process; print(this_process())"


def ended_process() -> str:
    """An owner whose process has ended."""
    return subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.strip()
