"""Generator of what is made from the models: CRD, reference page, JSON schema for editors; and the chart's CRD,
README and version.

`--check` only compares.

python -m diht_k8s.api.schema.generate [--check] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml

from diht_k8s.api.schema import chart, crd, reference

CRD_FILE: Final = "manifests/crd/diht.dev_dihtruns.yaml"
REFERENCE_FILE: Final = "docs/api.md"
EDITOR_FILE: Final = "docs/dihtrun.schema.json"
_NOTE: Final = "# Generated from diht_k8s/api by `python -m diht_k8s.api.schema.generate`: do not edit.\n"


def files(root: Path) -> dict[str, str]:
    """Each generated file, relative to the project's root, and its text."""
    return {
        CRD_FILE: crd_text(),
        chart.TEMPLATE_FILE: chart.crd_template(_NOTE),
        REFERENCE_FILE: reference.page(),
        EDITOR_FILE: reference.editor_schema(),
        **chart.readme(root),
        **chart.metadata(root),
    }


def crd_text() -> str:
    """The CustomResourceDefinition as YAML."""
    return _NOTE + yaml.safe_dump(crd.definition(), sort_keys=False, width=140, allow_unicode=True)


def stale(root: Path) -> dict[str, str]:
    """The files below `root` that are not what the models give now, with what they give."""
    return {
        name: text
        for name, text in files(root).items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != text
    }


def write(root: Path) -> list[str]:
    """Writes the files that are stale; returns their names."""
    changed = stale(root)
    for name, text in changed.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return list(changed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m diht_k8s.api.schema.generate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is stale")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the project's root (default: this folder)")
    given = parser.parse_args(arguments)
    names = stale(given.root) if given.check else write(given.root)
    for name in names:
        what = "is stale: run python -m diht_k8s.api.schema.generate" if given.check else "written"
        sys.stdout.write(f"{name} {what}\n")
    return 1 if given.check and names else 0


if __name__ == "__main__":
    sys.exit(main())
