"""The CustomResourceDefinition of DihtRun, made from the pydantic models: a structural schema with caps, list types
and CEL.

What pydantic's JSON schema says and Kubernetes does not take is rewritten here: references are inlined, unions with
null become optional fields, open objects are marked, exclusive bounds become flags, integers get a format. Defaults are
left
out: a run must keep meaning what it meant when it was made, so they belong to the programs and to `config_sha256`.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from diht_k8s import __version__
from diht_k8s.api.run import API_VERSION, KIND, Spec
from diht_k8s.api.schema.cel import rules_of, run_rules
from diht_k8s.api.status import Status

GROUP, VERSION = API_VERSION.split("/")
PLURAL: Final = "dihtruns"
OPEN: Final = "x-kubernetes-preserve-unknown-fields"
DROPPED: Final = frozenset({"title", "default", "x-placement"})
COLUMNS: Final = (
    ("Stage", "string", ".status.progress.stage", "The stage that runs, or the last one.", 0),
    (
        "State",
        "string",
        '.status.conditions[?(@.type=="Progressing")].reason',
        "What the run does, or why it ended.",
        0,
    ),
    ("Progress", "integer", ".status.progress.percentage", "Per cent of the stage.", 0),
    ("Restarts", "integer", ".status.restarts", "Restarts of all stages, of any cause.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the run was created.", 0),
    ("ETA-SECONDS", "integer", ".status.progress.estimatedRemainingSeconds", "Seconds until the stage ends.", 1),
    ("Loss", "string", '.status.progress.metrics[?(@.name=="loss")].value', "The newest training loss.", 1),
    ("Workload", "string", '.status.stages[?(@.state=="Running")].workload.name', "The object that carries it.", 1),
)
RELEASE: Final = f"{GROUP}/version"
"""Annotation of the definition: the release that it is of, for whoever finds it in a cluster."""
SELECTABLE: Final = (".spec.data.output", ".spec.pods.queueName", ".spec.suspend")
"""Fields that `kubectl get --field-selector` may ask for: runs with one output, runs of one queue.

A second version with another schema needs them in another order: the same list is refused
(kubernetes/kubernetes#140689)."""


def definition() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}", "annotations": {RELEASE: __version__}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["dr"],
                "categories": ["all", "diht"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": path} for path in SELECTABLE],
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """A model's structural schema, with everything inlined."""
    schema = model.model_json_schema(by_alias=True)
    return _object(schema, schema.get("$defs", {}), name=model.__name__)


def _root() -> dict[str, Any]:
    return {
        "description": "DihtRun is one run of the DiHT recipe: filter, label, train, evaluate.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"apiVersion is {API_VERSION}."},
            "kind": {"type": "string", "description": f"kind is {KIND}."},
            "metadata": {"type": "object"},
            "spec": {**structural(Spec), "description": "spec says what to run; people write it."},
            "status": {**structural(Status), "description": "status says what runs; only the operator writes it."},
        },
        "x-kubernetes-validations": [rule.schema() for rule in run_rules()],
    }


def _column(name: str, kind: str, path: str, description: str, priority: int) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, "priority": priority}


def _structural(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """One node of a JSON schema as a structural schema."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        return _structural_with({**defs[name], **{key: node[key] for key in node if key != "$ref"}}, defs, name)
    if "anyOf" in node:
        return _union(node, defs)
    return _structural_with(node, defs, "")


def _structural_with(node: dict[str, Any], defs: dict[str, Any], name: str) -> dict[str, Any]:
    kind = node.get("type")
    if node.get(OPEN):
        return _open(node)
    if kind == "object":
        return _object(node, defs, name=name) if "properties" in node else _map(node, defs)
    kept = {key: value for key, value in node.items() if key not in DROPPED}
    if kind == "array":
        list_type = {} if "x-kubernetes-list-type" in node else {"x-kubernetes-list-type": "atomic"}
        return {**kept, "items": _structural(node["items"], defs), **list_type}
    if "const" in kept:
        kept["enum"] = [kept.pop("const")]
    return _number(kept) if kind in ("integer", "number") else kept


def _object(node: dict[str, Any], defs: dict[str, Any], *, name: str) -> dict[str, Any]:
    properties = {key: _structural(value, defs) for key, value in node["properties"].items()}
    rules = [rule.schema() for rule in rules_of(name)]
    return {
        **({"description": node["description"]} if "description" in node else {}),
        "type": "object",
        **({"required": node["required"]} if node.get("required") else {}),
        "properties": properties,
        **({OPEN: True} if node.get("additionalProperties") is True else {}),
        **({"x-kubernetes-validations": rules} if rules else {}),
    }


def _open(node: dict[str, Any]) -> dict[str, Any]:
    """An object of Kubernetes, which its own API server checks; the name stays, by which lists are merged."""
    named = {"required": ["name"], "properties": {"name": {"type": "string", "maxLength": 63}}}
    described = {"description": node["description"]} if "description" in node else {}
    return {**described, "type": "object", **(named if "name" in node.get("required", []) else {}), OPEN: True}


def _map(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in node.items() if key not in DROPPED}
    values = kept.pop("additionalProperties", True)
    if values is True:
        return {**kept, OPEN: True}
    return {**kept, "additionalProperties": _structural(values, defs)}


def _union(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """`X | None` is an optional X; text or integer is Kubernetes' int-or-string. The contract has no other unions."""
    branches = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
    rest = {key: value for key, value in node.items() if key not in ("anyOf", *DROPPED)}
    if len(branches) == 1:
        return _structural({**branches[0], **rest}, defs)
    assert {branch.get("type") for branch in branches} == {"string", "integer"}, f"no structural union: {branches}"
    merged = {key: value for branch in branches for key, value in branch.items() if key not in ("type", *DROPPED)}
    kinds = [{"type": "integer"}, {"type": "string"}]
    return {**rest, "x-kubernetes-int-or-string": True, "anyOf": kinds, **merged}


def _number(node: dict[str, Any]) -> dict[str, Any]:
    for bound in ("Minimum", "Maximum"):
        if (limit := node.pop(f"exclusive{bound}", None)) is not None:
            node |= {bound.lower(): limit, f"exclusive{bound}": True}
    if node["type"] == "integer":
        node["format"] = "int32" if abs(node.get("maximum", 2**62)) < 2**31 else "int64"
    return node
