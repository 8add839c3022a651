"""A run's sources must not be what stages write: a pattern that matches a stage's folder would match more each time.

Pure text work on a document. Stage programs check again with patterns expanded and paths resolved
(`runtime.own_inputs`). Single folders that a document names below its own output, of another variant, are legal.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from diht_k8s.api.object_stores import in_object_store

if TYPE_CHECKING:
    from diht_k8s.api.run import Spec

STAGE_FOLDERS: Final = ("filter", "label", "train", "evaluate")
_WILD: Final = re.compile(r"[*?\[{]")


def source_patterns(spec: Spec) -> Iterator[tuple[str, str]]:
    """Field and URI or pattern of every source."""
    for source in spec.data.sources:
        yield from ((f"data.sources {source.name}", uri) for uri in (source.shards or source.captions or ()))


def own_input_problems(spec: Spec) -> list[str]:
    """One problem for the first source that lies inside a stage folder of the run's own output; [] if there is none."""
    for field, uri in source_patterns(spec):
        place = _normal(literal_part(uri))
        for folder in (_normal(f"{spec.data.output.rstrip('/')}/{name}") for name in STAGE_FOLDERS):
            if place == folder or place.startswith(folder + "/"):
                return [own_input_message(field, uri, folder)]
    return []


def own_input_message(field: str, uri: str, folder: str) -> str:
    """What is wrong, and what to do."""
    return f"{field}: {uri} lies inside {folder}, where a stage of this output writes: move it, or choose another data.output"


def literal_part(pattern: str) -> str:
    """A pattern up to the last folder before its first brace or wildcard; a plain URI as it is."""
    wild = _WILD.search(pattern)
    return pattern if wild is None else pattern[: wild.start()].rpartition("/")[0]


def _normal(uri: str) -> str:
    """One text for most spellings of a place; which folder relative paths start from is not known here."""
    if in_object_store(uri):
        return uri.rstrip("/")
    return posixpath.normpath(uri.removeprefix("file://"))
