"""What is stated of a release: an in-toto statement with SLSA's provenance as its predicate, and no claim of a level.

Formats: in-toto Statement v1, SLSA Provenance v1. Pure: what it states is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:diht-k8s:tools.release:1"
"""What `tools/release` does. Its external parameters: the version, the images that were built, whether it is a
rehearsal.
"""


@dataclass(frozen=True)
class Build:
    """One run of `tools/release`."""

    version: str
    commit: str
    source: str
    """URI of the repository"""
    builder: str
    """URI of what ran it"""
    images: Sequence[str]
    base: str
    """of the images, `NAME:TAG@sha256:...`"""
    rehearsal: bool
    started: datetime
    requirements: Mapping[str, str]
    """the files of pinned packages: path -> SHA-256"""


def predicate(build: Build, finished: datetime) -> dict[str, Any]:
    """What was built, from what, by whom and when."""
    base, _, base_digest = build.base.partition("@sha256:")
    materials = {base: base_digest, **dict(sorted(build.requirements.items()))}
    pinned = [{"name": name, "digest": {"sha256": digest}} for name, digest in materials.items()]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "version": build.version,
                "images": list(build.images),
                "rehearsal": build.rehearsal,
            },
            "resolvedDependencies": [{"uri": build.source, "digest": {"gitCommit": build.commit}}, *pinned],
        },
        "runDetails": {
            "builder": {"id": build.builder},
            "metadata": {
                "invocationId": f"{build.commit}/{build.started.isoformat()}",
                "startedOn": build.started.isoformat(),
                "finishedOn": finished.isoformat(),
            },
        },
    }


def statement(subjects: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement about all of them.

    Args:
        subjects: name -> SHA-256, of files and of what is in a registry.
        predicate: what is stated.
    """
    named = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())]
    return {"_type": STATEMENT_TYPE, "subject": named, "predicateType": PREDICATE_TYPE, "predicate": dict(predicate)}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
