"""The reference page of the run document, made from the models: every field with type, default, bounds and meaning.

Pure: models in, Markdown and JSON schema out. The descriptions are the docstrings of `diht_k8s.api`; to change the
page, change them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from diht_k8s.api.base import TIME_PATTERN, is_array, is_object
from diht_k8s.api.kubernetes_types.objects import definitions
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import API_VERSION, DihtRun, Spec, Stage
from diht_k8s.api.schema.cel import ALWAYS_EDITABLE, EDITABLE, run_rules
from diht_k8s.api.status import Status

Schema = dict[str, Any]
_BOUNDS: Final = re.compile(r" \((?:[≥>≤<] )?[\d.]+[^()]*\)")
LARGE_NUMBER: Final = 1_000_000
"""A bound that nobody comes to, as large or larger: the page does not show it."""

_HEAD = f"""# DihtRun ({API_VERSION})

Generated from `diht_k8s/api` by `python -m diht_k8s.api.schema.generate`; edit the docstrings there.

```yaml
# yaml-language-server: $schema=dihtrun.schema.json
apiVersion: {API_VERSION}
kind: DihtRun
metadata: {{name: my-run}}
spec: {{...}}
```

Unknown keys are errors (clients other than kubectl may only get a warning); `null` is as if left out. Kubernetes'
own fields in `pods` (volumes, tolerations, ...) have the names and types of Kubernetes {definitions().minor} in files;
the CRD leaves them open, and the operator tells at once what the API server says of the Jobs of all stages. Defaults
belong to the programs: a run keeps only what you wrote. "Ours" marks what is not the paper's, whose values are mostly
[from memory](method.md). In brackets: bounds of numbers (those below a million) and of a list's entries.
"""


def page() -> str:
    """The whole page, Markdown."""
    sections = [_HEAD, *_models(Spec, "spec"), *_models(Status, "status", defaults=False)]
    return "\n".join([*sections, _conditions(), _edits()]).rstrip() + "\n"


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
    defs: dict[str, Schema] = schema.get("$defs", {})
    places = {model.__name__: path, **_places(schema, path, defs)}
    shown: dict[str, Schema] = {}
    for name, where in places.items():
        node = defs.get(name, schema)
        same = next((other for other, fields in shown.items() if node["properties"].items() <= fields.items()), None)
        shown[name] = node["properties"]
        head = f"## {where}\n\n{node.get('description', '').strip()}\n\n"
        yield head + (
            f"Its fields are those of {_link(same, places)}.\n"
            if same
            else _table(node, defs, places, defaults=defaults)
        )


def _places(node: Schema, path: str, defs: dict[str, Schema], seen: frozenset[str] = frozenset()) -> dict[str, str]:
    """Where each model below a node stands first, in the order of the page: its fields' models, each with those
    below it.
    """
    below: dict[str, str] = {}
    for field, value in node["properties"].items():
        reference, brackets = _reference(value)
        if reference and reference not in seen and "properties" in defs[reference]:
            below.setdefault(reference, f"{path}.{field}{brackets}")
    found: dict[str, str] = {}
    for name, where in below.items():
        known = seen | below.keys() | found.keys()
        found |= {name: where, **_places(defs[name], where, defs, known)}
    return found


def _link(name: str, places: dict[str, str]) -> str:
    """A model's name with a link to its heading."""
    return f"[{name}](#{re.sub(r'[^a-z]', '', places[name].lower())})"


def _reference(node: Schema) -> tuple[str | None, str]:
    """The model that a field holds, and `[]` when it holds a list of them."""
    if "$ref" in node:
        return node["$ref"].rsplit("/", 1)[1], ""
    if "items" in node:
        return _reference(node["items"])[0], "[]"
    branches = (_reference(branch) for branch in node.get("anyOf", []))
    return next((found for found in branches if found[0]), (None, ""))


def _table(node: Schema, defs: dict[str, Schema], places: dict[str, str], *, defaults: bool) -> str:
    """Without defaults and bounds where only the operator writes."""
    head = (
        "| field | type | default | meaning |\n|---|---|---|---|"
        if defaults
        else "| field | type | meaning |\n|---|---|---|"
    )
    rows = [
        _row(field, value, defs, places, required=field in node.get("required", []), defaults=defaults)
        for field, value in node["properties"].items()
    ]
    return "\n".join([head, *rows, ""])


