"""What documents and statuses are made of: values of JSON, URIs, times, and the base of every model in the contract
(camelCase in documents, closed, immutable, strictly typed like the API server). Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeGuard

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

FieldPath = tuple[str | int, ...]
"""Names of fields and indices of list items, from the document's root on."""


def dotted(path: FieldPath) -> str:
    """A field as people write it: `spec.data.sources[0].shards[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether the value is a JSON object."""
    return isinstance(value, Mapping)


def is_array(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether the value is a JSON array."""
    return isinstance(value, list | tuple)


def is_dict(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether the value is a JSON object that can be changed in place."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether the value is a JSON array that can be changed in place."""
    return isinstance(value, list)


def texts_in(value: Any, *, keys: bool) -> Iterator[str]:
    """All texts of a JSON document, in order; names of fields among them if `keys`."""
    if isinstance(value, str):
        yield value
    elif is_object(value):
        for key, item in value.items():
            if keys:
                yield key
            yield from texts_in(item, keys=keys)
    elif is_list(value):
        for item in value:
            yield from texts_in(item, keys=keys)


PLACEMENT: Final[dict[str, Any]] = {"x-placement": True}
"""Marks a field that says where and how fast a stage runs, not what comes out: it stays out of `config_sha256`."""

LABEL_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
DNS_NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_VALUE: Final = r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$"
IMAGE: Final = r"^[^\s\x00-\x1f\x7f]+$"
BUCKET_PATTERN: Final = r"((s3|az)://[a-z0-9][a-z0-9.\-]{1,61}|gs://[a-z0-9][a-z0-9._\-]{1,61})[a-z0-9]"
# Paths and URIs end up in argument lists, log lines and storage keys: no control characters, quotes, `$`, `;`, `|` or
# leading dash, and no `?name=`: a signed URL is a secret. Schemes other than these (webdataset's `pipe:` runs a
# shell) are refused here and again by the code.
URI_PATTERN: Final = (
    rf"^({BUCKET_PATTERN}"
    r"(/[^?\x00-\x1f\x7f`$;|<>\"']*(\?[^=\x00-\x1f\x7f`$;|<>\"']*)?)?"
    r"|file:///[^?\x00-\x1f\x7f`$;|<>\"']*(\?[^=\x00-\x1f\x7f`$;|<>\"']*)?"
    r"|[A-Za-z0-9_./~{][^?:\x00-\x1f\x7f`$;|<>\"']*(\?[^=:\x00-\x1f\x7f`$;|<>\"']*)?)$"
)

Uri = Annotated[str, StringConstraints(pattern=URI_PATTERN, max_length=1024)]
"""`s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `file:///path` or a plain path."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=DNS_NAME)]
"""The name of an object of the cluster."""
Name = Annotated[str, StringConstraints(pattern=LABEL_PATTERN, max_length=40)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**62)]


@dataclass(frozen=True)
class Keyed:
    """Marks a list of models or objects that one field identifies: no value twice, and the API server merges edits
    by it.
    """

    field: str
    """name in Python and on the wire."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """The list's own schema, then the check."""
        return core_schema.no_info_after_validator_function(self._unique, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The list's own schema with Kubernetes' list type."""
        return {**handler(schema), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.field]}

    def _unique(self, items: list[Any]) -> list[Any]:
        counts = Counter(item[self.field] if is_object(item) else getattr(item, self.field) for item in items)
        twice = next((value for value, count in counts.items() if count > 1), None)
        if twice is not None:
            raise ValueError(
                f"two entries have the {self.field} {twice}: each may appear only once, rename or remove one"
            )
        return items


def without_nulls(given: Any) -> Any:
    """As the API server has it: a field or key that is null counts as absent."""
    return {key: value for key, value in given.items() if value is not None} if is_object(given) else given


class Model(BaseModel):
    """Immutable, closed to unknown keys, strict about types (a string is never taken for a number)."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return without_nulls(given)

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


SECRET_KEYS: Final = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_CREDENTIALS",),
    "az": ("AZURE_STORAGE_CONNECTION_STRING",),
}
"""Scheme -> keys of a Secret."""


def scheme_of(uri: str) -> str | None:
    """`s3`, `gs` or `az`; None for a path on a disk, and for a scheme that no store has."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator and scheme in SECRET_KEYS else None


def in_object_store(uri: str) -> bool:
    """Whether a URI names a place in an object store."""
    return scheme_of(uri) is not None


def create_condition(uri: str) -> str:
    """What a store calls the condition of a write that must replace nothing."""
    return "ifGenerationMatch=0" if scheme_of(uri) == "gs" else "If-None-Match"


def credential_variables(prefix: str, index: int) -> dict[str, str]:
    """Key of the Secret -> environment variable that brings it into a pod.

    Args:
        prefix: of the storage rule.
        index: of the rule in `spec.storage`; -1 without a rule.
    """
    keys = SECRET_KEYS[scheme_of(prefix) or "s3"]
    return {key: f"DIHT_STORAGE_{index}_{key.removeprefix('AWS_')}" for key in keys}


EPOCH: Final = "1970-01-01T00:00:00Z"
TIME_PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$"
_SCHEMA: Final[dict[str, Any]] = {"type": "string", "maxLength": 40, "pattern": TIME_PATTERN}
"""No `format`: an API server takes a list for a string that has one."""


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Kubernetes writes time (RFC 3339, whole seconds, UTC)."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")  # %Y has no leading zeros


def seconds(time: object) -> float | None:
    """A time of a status as seconds since the epoch; None if it is unset or cannot be read."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else None
    except (ValueError, OverflowError):
        return None


_Text = Annotated[str, WithJsonSchema(_SCHEMA)]
Time = Annotated[_Text | None, BeforeValidator(lambda time: None if seconds(time) is None else time)]
"""A time that cannot be read counts as unset."""
KnownTime = Annotated[_Text, BeforeValidator(lambda time: EPOCH if seconds(time) is None else time)]
"""A time that is always set; one that cannot be read counts as the epoch."""
