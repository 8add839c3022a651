"""The base of every model in the contract: camelCase on the wire, closed, immutable, strictly typed like the API server."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

PLACEMENT: Final[dict[str, Any]] = {"x-placement": True}
"""Marks a field that says where and how fast a stage runs, not what comes out: it stays out of `config_sha256`."""

LABEL_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
# Paths and URIs end up in argument lists, log lines and storage keys: no control characters, quotes, `$`, `;`, `|` or
# leading dash. Schemes other than s3 and file (webdataset's `pipe:` runs a shell) are refused here and again by the code.
URI_PATTERN: Final = (
    r"^(s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/[^\x00-\x1f\x7f`$;|<>\"']*)?"
    r"|file:///[^\x00-\x1f\x7f`$;|<>\"']*"
    r"|[A-Za-z0-9_./~{][^:\x00-\x1f\x7f`$;|<>\"']*)$"
)

Uri = Annotated[str, StringConstraints(pattern=URI_PATTERN, max_length=1024)]
"""`s3://bucket/key`, `file:///path` or a plain path."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, StringConstraints(pattern=LABEL_PATTERN, max_length=40)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**62)]


class Model(BaseModel):
    """Immutable, closed to unknown keys, strict about types (a string is never taken for a number)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
