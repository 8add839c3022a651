"""Base of every model in the contract: camelCase in documents, closed, immutable, strictly typed like the API
server.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

from diht_k8s.api.json_types import is_object

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
