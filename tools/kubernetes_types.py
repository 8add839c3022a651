"""Generator of `diht_k8s/api/kubernetes_types/definitions.json`: the types below `spec.pods`, by Kubernetes' own
schema.

Volumes that Kubernetes no longer mounts, and what concerns Windows only, are left out. `--check` only compares.

python -m tools.kubernetes_types [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parent.parent / "diht_k8s/api/kubernetes_types/definitions.json"
MINOR: Final = "1.37"
ROOTS: Final = (
    "Affinity",
    "EnvVarSource",
    "PodSecurityContext",
    "SecurityContext",
    "Toleration",
    "Volume",
    "VolumeMount",
)
LEFT_OUT: Final = {
    "Volume": {
        "cephfs",
        "flocker",
        "gitRepo",
        "glusterfs",
        "photonPersistentDisk",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
    },
    "PodSecurityContext": {"windowsOptions"},
    "SecurityContext": {"windowsOptions"},
}
KEPT: Final = {"ObjectMeta": {"labels", "annotations"}}
"""All that Kubernetes takes in the template of a claim."""


def text() -> str:
    """Kubernetes' minor version and each type, one a line: its fields, and which of them are required."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{MINOR}.0-local-strict"
    source: dict[str, Any] = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    by_name = {
        name.rsplit(".", 1)[1]: node for name, node in source.items() if "api.core.v1." in name or "meta.v1." in name
    }
    types, waiting = dict[str, Any](), list[str](ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in types:
            types[name] = _type(name, by_name[name], waiting)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(types[name])}" for name in sorted(types))
    return f'{{\n "minor": "{MINOR}",\n "types": {{\n{lines}\n }}\n}}\n'


def _type(name: str, node: dict[str, Any], used: list[str]) -> dict[str, Any]:
    kept = KEPT.get(name, node["properties"].keys() - LEFT_OUT.get(name, set()))
    fields = {key: value for key, value in node["properties"].items() if key in kept}
    return {"required": node.get("required", []), "fields": {key: _field(value, used) for key, value in fields.items()}}


def _field(node: dict[str, Any], used: list[str]) -> Any:
    """`"string"`, `"int32"`, `"Quantity"`, another type, `[what a list holds]` or `{"*": what a map holds}`."""
    if "$ref" in node:
        name = node["$ref"].rsplit(".", 1)[1]
        used += [] if name == "Quantity" else [name]
        return name
    kind = node["type"][0] if isinstance(node["type"], list) else node["type"]
    match kind:
        case "array":
            return [_field(node["items"], used)]
        case "object":
            return {"*": _field(node["additionalProperties"], used)}
        case _:
            return node.get("format", kind) if kind == "integer" else kind


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.kubernetes_types", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the file is stale")
    given = parser.parse_args(arguments)
    made = text()
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == made:
        return 0
    if given.check:
        sys.stdout.write(f"{FILE.name} is stale: run python -m tools.kubernetes_types\n")
        return 1
    FILE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
