"""The exclude list: pairs to drop (takedowns), named by uid or by the SHA-256 of their URL or image."""

from __future__ import annotations

import hashlib

from diht_k8s.recipe.shards.samples import Sample
from diht_k8s.recipe.shards.storage import Storage

URL_KEYS = ("url", "URL")


def read_exclusions(storage: Storage, uri: str | None) -> frozenset[str]:
    """Entries of the list, one per line. Empty lines and lines that start with # are skipped; digests are compared in
    lower case.
    """
    if uri is None:
        return frozenset()
    lines = (line.strip() for line in storage.read_text(uri).splitlines())
    entries = {line for line in lines if line and not line.startswith("#")}
    return frozenset(entries | {entry.lower() for entry in entries})


def is_excluded(sample: Sample, entries: frozenset[str]) -> bool:
    """Whether the list names this pair."""
    if not entries:
        return False
    if sample.uid in entries or hashlib.sha256(sample.image).hexdigest() in entries:
        return True
    urls = (sample.meta.get(key) for key in URL_KEYS)
    return any(
        isinstance(url, str) and hashlib.sha256(url.encode(errors="replace")).hexdigest() in entries for url in urls
    )
