"""The Debian packages that the data comes from: fetch them, unpack them, say exactly which they are."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from diht_k8s.api.errors import UserError

PACKAGES = {
    "openclipart-png": "public domain (each image's own SVG says so; others are left out)",
    "openclipart-svg": "public domain (used for titles, descriptions, keywords and licences)",
    "fonts-noto-color-emoji": "OFL-1.1",
    "unicode-cldr-core": "Unicode-DFS-2016",
    "fonts-dejavu-core": "Bitstream-Vera (only its letters are painted)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One Debian package as it was used."""

    name: str
    version: str
    sha256: str
    licence: str


def _output_of(*argv: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603  # fixed argv
    except FileNotFoundError:
        raise UserError(f"{argv[0]} not found: this script needs a Debian system") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{' '.join(argv)} failed ({reason}): check the package sources, or give --debs") from error
    return done.stdout.strip()


def collect(folder: Path, unpacked: Path) -> list[Package]:
    """Make sure that all packages lie in `folder` (fetch what is missing) and unpack them below `unpacked`.

    Raises:
        UserError: a package can't be fetched or unpacked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packages = []
    for name, licence in PACKAGES.items():
        if not list(folder.glob(f"{name}_*.deb")):
            _output_of("apt-get", "download", name, folder=folder.resolve())
        deb = max(folder.glob(f"{name}_*.deb"))
        _output_of("dpkg-deb", "--extract", str(deb), str(unpacked))
        version = _output_of("dpkg-deb", "--field", str(deb), "Version")
        sha256 = hashlib.sha256(deb.read_bytes()).hexdigest()
        packages.append(Package(name=name, version=version, sha256=sha256, licence=licence))
    return packages
