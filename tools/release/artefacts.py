"""Builds what is published, from one commit: wheel, source distribution, images, chart, bills of materials, notes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.release.programs import program
from tools.release.shell import output, run

IMAGES: Final = ("operator", "recipe")
CHART: Final = "helm/diht-operator"
LOOPBACK: Final = "127.0.0.1:"
"""A registry there speaks plain HTTP."""


class ReleaseError(Exception):
    """What keeps a release from being made."""


@dataclass(frozen=True)
class Source:
    """The files of one commit."""

    tree: Path
    commit: str
    version: str
    """of the package, and so of everything (tests/contract/test_versions.py)"""
    environment: dict[str, str]
    """commit and its time, as builds want them: the tree itself is no checkout"""


def exported(repository: Path, tree: Path, revision: str = "HEAD") -> Source:
    """Write the files of a commit, by default the checked-out one, below `tree`: what is not committed is in no
    release.

    Raises:
        ReleaseError: the package names no version.
        subprocess.CalledProcessError: there is no such commit.
    """
    archive = subprocess.run(["git", "archive", revision], cwd=repository, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tree, filter="data")
    found = re.search(r'^__version__ = "(.+)"$', (tree / "diht_k8s/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseError("diht_k8s/__init__.py has no __version__")
    commit, time = output("git", "log", "-1", "--format=%H %ct", revision, cwd=repository).split()
    return Source(tree, commit, found[1], {"REVISION": commit, "SOURCE_DATE_EPOCH": time})


def notes(changelog: str, version: str, *, dated: bool) -> str:
    """The section of a version of CHANGELOG.md.

    Args:
        changelog: the text.
        version: the version.
        dated: its heading must have a day: nobody tags what says `unreleased`.

    Raises:
        ReleaseError: there is no such section, nothing is in it, or it has no day.
    """
    found = re.search(rf"(?ms)^## \[{re.escape(version)}\]([^\n]*)\n(.*?)(?=^## \[|\Z)", changelog)
    if found is None or not found[2].strip():
        raise ReleaseError(f"CHANGELOG.md has no section ## [{version}], or nothing in it")
    if dated and not re.fullmatch(r" - \d{4}-\d\d-\d\d", found[1]):
        raise ReleaseError(f"CHANGELOG.md does not say when: write ## [{version}] - YEAR-MONTH-DAY")
    return f"{found[2].strip()}\n"


def pinned_base(tree: Path) -> str:
    """The base of the images, `NAME:TAG@sha256:...`: that of BASE, or of the Containerfiles, with the digest that it
    has now.

    A name at `localhost/` is of no registry, so its digest is that of the builder's own store.

    Raises:
        subprocess.CalledProcessError: nobody knows the base.
    """
    name = os.environ.get("BASE") or next(
        line.removeprefix("ARG BASE=")
        for line in (tree / "images/operator.Containerfile").read_text().splitlines()
        if line.startswith("ARG BASE=")
    )
    if "@sha256:" in name:
        return name
    if name.startswith("localhost/"):
        return f"{name}@{output(os.environ.get('BUILDER', 'buildah'), 'images', '--format', '{{.Digest}}', name)}"
    return f"{name}@{output(program('crane'), 'digest', name)}"


def python_packages(source: Source, dist: Path) -> None:
    """Wheel and source distribution, by the pinned setuptools of this environment; files carry the commit's time."""
    wheel(source, dist)
    call = (
        f"import setuptools.build_meta as backend; backend.build_sdist({str(dist)!r}, {{'--global-option': "
        f"['--quiet']}})"
    )
    run(sys.executable, "-c", call, cwd=source.tree, env=source.environment)


def wheel(source: Source, dist: Path) -> None:
    """The wheel alone."""
    words = ("wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, ".")
    run(sys.executable, "-m", "pip", *words, cwd=source.tree, env=source.environment)


def bills_of_python_packages(tree: Path, dist: Path) -> None:
    """A bill of materials for each way to install, and the requirements with hashes that it was made of."""
    run(tree / "tools/sbom", dist, cwd=tree, env={"PYTHON": sys.executable})
    for path in (tree / "requirements").glob("*.txt"):
        shutil.copyfile(path, dist / f"requirements-{path.name}")


def pushed_image(source: Source, name: str, registry: str, base: str) -> str:
    """Build an image upon a base and push it; returns its digest, `sha256:...`."""
    environment = {**source.environment, "IMAGE_PREFIX": f"{registry}/", "PUSH": "1", "BASE": base}
    run(source.tree / "images/build", name, cwd=source.tree, env=environment)
    return output(program("crane"), "digest", f"{registry}/diht-{name}:{source.version}")


def bill_of_image(reference: str, target: Path) -> None:
    """The bill of materials of an image in a registry: Debian's packages, too."""
    local = {"SYFT_REGISTRY_INSECURE_USE_HTTP": "true"} if reference.startswith(LOOPBACK) else {}
    settings = {"SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FILE_METADATA_SELECTION": "none", **local}
    run(
        program("syft"),
        "scan",
        "--quiet",
        "--output",
        f"cyclonedx-json@1.6={target}",
        f"registry:{reference}",
        env=settings,
    )


def packed_chart(tree: Path, folder: Path, registry: str, digests: Mapping[str, str]) -> Path:
    """The chart as a file. It names the registry, and pins the images: who trusts the chart trusts them.

    Args:
        tree: the source.
        folder: where it is made.
        registry: host and path of the images.
        digests: name of an image -> its digest, `sha256:...`.

    Raises:
        ReleaseError: values.yaml is not what this expects.
    """
    chart = folder / "diht-operator"
    shutil.copytree(tree / CHART, chart)
    values = (chart / "values.yaml").read_text()
    ours = {
        "  repository: diht-operator": f"  repository: {registry}/diht-operator",
        '  digest: ""': f"  digest: {digests['diht-operator']}",
        '    digest: ""': f"    digest: {digests.get('diht-recipe') or json.dumps('')}",
    }
    for default, line in ours.items():
        if values.count(f"\n{default}\n") != 1:
            raise ReleaseError(f"values.yaml of the chart does not have the line {default!r} once")
        values = values.replace(f"\n{default}\n", f"\n{line}\n")
    (chart / "values.yaml").write_text(values)
    metadata: dict[str, Any] = yaml.safe_load((chart / "Chart.yaml").read_text())
    images = [{"name": name, "image": f"{registry}/{name}@{digest}"} for name, digest in digests.items()]
    metadata["annotations"]["artifacthub.io/images"] = yaml.safe_dump(images, sort_keys=False)
    (chart / "Chart.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False))
    run(program("helm"), "package", chart, "--destination", folder)
    return folder / f"diht-operator-{metadata['version']}.tgz"


def pushed_chart(file: Path, registry: str, version: str) -> str:
    """Push the packed chart as an OCI artefact; returns its digest."""
    local = ("--plain-http",) if registry.startswith(LOOPBACK) else ()
    run(program("helm"), "push", file, f"oci://{registry}/charts", *local)
    return output(program("crane"), "digest", f"{registry}/charts/diht-operator:{version}")
