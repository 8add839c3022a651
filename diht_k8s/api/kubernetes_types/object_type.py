"""Objects of Kubernetes in run documents: mappings that are checked as its API server checks them.

Which fields there are, and of which types, is Kubernetes' own schema (`definitions.json`, made by `tools/kubernetes_types`);
what it allows in them is `field_bounds` and `object_rules`. So a wrong object is found when the document is written and
not when a pod is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from diht_k8s.api.errors import suggestion
from diht_k8s.api.json_types import FieldPath, is_array, is_object
from diht_k8s.api.kubernetes_types.definitions import Kind, definitions
from diht_k8s.api.kubernetes_types.field_bounds import ALSO_REQUIRED, BOUNDS, UNSUPPORTED, Bounds
from diht_k8s.api.kubernetes_types.object_rules import RULES
from diht_k8s.api.kubernetes_types.quantities import Quantity, quantity_problem

MAX_ITEMS: Final = 64
MAX_CHARACTERS: Final = 1024
_INTEGERS: Final = {"int32": 2**31, "int64": 2**62}
_NO_BOUNDS: Final = Bounds()


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
        value = reader.object(self.name, given, ())
        if reader.problems:
            raise ValidationError.from_exception_data(self.name, reader.problems)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """The check alone."""
        return core_schema.no_info_plain_validator_function(self.checked)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """All that a JSON schema can say of it."""
        return object_schema(self.name)


def broken_rules(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an object of a type whose fields are all valid."""
    return (rule.message for rule in RULES.get(name, ()) if not rule.holds(value))


@dataclass
class _Reader:
    """Collects what is wrong with an object."""

    problems: list[InitErrorDetails] = field(default_factory=list[InitErrorDetails])

    def object(self, name: str, given: Any, path: FieldPath) -> Any:
        """An object of a type, without nulls."""
        if not is_object(given):
            return self._wrong("dict_type", given, path)
        before, known = len(self.problems), definitions().types[name]["fields"]
        value = {key: item for key, item in given.items() if item is not None}
        for key, item in value.items():
            if key in known:
                bounds = BOUNDS.get(f"{name}.{key}", _NO_BOUNDS)
                value[key] = self.value(known[key], item, (*path, key), bounds)
            else:
                self._says(_unknown(name, key), item, (*path, key))
        for key in _required(name):
            if key not in value:
                self._wrong("missing", given, (*path, key))
        if len(self.problems) == before:
            for message in broken_rules(name, value):
                self._says(message, given, path)
        return value

    def value(self, kind: Kind, given: Any, path: FieldPath, bounds: Bounds) -> Any:
        """A value of any kind."""
        if isinstance(kind, list):
            return self._list(kind[0], given, path, bounds)
        if isinstance(kind, dict):
            return self._map(kind["*"], given, path, bounds)
        match kind:
            case "Quantity":
                if (problem := quantity_problem(given)) is not None:
                    self._says(problem, given, path)
            case "boolean":
                if type(given) is not bool:
                    self._wrong("bool_type", given, path)
            case "string":
                self._text(given, path, bounds)
            case "int32" | "int64":
                self._integer(kind, given, path, bounds)
            case _:
                return self.object(kind, given, path)
        return given

    def _list(self, kind: Kind, given: Any, path: FieldPath, bounds: Bounds) -> Any:
        if not is_array(given):
            return self._wrong("list_type", given, path)
        most = bounds.items or MAX_ITEMS
        if len(given) > most:
            self._wrong("too_long", given, path, field_type="List", max_length=most, actual_length=len(given))
        if len(given) < (least := bounds.least_items):
            self._wrong("too_short", given, path, field_type="List", min_length=least, actual_length=len(given))
        return [self.value(kind, item, (*path, index), bounds) for index, item in enumerate(given[:most])]

    def _map(self, kind: Kind, given: Any, path: FieldPath, bounds: Bounds) -> Any:
        if not is_object(given):
            return self._wrong("dict_type", given, path)
        kept = {key: item for key, item in given.items() if item is not None}
        if len(kept) > MAX_ITEMS:
            self._wrong("too_long", given, path, field_type="Dictionary", max_length=MAX_ITEMS, actual_length=len(kept))
        for key in kept:
            if bounds.keys is not None and not bounds.keys.matches(key):
                self._says(f"{key[:80]} is no key: write {bounds.keys.words}", key, path)
        return {key: self.value(kind, item, (*path, key), bounds) for key, item in kept.items()}

    def _integer(self, kind: str, given: Any, path: FieldPath, bounds: Bounds) -> None:
        low, high = _range(kind, bounds)
        if type(given) is not int:
            self._wrong("int_type", given, path)
        elif given < low:
            self._wrong("greater_than_equal", given, path, ge=low)
        elif given > high:
            self._wrong("less_than_equal", given, path, le=high)

    def _text(self, given: Any, path: FieldPath, bounds: Bounds) -> None:
        most = bounds.most or MAX_CHARACTERS
        if type(given) is not str:
            self._wrong("string_type", given, path)
        elif bounds.one_of and given not in bounds.one_of:
            self._wrong("literal_error", given, path, expected=_listed(bounds.one_of))
        elif len(given) < bounds.least:
            self._wrong("string_too_short", given, path, min_length=bounds.least)
        elif len(given) > most:
            self._wrong("string_too_long", given, path, max_length=most)
        elif bounds.format is not None and not bounds.format.matches(given):
            self._wrong("string_pattern_mismatch", given, path, pattern=bounds.format.pattern)

    def _wrong(self, kind: str, given: Any, path: FieldPath, **context: Any) -> Any:
        """Notes a problem that pydantic has a name for."""
        self.problems.append(InitErrorDetails(type=kind, loc=path, input=given, ctx=context))
        return given

    def _says(self, message: str, given: Any, path: FieldPath) -> Any:
        """Notes a problem in our own words."""
        kind = PydanticCustomError("value_error", "{error}", {"error": message})
        self.problems.append(InitErrorDetails(type=kind, loc=path, input=given))
        return given


