"""One version everywhere: chart, images, samples and pages name that of the package."""

from __future__ import annotations

import re
from pathlib import Path

from diht_k8s import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "examples", "helm", "images", "manifests")
OURS = re.compile(
    r"diht-(?:operator|recipe):(\d[\w.]*\w)"
    r"|diht_k8s-(\d[\w.]*\w)-py3"
    r"|diht-operator, newTag: (\d[\w.]*\w)"
    r"|(?m:^ARG VERSION=(\S+)$)"
    r"|(?m:^(?:version|appVersion): (\d\S*)$)"
)
"""An image of ours, the wheel, a tag in a kustomization, the label of an image, the chart."""


def versions(text: str) -> list[str]:
    """The versions of this project that a text names."""
    return [next(filter(None, found)) for found in OURS.findall(text)]


def test_files_that_name_a_version_of_ours_name_that_of_the_package() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".yaml", ".Containerfile")]  # fmt: skip
    found = {path.relative_to(ROOT).as_posix(): versions(path.read_text(encoding="utf-8")) for path in files}
    named = {path: set(each) for path, each in found.items() if each}
    assert {"helm/diht-operator/Chart.yaml", "images/recipe.Containerfile", "docs/install.md"} <= named.keys()
    assert {path: each for path, each in named.items() if each != {__version__}} == {}
