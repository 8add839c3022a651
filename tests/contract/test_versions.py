"""One version everywhere: chart, definition, images, samples, citation and pages name that of the package."""

from __future__ import annotations

import re
from pathlib import Path

from diht_k8s import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "examples", "helm", "images", "manifests")
SUFFIXES = (".cff", ".md", ".yaml", ".Containerfile")
OURS = re.compile(
    r"diht-(?:operator|recipe):(\d[\w.]*\w)"
    r"|diht_k8s-(\d[\w.]*\w)-py3"
    r"|diht-operator, newTag: (\d[\w.]*\w)"
    r"|(?m:^ARG VERSION=(\S+)$)"
    r"|(?m:^(?:version|appVersion): (\d\S*)$)"
    r"|(?m:^ +diht\.dev/version: (\S+)$)"
    r"|diht-operator-(\d[\w.]*\w)\.tgz"
    r"|(?m:^VERSION=(\S+))"
)
"""An image of ours, the wheel, a tag in a kustomization, the label of an image, chart and citation, the definition, the
packed chart, a variable in a command of the docs.
"""


def versions(text: str) -> list[str]:
    """The versions of this project that a text names."""
    return [next(filter(None, found)) for found in OURS.findall(text)]


def test_files_that_name_a_version_of_ours_name_that_of_the_package() -> None:
    paths = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    files = [path for path in paths if path.suffix in SUFFIXES]
    found = {path.relative_to(ROOT).as_posix(): versions(path.read_text(encoding="utf-8")) for path in files}
    named = {path: set(each) for path, each in found.items() if each}
    assert {
        "helm/diht-operator/Chart.yaml",
        "images/recipe.Containerfile",
        "docs/install.md",
        "README.md",
        "CITATION.cff",
        "manifests/crd/diht.dev_dihtruns.yaml",
        "helm/diht-operator/templates/crd/diht.dev_dihtruns.yaml",
    } <= named.keys()
    assert {path: each for path, each in named.items() if each != {__version__}} == {}
