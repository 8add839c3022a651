"""Signals reach their handlers after OpenVINO's networks are unloaded."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal
from PIL import Image
from diht_k8s.stages.filter import TextSpotter

signal.signal(signal.SIGTERM, lambda *_: print("stopped in good order"))
spotter = TextSpotter()
spotter.spot(Image.new("RGB", (64, 64)))
del spotter
signal.raise_signal(signal.SIGTERM)
"""


def test_signal_after_the_spotter_is_deleted_reaches_its_handler() -> None:
    """Plugins restored signal stacks in the wrong order, and the signal ended the process by SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "stopped in good order\n"), done.stderr[-500:]
