"""The reference page of the run document, made from the models: every field with type, default, bounds and meaning.

Pure: models in, Markdown and JSON schema out. The descriptions are the docstrings of `diht_k8s.api`; to change the page, change them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from diht_k8s.api.json_types import is_array, is_object
from diht_k8s.api.kubernetes_types.definitions import definitions
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import API_VERSION, DihtRun, Spec
from diht_k8s.api.schema.cel import ALWAYS_EDITABLE, run_rules
from diht_k8s.api.schema.crd import COLUMNS
from diht_k8s.api.status import Status
from diht_k8s.api.times import TIME_PATTERN

Schema = dict[str, Any]
_BOUNDS: Final = re.compile(r" \((?:[≥>≤<] )?[\d.]+[^()]*\)")
SHORT_TEXT: Final = 64
"""Longest text, in characters, whose bound the page shows."""

_HEAD = f"""# DihtRun ({API_VERSION})

Generated from `diht_k8s/api` by `python -m diht_k8s.api.schema.generate`; edit the docstrings there.

```yaml
# yaml-language-server: $schema=dihtrun.schema.json
apiVersion: {API_VERSION}
kind: DihtRun
metadata: {{name: my-run}}
spec: {{...}}
```

The same document runs on a laptop (`diht run FILE`) and on a cluster (`kubectl apply -f FILE`). Unknown keys are errors (on a cluster by
kubectl; other clients may only get a warning); `null` means that a field is not there. Kubernetes' own fields in `pods` (volumes, tolerations, ...)
are checked by the schema and rules of Kubernetes {definitions().minor}. Defaults belong to the programs: a run keeps only what you wrote. "Ours" marks
what is not in the paper. In brackets: bounds of a number, of a text's characters up to {SHORT_TEXT}, or of a list's entries.
"""


def page() -> str:
    """The whole page, Markdown."""
    sections = [_HEAD, "# Spec\n", *_models(Spec, "spec"), "# Status\n", *_models(Status, "status", defaults=False)]
    return "\n".join([*sections, _conditions(), _columns(), _edits()]).rstrip() + "\n"


def editor_schema() -> str:
    """The JSON schema by which editors complete and check run documents."""
    schema = _without_marks(DihtRun.model_json_schema(by_alias=True))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"DihtRun ({API_VERSION})"}
    return json.dumps({**head, **schema}, indent=1, ensure_ascii=False) + "\n"


def _without_marks(node: Any, *, names: bool = False) -> Any:
    """The schema without titles and Kubernetes' marks; below `properties` the keys are names of fields."""
    if is_array(node):
        return [_without_marks(item) for item in node]
    if not is_object(node):
        return node
    kept = {key: value for key, value in node.items() if names or not (key == "title" or key.startswith("x-"))}
    return {
        key: value if key == "default" and not names else _without_marks(value, names=key in ("properties", "$defs"))
        for key, value in kept.items()
    }


def _models(model: type[BaseModel], path: str, *, defaults: bool = True) -> Iterator[str]:
    """A table for each model, in the order in which a reader meets them; one that stands at several places comes once.

    So does a model whose fields another one has, too: it links to that table.
    """
    schema = model.model_json_schema(by_alias=True)
    defs, waiting, seen = schema.get("$defs", {}), [(model.__name__, path, schema)], {model.__name__}
    shown: dict[str, Schema] = {}
    while waiting:
        name, where, node = waiting.pop(0)
        same = next((other for other, fields in shown.items() if node["properties"].items() <= fields.items()), None)
        shown[name] = node["properties"]
        yield _heading(name, where, node) + (
            f"Its fields are those of [{same}](#{same.lower()}).\n" if same else _table(node, defs, defaults=defaults)
        )
        below: list[tuple[str, str, Schema]] = []
        for field, value in node["properties"].items():
            reference, brackets = _reference(value)
            if reference and reference not in seen and "properties" in defs[reference]:
                seen.add(reference)
                below.append((reference, f"{where}.{field}{brackets}", defs[reference]))
        waiting = below + waiting


def _reference(node: Schema) -> tuple[str | None, str]:
    """The model that a field holds, and `[]` when it holds a list of them."""
    if "$ref" in node:
        return node["$ref"].rsplit("/", 1)[1], ""
    if "items" in node:
        return _reference(node["items"])[0], "[]"
    branches = (_reference(branch) for branch in node.get("anyOf", []))
    return next((found for found in branches if found[0]), (None, ""))


def _heading(name: str, path: str, node: Schema) -> str:
    return f'<a id="{name.lower()}"></a>\n## {path}\n\n{node.get("description", "").strip()}\n\n'


