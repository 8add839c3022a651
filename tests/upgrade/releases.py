"""The frozen release, and one that may come after it: the tree with a few changes as a next version brings them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from diht_k8s.api.run import Stage
from tools.release.freezing import FROZEN, NOTE
from tools.release.publishing import ROOT

VERSION: Final[str] = json.loads((FROZEN / NOTE).read_text())["version"]
COMMIT: Final[str] = json.loads((FROZEN / NOTE).read_text())["commit"]
WHEEL: Final = FROZEN / f"diht_k8s-{VERSION}-py3-none-any.whl"
CHART: Final = FROZEN / f"diht-operator-{VERSION}.tgz"
NEXT: Final = "99.0.0"
NEW_FIELD: Final = "tomorrow"
"""A field that the next release adds to spec.filter, to the status, and to each of its stages."""
NEW_ANNOTATION: Final = "diht.dev/tomorrow"
"""An annotation that the next release adds to the Jobs that it creates."""
Change = tuple[str, str, str]
"""File, what is replaced (a regular expression), by what."""
VERSIONS: Final = "diht_k8s/api/hashing.py"


def frozen_version(stage: Stage) -> int:
    """The version of a stage's results in the frozen release."""
    with zipfile.ZipFile(WHEEL) as wheel:
        found = re.search(rf"\bStage\.{stage.name}: (\d+)", wheel.read(VERSIONS).decode())
    assert found, f"{VERSIONS} of the frozen release has no {stage}"
    return int(found[1])


def same_results(stage: Stage) -> Change:
    """A stage gives the frozen release's results, though the tree may give others by now."""
    return VERSIONS, rf"\bStage\.{stage.name}: \d+", f"Stage.{stage.name}: {frozen_version(stage)}"


def other_results(stage: Stage) -> Change:
    """A stage gives other results from then on."""
    return VERSIONS, rf"\bStage\.{stage.name}: \d+", "\\g<0>0"


CHANGES: Final[tuple[Change, ...]] = (
    ("diht_k8s/__init__.py", r'(?m)^__version__ = ".+"$', f'__version__ = "{NEXT}"'),
    (
        "diht_k8s/api/filter.py",
        r"(?m)^    min_actions: ",
        f'    {NEW_FIELD}: bool = False\n    """{NEW_FIELD} is of the next release."""\n\\g<0>',
    ),
    (
        "diht_k8s/api/status.py",
        r"(?m)^class (StageStatus|Status)\(StatusModel\):\n    .*\n",
        f'\\g<0>\n    {NEW_FIELD}: ShortText = ""\n    """{NEW_FIELD} is of the next release."""',
    ),
    ("diht_k8s/controller/status_builder.py", r"\b(StageStatus|Status)\(\n", f'\\g<0>{NEW_FIELD}="{NEXT}",\n'),
    (
        "diht_k8s/controller/job_builder.py",
        r"(?m)^    for job in .*:\n",
        f'\\g<0>        job["metadata"].setdefault("annotations", {{}})["{NEW_ANNOTATION}"] = "{NEXT}"\n',
    ),
    *map(same_results, (Stage.FILTER, Stage.LABEL, Stage.TRAIN)),
    other_results(Stage.EVALUATE),
)
"""What the next release changes. A change that finds nothing fails: adapt it to the code."""


def unpacked(folder: Path) -> Path:
    """The frozen wheel's files below a folder, for PYTHONPATH; its packages are those of this environment."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return folder


def next_release(folder: Path, *more: Change) -> Path:
    """Write the tree with CHANGES and more below a folder, for PYTHONPATH; its chart is `helm/diht-operator` there."""
    for name in ("diht_k8s", "components", "helm", "manifests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, pattern, replacement in (*CHANGES, *more):
        text, found = re.subn(pattern, replacement, (folder / name).read_text())
        assert found, f"the next release cannot be made: {name} has no {pattern}"
        (folder / name).write_text(text)
    command = [sys.executable, "-P", "-m", "diht_k8s.api.schema.generate", "--root", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)})
    return folder
