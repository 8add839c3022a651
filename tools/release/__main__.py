"""A release of the checked-out commit, or a rehearsal of one on this machine.

    python -m tools.release --dry-run
    python -m tools.release --tag v0.1.0 --registry registry.example.org/team --key env://COSIGN_PRIVATE_KEY

It runs `make test` (or the targets of --checks), builds wheel, source distribution, bills of materials, images and
chart, pushes images and chart, states where all of it comes from, signs, and runs the commands of docs/install.md that
verify it. The files for the release's page are then in build/release/dist. --dry-run pushes to a registry that it
starts on the loopback, and signs with a new key. `images/build` builds: its variables BUILDER, BASE and BUILD_FLAGS
hold here, too. A BASE without a digest gets the one that it has now; labels and provenance name it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from diht_k8s import __version__
from tools.release import artefacts
from tools.release.artefacts import IMAGES, ReleaseError
from tools.release.programs import WrongModuleError
from tools.release.publishing import ROOT, publish, rehearsal
from tools.release.shell import run

FOLDER: Final = ROOT / "build/release"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make it; returns 1 where something keeps it from being made."""
    parser = _parser()
    wanted = parser.parse_args(arguments)
    if wanted.tag and not (wanted.registry and wanted.key):
        parser.error("--tag needs --registry and --key")
    if "operator" not in wanted.images:
        parser.error("--images: the operator's is always among them, since the chart names its digest")
    try:
        page = notes(wanted.tag)
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        (FOLDER / "notes.md").write_text(page)
        for target in wanted.checks:
            run("make", target, cwd=ROOT)
        if wanted.dry_run:
            with rehearsal(FOLDER, wanted.images) as release:
                print(f"rehearsed: {release.dist}", flush=True)
        else:
            release = publish(FOLDER, wanted.registry, wanted.key, wanted.images)
            print(f"published: {release.registry}, {release.dist}", flush=True)
    except (ReleaseError, WrongModuleError, subprocess.CalledProcessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def notes(tag: str | None) -> str:
    """What the release's page says; without a tag, what it would say today.

    Raises:
        ReleaseError: the tag is not the package's version, or CHANGELOG.md does not have it with a day.
    """
    if tag not in (None, f"v{__version__}"):
        raise ReleaseError(
            f"the tag is {tag}, and the package's version {__version__}: tag v{__version__}, or change the version"
        )
    return artefacts.notes((ROOT / "CHANGELOG.md").read_text(), __version__, dated=tag is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--dry-run", action="store_true", help="rehearse on this machine")
    kind.add_argument("--tag", help="the tag that is released: v and the version")
    parser.add_argument("--registry", help="host and path for images and chart")
    parser.add_argument("--key", help="private key, as cosign names it; COSIGN_PASSWORD has its password")
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=list(IMAGES), help="both, unless this names one")
    parser.add_argument(
        "--checks", nargs="*", default=["test"], metavar="TARGET", help="targets of make to run first (test)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