def _table(node: Schema, defs: dict[str, Schema], *, defaults: bool) -> str:
    """Without defaults and bounds where only the operator writes."""
    head = (
        "| field | type | default | meaning |\n|---|---|---|---|"
        if defaults
        else "| field | type | meaning |\n|---|---|---|"
    )
    rows = [
        _row(field, value, defs, required=field in node.get("required", []), defaults=defaults)
        for field, value in node["properties"].items()
    ]
    return "\n".join([head, *rows, ""])


def _row(field: str, node: Schema, defs: dict[str, Schema], *, required: bool, defaults: bool) -> str:
    default = "**required**" if required else _default(node.get("default"))
    kind = _type(node, defs) if defaults else _BOUNDS.sub("", _type(node, defs))
    cells = [f"`{field}`", kind, *([default] if defaults else []), _meaning(field, _cell(node.get("description", "")))]
    return f"| {' | '.join(cells)} |"


def _meaning(field: str, text: str) -> str:
    """What the table says beside the name; `kubectl explain` shows descriptions that begin with it."""
    return re.sub(rf"^{field}(?: is| are|:|(?= as in)) ", "", text)


def _default(value: Any) -> str:
    """Defaults of whole objects stand in their own tables."""
    if value is None or isinstance(value, dict) or value in ([], ""):
        return ""
    return f"`{_cell(json.dumps(value))}`"


def _type(node: Schema, defs: dict[str, Schema]) -> str:
    """What a field holds, with its bounds."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        target = defs[name]
        return f"[{name}](#{name.lower()})" if "properties" in target else _type(target, defs)
    if "anyOf" in node:
        branches = [_type(branch, defs) for branch in node["anyOf"] if branch != {"type": "null"}]
        return " or ".join(branches)
    if "enum" in node or "const" in node:
        return " · ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    kind = node.get("type", "anything")
    if kind == "array":
        return f"list of {_BOUNDS.sub('', _type(node['items'], defs))}{_between(node, 'Items')}"
    if "properties" in node:
        return f"Kubernetes' {node['title']}"
    if kind == "object":
        values = node.get("additionalProperties", True)
        if values is True:
            return "object"
        return f"map to {_BOUNDS.sub('', _type(values, defs))}{_between(node, 'Properties')}"
    if kind == "string":
        return ("time" if node.get("pattern") == TIME_PATTERN else "string") + _between(node, "Length")
    return kind + _numbers(node)


def _between(node: Schema, what: str) -> str:
    """How many items or characters; texts that nobody writes as long have no bound here, the schema has it."""
    low, high = node.get(f"min{what}"), node.get(f"max{what}")
    if high is None or (what == "Length" and high > SHORT_TEXT):
        return ""
    return f" ({low} to {high})" if low else f" (≤ {high})"


def _numbers(node: Schema) -> str:
    low, over, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    below = node.get("exclusiveMaximum")
    high = high if high is not None and high < 2**31 - 1 else None
    if low is not None and high is not None:
        return f" ({_plain(low)} to {_plain(high)})"
    signs = {"≥": low, ">": over, "<": below, "≤": high}
    text = ", ".join(f"{sign} {_plain(bound)}" for sign, bound in signs.items() if bound is not None)
    return f" ({text})" if text else ""


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _conditions() -> str:
    types = [f"| `{kind}` | {_cell(kind.meaning)} |" for kind in ConditionType]
    reasons = [f"| `{reason}` | {_cell(reason.meaning)} |" for reason in Reason]
    return "\n".join(
        ["# Conditions and reasons", "", "| condition | meaning |", "|---|---|", *types, "", "| reason | meaning |", "|---|---|", *reasons, ""]
    )  # fmt: skip


def _columns() -> str:
    rows = [f"| {name.upper()} | {text} | {'`-o wide`' if wide else ''} |" for name, _, _, text, wide in COLUMNS]
    return "\n".join(["# Columns of `kubectl get dihtruns`", "", "| column | meaning | |", "|---|---|---|", *rows, ""])


def _edits() -> str:
    fields = ", ".join(f"`spec.{name}`" for name in ALWAYS_EDITABLE)
    rows = [f"- {rule.message.partition(':')[0]}" for rule in run_rules()[1:]]
    after = "To change them, delete the run and apply it again; what is committed and unchanged is not computed again."
    return "\n".join(
        ["# What may be edited", "", f"At any time: {fields} and each stage's `pods` (pods: from the next attempt on).", "", *rows, "", after, ""]
    )  # fmt: skip