def _row(
    field: str, node: Schema, defs: dict[str, Schema], places: dict[str, str], *, required: bool, defaults: bool
) -> str:
    default = "**required**" if required else _default(node.get("default"))
    kind = _type(node, defs, places) if defaults else _BOUNDS.sub("", _type(node, defs, places))
    cells = [f"`{field}`", kind, *([default] if defaults else []), _meaning(field, _cell(node.get("description", "")))]
    return f"| {' | '.join(cells)} |"


def _meaning(field: str, text: str) -> str:
    """What the table says beside the name; `kubectl explain` shows descriptions that begin with it.

    A name goes where a sentence or a verb follows it.
    """
    return re.sub(rf"^{field}(?:(?: is| are|:) |;? (?=unset |[a-z]+s ))", "", text)


def _default(value: Any) -> str:
    """Defaults of whole objects stand in their own tables."""
    if value is None or isinstance(value, dict) or value in ([], ""):
        return ""
    return f"`{_cell(json.dumps(value))}`"


def _type(node: Schema, defs: dict[str, Schema], places: dict[str, str]) -> str:
    """What a field holds, with its bounds."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        target = defs[name]
        return _link(name, places) if "properties" in target else _type(target, defs, places)
    if "anyOf" in node:
        branches = [_type(branch, defs, places) for branch in node["anyOf"] if branch != {"type": "null"}]
        return " or ".join(branches)
    if "enum" in node or "const" in node:
        return " · ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    kind = node.get("type", "anything")
    if kind == "array":
        items = _BOUNDS.sub("", _type(node["items"], defs, places))
        return (f"[[]{items[1:]}" if items.startswith("[") else f"[]{items}") + _items(node)
    if "properties" in node:
        return node["title"]
    if kind == "object":
        values = node.get("additionalProperties", True)
        if values is True:
            return "object"
        return f"map[string]{_BOUNDS.sub('', _type(values, defs, places))}"
    if kind == "string":
        return "time" if node.get("pattern") == TIME_PATTERN else "string"
    return kind + _numbers(node)


def _items(node: Schema) -> str:
    """How many items a list has."""
    low, high = node.get("minItems"), node.get("maxItems")
    if high is None:
        return ""
    return f" ({low}..{high})" if low else f" (≤ {high})"


def _numbers(node: Schema) -> str:
    low, over, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    below = node.get("exclusiveMaximum")
    high = high if high is not None and high < LARGE_NUMBER else None
    low = low if low is not None and low > -LARGE_NUMBER else None
    if low is not None and high is not None:
        return f" ({_plain(low)}..{_plain(high)})"
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
        [
            "## Conditions and reasons",
            "",
            "| condition | meaning |",
            "|---|---|",
            *types,
            "",
            "| reason | meaning |",
            "|---|---|",
            *reasons,
            "",
        ]
    )


def _edits() -> str:
    """From the rules at the root of a run, which say on each refusal what to do."""
    stages = [f"spec.{stage.value}" for stage in Stage]
    fixed = dict.fromkeys(rule.field for rule in run_rules() if rule.field and rule.field not in stages)
    later = [f"train.{name}" for name in EDITABLE[Stage.TRAIN] if name != "pods"]
    rows = {
        "at any time": [f"spec.{name}" for name in ALWAYS_EDITABLE if name != "pods"],
        "at any time, for the next attempt": ["spec.pods", *later, "each stage's `pods`"],
        "until the stage starts or the run ends": stages,
        "never": fixed,
    }
    lines = [
        f"| {when} | {', '.join(f'`{name}`' if '`' not in name else name for name in names)} |"
        for when, names in rows.items()
    ]
    after = (
        "To change what is fixed, delete the run and apply it again; what is committed and unchanged is not "
        "computed again."
    )
    return "\n".join(["## What may be edited", "", "| when | fields |", "|---|---|", *lines, "", after, ""])
