"""Generator of what is made from the models: CRD, reference page, JSON schema for editors; and the chart's CRD,
README and version.

Helm never upgrades what lies in a chart's `crds/` folder, so that new fields would be pruned silently; a template is
upgraded, and its resource policy `keep` leaves definition and runs alone when the release is uninstalled.

`--check` only compares.

python -m diht_k8s.api.schema.generate [--check] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from diht_k8s import __version__
from diht_k8s.api.schema import crd, reference

CHART: Final = "helm/diht-operator"
TEMPLATE_FILE: Final = f"{CHART}/templates/crd/diht.dev_dihtruns.yaml"
README_FILE: Final = f"{CHART}/README.md"
VALUES_FILE: Final = f"{CHART}/values.yaml"
METADATA_FILE: Final = f"{CHART}/Chart.yaml"
BEGIN: Final = "<!-- values: from values.yaml by `python -m diht_k8s.api.schema.generate` -->\n"
END: Final = "<!-- end of values -->\n"
MAX_DEFAULT: Final = 100
"""Longest default, in characters, that the table shows."""
_COMMENT: Final = "# -- "
_METADATA: Final = """metadata:
  name: {name}
  labels:
    {{{{- include "diht-operator.labels" . | nindent 4 }}}}
  annotations:
    {release}: {version}
    {{{{- if .Values.crds.keep }}}}
    helm.sh/resource-policy: keep
    {{{{- end }}}}
"""


def crd_template(note: str) -> str:
    """The CRD as a template of the chart.

    Args:
        note: the first line, a comment.
    """
    definition = crd.definition()
    spec = yaml.safe_dump({"spec": definition["spec"]}, sort_keys=False, width=140, allow_unicode=True)
    assert "{{" not in spec, "Helm would read it as a template"
    head = f"apiVersion: {definition['apiVersion']}\nkind: {definition['kind']}\n"
    metadata = _METADATA.format(name=definition["metadata"]["name"], release=crd.RELEASE, version=__version__)
    return f"{{{{- if .Values.crds.install }}}}\n{note}{head}{metadata}{spec}{{{{- end }}}}\n"


def readme(root: Path) -> dict[str, str]:
    """The chart's README with its table of values as values.yaml has them now; nothing where there is no chart below
    `root`.
    """
    if not (root / VALUES_FILE).is_file():
        return {}
    text = (root / README_FILE).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return {README_FILE: before + BEGIN + values_table((root / VALUES_FILE).read_text(encoding="utf-8")) + END + after}


def metadata(root: Path) -> dict[str, str]:
    """Chart.yaml with the package's version as that of chart and app; nothing where there is no chart below `root`."""
    if not (root / METADATA_FILE).is_file():
        return {}
    text = (root / METADATA_FILE).read_text(encoding="utf-8")
    return {METADATA_FILE: re.sub(r"(?m)^(version|appVersion): .*$", rf"\1: {__version__}", text)}


def values_table(text: str) -> str:
    """A Markdown table of the values of a chart.

    Args:
        text: values.yaml, each value with a comment `# -- meaning` in the line above it.

    Raises:
        ValueError: a value without a comment, by its name.
    """
    rows = [f"| `{name}` | {_default(default)} | {meaning} |" for name, default, meaning in _values(text)]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _default(value: Any) -> str:
    """A long one stands in values.yaml only."""
    shown = json.dumps(value)
    return f"`{shown}`" if len(shown) <= MAX_DEFAULT else "in `values.yaml`"


def _values(text: str) -> Iterator[tuple[str, Any, str]]:
    """Each value with its default and meaning. A mapping with a comment of its own is one value."""
    lines: list[str] = text.splitlines()

    def walk(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, Any, str]]:
        for key, value in node.value:
            name = f"{path}{key.value}"
            line: int = key.start_mark.line
            above = lines[line - 1].strip() if line else ""
            if above.startswith(_COMMENT):
                default = yaml.safe_load(yaml.serialize(value))  # pyright: ignore[reportUnknownMemberType]
                yield name, default, above.removeprefix(_COMMENT)
            elif isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, f"{name}.")
            else:
                raise ValueError(f"values.yaml: {name} has no comment: write `{_COMMENT}meaning` in the line above it")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


CRD_FILE: Final = "manifests/crd/diht.dev_dihtruns.yaml"
REFERENCE_FILE: Final = "docs/api.md"
EDITOR_FILE: Final = "docs/dihtrun.schema.json"
_NOTE: Final = "# Generated from diht_k8s/api by `python -m diht_k8s.api.schema.generate`: do not edit.\n"


def files(root: Path) -> dict[str, str]:
    """Each generated file, relative to the project's root, and its text."""
    return {
        CRD_FILE: crd_text(),
        TEMPLATE_FILE: crd_template(_NOTE),
        REFERENCE_FILE: reference.page(),
        EDITOR_FILE: reference.editor_schema(),
        **readme(root),
        **metadata(root),
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
