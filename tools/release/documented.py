"""The commands of docs/install.md by which a user checks a release. A release runs them before it is done, word by
word.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from tools.release.programs import program
from tools.release.shell import run

HEADING: Final = "## Verify a release"
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> str:
    """The block of commands below the heading.

    Raises:
        ValueError: there is none, or more than one.
    """
    section = page.partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]
    found = _BLOCK.findall(section)
    if len(found) != 1:
        raise ValueError(f"docs/install.md has {len(found)} blocks of commands (```sh) below {HEADING!r}, not one")
    return found[0]


def verify(page: str, dist: Path, registry: str, key: Path) -> None:
    """Run them in the folder with the files of a release.

    Raises:
        subprocess.CalledProcessError: something is not what was signed.
    """
    path = f"{program('cosign').parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"REGISTRY": registry, "KEY": str(key.resolve()), "PATH": path}
    run("bash", "-euo", "pipefail", "-c", commands(page), cwd=dist, env=environment)
