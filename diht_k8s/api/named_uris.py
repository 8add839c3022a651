"""Every URI or path that a run document names, found by the fields' type: a new field is found without being listed.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args

from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from diht_k8s.api.base import URI_PATTERN
from diht_k8s.api.documents import model_in
from diht_k8s.api.json_types import FieldPath, is_list
from diht_k8s.api.run import Spec

RULES: Final = "storage.prefix"
"""Names no file but says for which URIs a rule is."""


@dataclass(frozen=True)
class NamedUri:
    """A URI, path or pattern, and the field that names it."""

    path: FieldPath
    """from the document's root on."""
    uri: str

    @property
    def field(self) -> str:
        """The field below `spec` without places in lists: `data.sources.shards`."""
        return ".".join(part for part in self.path[1:] if isinstance(part, str))


def uri_fields() -> list[str]:
    """All fields of that type, as `NamedUri.field` writes them."""
    return sorted(_fields(Spec, ""))


def _fields(model: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{before}{field.alias or name}"
        if _holds_uri(field):
            yield path
        elif (inside := model_in(field.annotation)) is not None:
            yield from _fields(inside, f"{path}.")


def named_uris(spec: Spec) -> list[NamedUri]:
    """What a document names, in its order."""
    return [each for each in _named(spec, ("spec",)) if each.field != RULES]


def _named(value: Any, path: FieldPath) -> Iterator[NamedUri]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inside: Any = getattr(value, name)
            below = (*path, field.alias or name)
            if _holds_uri_of(type(value), name):
                yield from _uris(inside, below)
            else:
                yield from _named(inside, below)
    elif is_list(value):
        for place, item in enumerate(value):
            yield from _named(item, (*path, place))


def _uris(value: Any, path: FieldPath) -> Iterator[NamedUri]:
    if is_list(value):
        yield from (NamedUri((*path, place), item) for place, item in enumerate(value))
    elif value is not None:
        yield NamedUri(path, value)


@cache
def _holds_uri_of(model: type[BaseModel], name: str) -> bool:
    return _holds_uri(model.model_fields[name])


def _holds_uri(field: FieldInfo) -> bool:
    return _is_uri(field.metadata) or _mentions_uri(field.annotation)


def _mentions_uri(annotation: Any) -> bool:
    return _is_uri(getattr(annotation, "__metadata__", ())) or any(map(_mentions_uri, get_args(annotation)))


def _is_uri(metadata: Any) -> bool:
    return any(isinstance(each, StringConstraints) and each.pattern == URI_PATTERN for each in metadata)
