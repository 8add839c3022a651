"""The outputs of commit 980d9c5 in the archive of fixtures."""

from __future__ import annotations

from pathlib import Path

ARCHIVE = Path(__file__).parent / "fixtures" / "outputs-980d9c5.tar.xz"


MODIFIED = 1_700_000_000
"""Time of change of the shards when they were filtered: it is their identity on a disk."""
