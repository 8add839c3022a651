"""Buildah over the images of the test cluster, for `images/build`: no registry is asked for a base."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.tools import CLUSTER

BASE = "localhost/debian:bookworm"
SETTINGS = {"/etc/ssl/certs": "/etc/ssl/certs", "/etc/pip.conf": "/etc/pip.conf", "/etc/apt": "/etc/apt"}
"""What this machine needs to reach packages; in the build only."""


def buildah(folder: Path) -> Path:
    """It as a program, in a folder; one call at a time over these images, `build` beside this file included."""
    program = folder / "buildah"
    store = f"--root {CLUSTER}/images/store --runroot {CLUSTER}/images/run"
    locked = f"flock --close {CLUSTER}/images/lock /usr/bin/buildah {store}"
    program.write_text(f'#!/bin/sh\nBUILDAH_ISOLATION=chroot exec {locked} "$@"\n')
    program.chmod(0o755)
    return program


def settings(program: Path, flags: str = "") -> dict[str, str]:
    """Variables of `images/build`."""
    volumes = " ".join(f"--volume {path}:{target}:ro" for path, target in SETTINGS.items() if Path(path).exists())
    return {"BUILDER": str(program), "BASE": BASE, "BUILD_FLAGS": f"{flags} {volumes}"}
