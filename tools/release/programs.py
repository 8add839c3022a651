"""The programs that a release needs beside Python, each built from its Go module at a pinned version and digest, once a
machine.

python -m tools.release.programs cosign    # prints its path
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.release.shell import output, run


@dataclass(frozen=True)
class Program:
    """A program of a Go module."""

    package: str
    """what `go install` builds, below the module"""
    module: str
    version: str
    digest: str
    """of the module's source, as Go writes it into go.sum"""


PROGRAMS: Final = {
    "cosign": Program(
        "cmd/cosign", "github.com/sigstore/cosign/v3", "v3.1.3", "h1:001JQRI/PJ/5T+g/kJ1KTvKFbb322+fomc+pHDZ/6sg="
    ),
    "crane": Program(
        "cmd/crane",
        "github.com/google/go-containerregistry",
        "v0.22.1",
        "h1:RZuuSYhTvlDvtsK+NkutoCZ//C0X2ebLK8X8l3ULs84=",
    ),
    "grype": Program(
        "cmd/grype", "github.com/anchore/grype", "v0.121.2", "h1:t8eTlmy/XSrNwjoahWG+oUod1oCLL3KL48l/qwkzUQw="
    ),
    "helm": Program("cmd/helm", "helm.sh/helm/v3", "v3.22.0", "h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU="),
    "syft": Program(
        "cmd/syft", "github.com/anchore/syft", "v1.57.1", "h1:lrbWhc8hbZJSKekMdB3PKetO0upE+lv9ihUfv9CXgfU="
    ),
}
"""cosign signs and verifies, crane serves a registry and reads digests, grype knows vulnerabilities, helm packs the
chart, syft lists what is in an image.
"""


class WrongModuleError(Exception):
    """The module that was downloaded is not the one that is pinned here."""


def folder() -> Path:
    """Where the programs are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diht-k8s/release"


def program(name: str) -> Path:
    """The path of a program, which is built where it is not there: seconds for crane, minutes for cosign and syft.
    Needs Go.

    Raises:
        WrongModuleError: the source has another digest.
        subprocess.CalledProcessError: Go failed.
    """
    found = PROGRAMS[name]
    place = folder() / f"{found.version}-{output('go', 'env', 'GOVERSION')}"
    if not (place / name).is_file():
        source = json.loads(output("go", "mod", "download", "-json", f"{found.module}@{found.version}"))["Sum"]
        if source != found.digest:
            raise WrongModuleError(f"{found.module}@{found.version} has the digest {source}, not {found.digest}")
        settings = {"GOBIN": str(place), "GOFLAGS": "", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        run("go", "install", "-ldflags", "-s -w", f"{found.module}/{found.package}@{found.version}", env=settings)
    return place / name


if __name__ == "__main__":
    print(program(sys.argv[1]))
