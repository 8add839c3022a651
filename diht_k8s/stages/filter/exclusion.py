"""The exclude list: pairs to drop (takedowns), named by uid, by where they came from (path, or table and row), or by the
SHA-256 of their URL or image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final

from diht_k8s.api.layout import Layout, join
from diht_k8s.data.imports.provenance import source_of
from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.storage import Storage

EXCLUDED: Final = "exclude"
"""Reason of the pairs that a list names."""
URL_KEYS = ("url", "URL")
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")


def read_exclusions(storage: Storage, uri: str | None) -> frozenset[str]:
    """Entries of the list, one per line. Empty lines and lines that start with # are skipped; digests are compared in
    lower case.
    """
    if uri is None:
        return frozenset()
    lines = (line.strip() for line in storage.read_text(uri).splitlines())
    entries = {line for line in lines if line and not line.startswith("#")}
    return frozenset(entries | {entry.lower() for entry in entries if _SHA256.fullmatch(entry)})


def taken_down(storage: Storage, layout: Layout) -> frozenset[str]:
    """Entries of all takedowns of an output, which every later filter applies: no variant brings a pair back."""
    lists = [join(layout.takedowns, name) for name in storage.names(layout.takedowns)]
    return frozenset[str]().union(*(read_exclusions(storage, uri) for uri in lists))


def is_excluded(sample: Sample, entries: frozenset[str]) -> bool:
    """Whether the list names this pair."""
    return bool(entries) and any(name in entries for name in names_of(sample))


def names_of(sample: Sample) -> Iterator[str]:
    """The names that a list may give this pair: its uid, where it came from, the digests of its image and of its URLs."""
    yield sample.uid
    if (source := source_of(sample.meta)) is not None:
        yield source
    yield hashlib.sha256(sample.image).hexdigest()
    for url in (sample.meta.get(key) for key in URL_KEYS):
        if isinstance(url, str):
            yield hashlib.sha256(url.encode(errors="replace")).hexdigest()
