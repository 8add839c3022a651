"""Puts the schema, the CRD, the samples and the chart into the wheel, from the folders where they live in the
repository.

setuptools calls `BuildPy` (`cmdclass` in pyproject.toml). `diht_k8s.cli.packaged` reads the files in the wheel, or in
the repository where the package is installed in place, so git holds one copy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from setuptools.command.build_py import build_py

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGED: Final = ("docs/dihtrun.schema.json", "manifests/crd", "manifests/samples", "helm/diht-operator")
"""Files and folders of the repository; they have the same paths below `diht_k8s/packaged` in the wheel."""


class BuildPy(build_py):
    """setuptools' own step, and these files."""

    def run(self) -> None:
        """Copy the package, then the files; an installation in place reads them where they are."""
        super().run()
        if not self.editable_mode:
            copy_files(ROOT, Path(self.build_lib) / "diht_k8s" / "packaged")


def copy_files(root: Path, target: Path) -> None:
    """Copy `PACKAGED` below `root` to `target`, which is emptied first.

    Raises:
        FileNotFoundError: the tree lacks one of them.
    """
    shutil.rmtree(target, ignore_errors=True)
    for name in PACKAGED:
        source, copy = root / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy)
