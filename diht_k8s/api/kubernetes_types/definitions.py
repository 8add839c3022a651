"""The fields of Kubernetes' objects and their types, as its own schema has them (`definitions.json`, generated)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Kind = str | list[Any] | dict[str, Any]
"""`"string"`, `"int32"`, `"Quantity"`, an object's type, `[what a list holds]` or `{"*": what a map holds}`."""


@dataclass(frozen=True)
class Definitions:
    """Types of one version of Kubernetes."""

    minor: str
    types: Mapping[str, Any]
    """by name: `fields`, each with its Kind, and those of them that are `required`."""


@cache
def definitions() -> Definitions:
    """The types below `spec.pods`."""
    return Definitions(
        **json.loads((files("diht_k8s.api.kubernetes_types") / "definitions.json").read_text(encoding="utf-8"))
    )