def _required(name: str) -> list[str]:
    return [*definitions().types[name]["required"], *ALSO_REQUIRED.get(name, ())]


def _unknown(name: str, key: str) -> str:
    if (why := UNSUPPORTED.get(f"{name}.{key}")) is not None:
        return why
    known = sorted(definitions().types[name]["fields"])
    hint = suggestion(key, known, f"known here: {', '.join(known)}")
    return f"unknown key; {hint} (Kubernetes {definitions().minor})"


def _listed(words: tuple[str, ...]) -> str:
    quoted = [f"'{word}'" for word in words if word]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]


def _range(kind: str, bounds: Bounds) -> tuple[int, int]:
    """Lowest and highest integer of a field."""
    limit = _INTEGERS[kind]
    return -limit if bounds.low is None else bounds.low, limit - 1 if bounds.high is None else bounds.high


def object_schema(name: str) -> dict[str, Any]:
    """The JSON schema of a type, with everything inlined and the rules in CEL."""
    known = definitions().types[name]
    rules = [{"rule": rule.cel, "message": rule.message} for rule in RULES.get(name, ()) if rule.cel]
    return {
        "title": name,
        "type": "object",
        "properties": {
            key: _schema(kind, BOUNDS.get(f"{name}.{key}", _NO_BOUNDS)) for key, kind in known["fields"].items()
        },
        "additionalProperties": False,
        **({"required": _required(name)} if _required(name) else {}),
        **({"x-kubernetes-validations": rules} if rules else {}),
    }


def _schema(kind: Kind, bounds: Bounds) -> dict[str, Any]:
    if isinstance(kind, list):
        least = {"minItems": bounds.least_items} if bounds.least_items else {}
        return {"type": "array", "items": _schema(kind[0], bounds), "maxItems": bounds.items or MAX_ITEMS, **least}
    if isinstance(kind, dict):
        return {"type": "object", "additionalProperties": _schema(kind["*"], bounds), "maxProperties": MAX_ITEMS}
    match kind:
        case "Quantity":
            return TypeAdapter(Quantity).json_schema()
        case "boolean":
            return {"type": "boolean"}
        case "string" if bounds.one_of:
            return {"type": "string", "enum": list(bounds.one_of)}
        case "string":
            least = {"minLength": bounds.least} if bounds.least else {}
            pattern = {"pattern": bounds.format.pattern} if bounds.format else {}
            return {"type": "string", "maxLength": bounds.most or MAX_CHARACTERS, **least, **pattern}
        case "int32" | "int64":
            low, high = _range(kind, bounds)
            return {"type": "integer", "minimum": low, "maximum": high}
        case _:
            return object_schema(kind)
