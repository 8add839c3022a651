"""Freezes a release as files of the repository: what the tests of upgrades start from.

    python -m tools.release.freezing v0.1.0

Wheel and chart of a commit, by default the checked-out one, replace those in tests/upgrade/release; `release.json` beside them says
of which version and commit they are. One release is there, the newest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.release.artefacts import CHART, ReleaseError, exported, wheel
from tools.release.programs import WrongModuleError, program
from tools.release.publishing import ROOT
from tools.release.shell import run

FROZEN: Final = ROOT / "tests/upgrade/release"
NOTE: Final = "release.json"
MAX_BYTES: Final = 3_000_000
"""Each release that was frozen stays in git's history."""


def freeze(repository: Path, revision: str, target: Path) -> None:
    """Replace what is in `target` by wheel, chart and note of a commit.

    Raises:
        ReleaseError: they take more than MAX_BYTES; `target` is as before.
        subprocess.CalledProcessError: there is no such commit, or it cannot be built.
    """
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder, "dist")
        dist.mkdir()
        source = exported(repository, Path(folder, "tree"), revision)
        wheel(source, dist)
        run(program("helm"), "package", source.tree / CHART, "--destination", dist)
        note = {"version": source.version, "commit": source.commit}
        (dist / NOTE).write_text(json.dumps(note, indent=1) + "\n")
        size = sum(path.stat().st_size for path in dist.iterdir())
        if size > MAX_BYTES:
            raise ReleaseError(
                f"the frozen release takes {size} bytes, at most {MAX_BYTES}: leave parts of the wheel out"
            )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(dist, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Freeze a commit; returns 1 where that cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.release.freezing", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("revision", nargs="?", default="HEAD", help="tag or commit (HEAD)")
    wanted = parser.parse_args(arguments)
    try:
        freeze(ROOT, wanted.revision, FROZEN)
    except (ReleaseError, WrongModuleError, subprocess.CalledProcessError) as error:
        print(f"freezing: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
