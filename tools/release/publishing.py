"""The release of one commit: build, push, state, sign, verify."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tools.release import artefacts, documented, provenance
from tools.release.artefacts import Source
from tools.release.provenance import Build, sha256
from tools.release.registry import served
from tools.release.signing import Signer, generated_key

ROOT: Final = Path(__file__).resolve().parents[2]
SUMS: Final = "SHA256SUMS"
IN_REGISTRY: Final = "images.txt"
BUNDLE: Final = "provenance.sigstore.json"
KEY: Final = "cosign.pub"
"""Files of a release by which a user checks it (docs/install.md)."""


@dataclass(frozen=True)
class Release:
    """What is in a registry, and the files beside it."""

    registry: str
    """host and path"""
    dist: Path
    digests: Mapping[str, str]
    """name below the registry -> `sha256:...`, of images and chart"""


@contextmanager
def rehearsal(folder: Path, images: Sequence[str]) -> Iterator[Release]:
    """A release to a registry of this machine, which runs meanwhile, signed with a new key."""
    with served(folder / "registry") as address:
        key = generated_key(folder / "signing")
        yield publish(folder, f"{address}/diht", key, images, is_rehearsal=True)


def publish(folder: Path, registry: str, key: str, images: Sequence[str], *, is_rehearsal: bool = False) -> Release:
    """Build the checked-out commit, push, state where it comes from, sign, and verify as a user would.

    Args:
        folder: where everything is made; `dist` in it is for the release's page.
        registry: host and path of images and chart.
        key: the private key, as cosign names it.
        images: of `artefacts.IMAGES`; the operator's among them.
        is_rehearsal: is stated.

    Raises:
        artefacts.ReleaseError: the tree is not what this expects. subprocess.CalledProcessError: a program failed, or
        what was published does not pass the documented verification.
    """
    started = datetime.now(UTC)
    source = artefacts.exported(ROOT, folder / "tree")
    base = artefacts.pinned_base(source.tree)
    release = build(source, folder, registry, images, base)
    pinned = {f"requirements/{path.name}": sha256(path) for path in (source.tree / "requirements").iterdir()}
    made = Build(source.version, source.commit, *_origin(source.version), images, base, is_rehearsal, started, pinned)
    sign(release, Signer(key, folder / "signing"), made)
    documented.verify((source.tree / "docs/install.md").read_text(), release.dist, registry, release.dist / KEY)
    return release


def build(source: Source, folder: Path, registry: str, images: Sequence[str], base: str) -> Release:
    """Build everything, the images upon a base, and push images and chart."""
    dist = folder / "dist"
    dist.mkdir(parents=True)
    artefacts.python_packages(source, dist)
    artefacts.bills_of_python_packages(source.tree, dist)
    digests: dict[str, str] = {}
    for name in images:
        digests[f"diht-{name}"] = digest = artefacts.pushed_image(source, name, registry, base)
        artefacts.bill_of_image(f"{registry}/diht-{name}@{digest}", dist / f"diht-{name}.cdx.json")
    chart = artefacts.packed_chart(source.tree, folder / "chart", registry, digests)
    digests["charts/diht-operator"] = artefacts.pushed_chart(chart, registry, source.version)
    shutil.copy(chart, dist)
    return Release(registry, dist, digests)


def sign(release: Release, signer: Signer, made: Build) -> None:
    """Sign all of it, state where it comes from, and leave beside it what a user verifies it with."""
    dist = release.dist
    signer.folder.mkdir(parents=True, exist_ok=True)
    (dist / IN_REGISTRY).write_text("".join(f"{name}@{digest}\n" for name, digest in release.digests.items()))
    sums = {path.name: sha256(path) for path in sorted(dist.iterdir())}
    (dist / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    subjects = {
        **sums,
        SUMS: sha256(dist / SUMS),
        **{name: digest.removeprefix("sha256:") for name, digest in release.digests.items()},
    }
    stated = provenance.predicate(made, datetime.now(UTC))
    predicate, statement = signer.folder / "provenance.json", signer.folder / "statement.json"
    predicate.write_text(json.dumps(stated, indent=1))
    statement.write_text(json.dumps(provenance.statement(subjects, stated), indent=1))
    for name, digest in release.digests.items():
        bill = dist / f"{name}.cdx.json"
        bills = {"cyclonedx": bill} if bill.is_file() else {}
        signer.image(f"{release.registry}/{name}@{digest}", {"slsaprovenance1": predicate, **bills})
    signer.files(statement, dist / BUNDLE)
    signer.public_key(dist / KEY)


def _origin(version: str) -> tuple[str, str]:
    """URIs of the repository and of what builds: the workflow that runs this, or somebody's machine."""
    variables = os.environ
    if "GITHUB_WORKFLOW_REF" in variables:
        server = variables["GITHUB_SERVER_URL"]
        repository = f"git+{server}/{variables['GITHUB_REPOSITORY']}@{variables['GITHUB_REF']}"
        return repository, f"{server}/{variables['GITHUB_WORKFLOW_REF']}"
    return f"pkg:generic/diht-k8s@{version}", "urn:diht-k8s:tools.release:by-hand"
