"""Generated parts of the Helm chart: its version, the CRD as a template that outlives the release, the table of values.

Helm never upgrades what lies in a chart's `crds/` folder, so that new fields would be pruned silently; a template is
upgraded, and its resource policy `keep` leaves definition and runs alone when the release is uninstalled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from diht_k8s import __version__
from diht_k8s.api.schema import crd

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
