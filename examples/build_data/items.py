"""A candidate with its small image, and what the JSON of every pair says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from examples.build_data.candidates import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A candidate with its small image."""

    candidate: Candidate
    image: Image.Image


def uid_of(candidate: Candidate) -> str:
    """Identity of an image, stable over rebuilds: digest of source and file."""
    return hashlib.sha256(f"{candidate.source}/{candidate.file}".encode()).hexdigest()[:12]


def fields_of(candidate: Candidate, group: int) -> dict[str, object]:
    """JSON fields that every pair has."""
    return {
        "caption": candidate.caption,
        "uid": uid_of(candidate),
        "source": candidate.source,
        "group": group,
        "painted": False,
        "licence": candidate.licence,
        "file": candidate.file,
    }
