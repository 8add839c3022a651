"""Command line: packages in, `examples/data/` out. Nothing is written before the whole data set stands."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
import zlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import features

from diht_k8s.api.errors import UserError
from examples.build_data import build, sources
from examples.build_data.shards import write_shards

DATA = Path(__file__).resolve().parent.parent / "data"
TRAIN_SHARDS = 16
MAX_BYTES = 14_000_000
COPYRIGHT = {  # package -> what its images or names are in the data set
    "fonts-noto-color-emoji": "Images with source `noto-emoji`: Noto Color Emoji, SIL Open Font License 1.1",
    "unicode-cldr-core": "Captions of these images, foreign ones too: names of the Unicode CLDR, Unicode-DFS-2016",
    "openclipart-png": "Images with source `openclipart` and their captions: public domain",
    "fonts-dejavu-core": "Letters of watermarks and text-only images: DejaVu fonts (the fonts are not included)",
}

log = logging.getLogger("build_data")


def sources_document(packages: list[sources.Package], data: build.DataSet) -> dict[str, Any]:
    """What SOURCES.json says: packages, tools, seed, and every image's fate by number.

    Raises:
        AssertionError: the numbers do not add up.
    """
    kept = sum(tally.kept for tally in data.tallies.values())
    figures = data.figures
    assert kept == figures["pictures"], (kept, figures)
    parts = ("train", "development", "heldout", "other_members_of_gallery_groups")
    assert kept == sum(figures[part] for part in parts)
    return {
        "schema_version": 1,
        "packages": [asdict(package) for package in packages],
        "tools": {
            "python": platform.python_version(),
            "pillow": version("pillow"),
            "libwebp": features.version("webp"),
            "fonttools": version("fonttools"),
            "numpy": version("numpy"),
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
        },
        "seed": build.SEED,
        "pictures": {
            source: {"seen": tally.seen, "kept": tally.kept, "dropped": dict(sorted(tally.dropped.items()))}
            for source, tally in data.tallies.items()
        },
        "split": figures,
        "junk": data.junk,
    }


def licences_document(unpacked: Path) -> str:
    """LICENCES.md: the copyright file of each package whose content is in the data set."""
    parts = ["# Licences of the demo's data\n\nEach pair's JSON names its image's licence. The notices in full:\n"]
    for package, title in COPYRIGHT.items():
        text = (unpacked / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8").strip()
        parts.append(f"## {title}\n\nFrom the Debian package `{package}`:\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def write(folder: Path, packages: list[sources.Package], data: build.DataSet, unpacked: Path) -> int:
    """Write shards and documents; returns the bytes of all shards."""
    total = write_shards(folder / "train", data.train, number=TRAIN_SHARDS)
    for name, pairs in (("development", data.development), ("heldout", data.held_out)):
        total += write_shards(folder / name, pairs, number=1)
        (folder / name / "classnames.txt").write_text("".join(f"{each}\n" for each in data.classes))
        (folder / name / "templates.txt").write_text("".join(f"{template}\n" for template in build.TEMPLATES))
    document = json.dumps(sources_document(packages, data), indent=2, ensure_ascii=False)
    (folder / "SOURCES.json").write_text(document + "\n", encoding="utf-8")
    (folder / "LICENCES.md").write_text(licences_document(unpacked), encoding="utf-8")
    return total


def main() -> int:
    """Parse the arguments, build, report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.build_data", description=__doc__)
    parser.add_argument("--debs", type=Path, help="folder of .deb files; what is missing is fetched into it by apt-get")
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write (default: examples/data)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            unpacked = Path(scratch) / "unpacked"
            packages = sources.collect(options.debs or Path(scratch) / "debs", unpacked)
            data = build.build(unpacked)
            total = write(options.out, packages, data, unpacked)
    except UserError as error:
        log.error("%s", error)
        return int(error.exit_code)
    log.info("wrote %s bytes of shards to %s: %s", f"{total:,}", options.out, data.figures)
    if total > MAX_BYTES:
        log.error("the shards are larger than %s bytes: lower build.MAX_SAME_CAPTION", f"{MAX_BYTES:,}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
