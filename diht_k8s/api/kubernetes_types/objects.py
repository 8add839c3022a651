"""Objects of Kubernetes in run documents: mappings whose fields have the names and types that Kubernetes gives them.

They are Kubernetes' own schema (`definitions.json`, made by `tools/kubernetes_types`), so that a misspelt field is
found when the document is written. What the API server allows in a field, it says itself: the operator asks it for its
verdict on the objects of all stages before the first one starts. Kubernetes' quantities are read here, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from diht_k8s.api.base import FieldPath, is_array, is_object
from diht_k8s.api.errors import suggestion

QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?$"
"""Kubernetes' quantities that a pod may ask for: `8`, `500m`, `1.5`, `64Gi`, `1e3`."""
MAX_CHARACTERS: Final = 32


def quantity_problem(given: Any) -> str | None:
    """What is wrong with a value as a quantity; None where nothing is."""
    text = type(given) is str and len(given) <= MAX_CHARACTERS and re.fullmatch(QUANTITY_PATTERN, given)
    if text or (type(given) is int and 0 <= given <= 2**62):
        return None
    return f"invalid quantity {given!r}: write for example 8, 500m or 64Gi"


def _quantity(given: Any, handler: ValidatorFunctionWrapHandler) -> str | int:
    """One problem in place of one for each branch of the union."""
    if (problem := quantity_problem(given)) is not None:
        raise ValueError(problem)
    return handler(given)


Size = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=MAX_CHARACTERS)]
Quantity = Annotated[Size | Annotated[int, Field(ge=0, le=2**62)], WrapValidator(_quantity)]
_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
    "m": 1e-3,
}


def number_of(value: str | int) -> float:
    """A quantity as a number: `500m` is 0.5, `1Ki` 1,024.

    Raises:
        ValueError: it is invalid.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)([A-Za-z]*)", str(value))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"invalid quantity {value}: write for example 8, 500m or 64Gi")
    return float(match[1]) * _UNITS[match[2]]


Kind = str | list[Any] | dict[str, Any]
"""`"string"`, `"int32"`, `"Quantity"`, an object's type, `[what a list holds]` or `{"*": what a map holds}`."""
_SCALARS: Final[Mapping[str, tuple[type, str]]] = {
    "boolean": (bool, "bool_type"),
    "string": (str, "string_type"),
    "int32": (int, "int_type"),
    "int64": (int, "int_type"),
}
"""The Python type of each, and pydantic's name for any other."""


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


@dataclass(frozen=True)
class ObjectType:
    """Marks a mapping as an object of a Kubernetes type. Fields that are null count as absent."""

    name: str

    def checked(self, given: Any) -> dict[str, Any]:
        """The object without nulls.

        Raises:
            ValidationError: with every problem and its path.
        """
        reader = _Reader()
        value = reader.value(self.name, given, ())
        if reader.problems:
            raise ValidationError.from_exception_data(self.name, reader.problems)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """The check alone."""
        return core_schema.no_info_plain_validator_function(self.checked)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Names and types for editors; the CRD leaves the object open."""
        return {**_schema(self.name), "x-kubernetes-preserve-unknown-fields": True}


@dataclass
class _Reader:
    """Collects what is wrong with an object."""

    problems: list[InitErrorDetails] = field(default_factory=list[InitErrorDetails])

    def value(self, kind: Kind, given: Any, path: FieldPath) -> Any:
        """A value of any kind, without nulls."""
        if isinstance(kind, list):
            if not is_array(given):
                return self._wrong("list_type", given, path)
            return [self.value(kind[0], item, (*path, index)) for index, item in enumerate(given)]
        if kind == "Quantity":
            problem = quantity_problem(given)
            return given if problem is None else self._says(problem, given, path)
        if isinstance(kind, str) and kind in _SCALARS:
            python, error = _SCALARS[kind]
            return given if type(given) is python else self._wrong(error, given, path)
        if not is_object(given):
            return self._wrong("dict_type", given, path)
        kept = {key: item for key, item in given.items() if item is not None}
        if isinstance(kind, dict):
            return {key: self.value(kind["*"], item, (*path, key)) for key, item in kept.items()}
        return self._object(kind, kept, path)

    def _object(self, name: str, given: dict[str, Any], path: FieldPath) -> dict[str, Any]:
        fields, required = definitions().types[name]["fields"], definitions().types[name]["required"]
        for key, item in given.items():
            if key in fields:
                given[key] = self.value(fields[key], item, (*path, key))
            else:
                self._says(_unknown(key, sorted(fields)), item, (*path, key))
        for key in required:
            if key not in given:
                self._wrong("missing", given, (*path, key))
        return given

    def _wrong(self, kind: str, given: Any, path: FieldPath) -> Any:
        """Notes a problem that pydantic has a name for."""
        self.problems.append(InitErrorDetails(type=kind, loc=path, input=given))
        return given

    def _says(self, message: str, given: Any, path: FieldPath) -> Any:
        """Notes a problem in our own words."""
        kind = PydanticCustomError("value_error", "{error}", {"error": message})
        self.problems.append(InitErrorDetails(type=kind, loc=path, input=given))
        return given


def _unknown(key: str, known: list[str]) -> str:
    hint = suggestion(key, known, f"known here: {', '.join(known)}")
    return f"unknown key; {hint} (Kubernetes {definitions().minor})"


def _schema(kind: Kind) -> dict[str, Any]:
    """The JSON schema of a kind, with everything inlined."""
    if isinstance(kind, list):
        return {"type": "array", "items": _schema(kind[0])}
    if isinstance(kind, dict):
        return {"type": "object", "additionalProperties": _schema(kind["*"])}
    if kind == "Quantity":
        return TypeAdapter(Quantity).json_schema()
    if kind not in definitions().types:
        return {"type": "integer" if kind.startswith("int") else kind}
    known = definitions().types[kind]
    return {
        "title": kind,
        "type": "object",
        "properties": {key: _schema(each) for key, each in known["fields"].items()},
        "additionalProperties": False,
        **({"required": known["required"]} if known["required"] else {}),
    }
