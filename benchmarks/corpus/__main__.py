"""The corpus of the evidence: `python -m benchmarks.corpus`. Needs npm and resvg (extra `dev`)."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks._arguments import make_parser
from benchmarks.corpus.build import SEED, Corpus, build
from benchmarks.corpus.icon_sets import ICON_SETS, PACKAGE, VERSION
from benchmarks.corpus.splits import SPLITS
from benchmarks.corpus.unseen import MEASURED_SETS, folders
from diht_k8s.api.errors import UserError
from examples.build_data.candidates import Tally
from examples.build_data.shards import write_shards

SHARD_PAIRS: Final = 2000
SHA256: Final = "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91"
"""of the package's tarball: the corpus of another one is another corpus."""

log = logging.getLogger("corpus")


def fetch(folder: Path) -> Path:
    """The unpacked package; npm fetches it where it does not lie in the folder.

    Raises:
        UserError: npm cannot fetch it, or it is another tarball.
    """
    path = folder / f"{PACKAGE.lstrip('@').replace('/', '-')}-{VERSION}.tgz"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise UserError(f"npm cannot fetch {PACKAGE} ({error}): install npm, or put {path.name} there") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise UserError(
            f"{path} has the SHA-256 {digest} in place of {SHA256}: remove it, so that npm fetches it again"
        )
    unpacked = folder / "unpacked"
    if not (unpacked / "package" / "collections.json").exists():
        with tarfile.open(path) as tar:
            tar.extractall(unpacked, filter="data")
    return unpacked / "package"


def document(corpus: Corpus, package: Path, unseen: Mapping[str, Tally]) -> dict[str, Any]:
    """What SOURCES.json says: sets with licence, author and every icon's fate, and the pairs of each split.

    Args:
        corpus: the splits.
        package: names licences and authors.
        unseen: what became of the icons of sets that no split has, or that are drawn again for their categories.
    """
    infos: dict[str, Any] = json.loads((package / "collections.json").read_text(encoding="utf-8"))

    def told(tallies: Mapping[str, Tally], styles: Mapping[str, str]) -> dict[str, Any]:
        return {
            name: {
                "style": styles[name],
                "licence": infos[name]["license"]["spdx"],
                "author": infos[name]["author"]["name"],
                "url": infos[name]["author"].get("url", ""),
                "seen": tally.seen,
                "kept": tally.kept,
                "dropped": dict(sorted(tally.dropped.items())),
            }
            for name, tally in tallies.items()
        }

    sets = told(corpus.tallies, ICON_SETS)
    splits = {split: len(corpus.pairs[split]) for split in SPLITS}
    assert sum(splits.values()) == sum(each["kept"] for each in sets.values()), "every icon is accounted for"
    styles = Counter(pair.fields["look"]["style"] for pair in corpus.pairs["train"])
    return {
        "schema_version": 1,
        "package": {"name": PACKAGE, "version": VERSION, "sha256": SHA256},
        "seed": SEED,
        "splits": splits,
        "training_styles": dict(styles.most_common()),
        "sets": sets,
        "measured_only": told(unseen, MEASURED_SETS),
    }


def main() -> int:
    """Fetch, build, write; returns the exit code."""
    parser = make_parser("corpus", __doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="folder (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw (default: %(default)s)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        package = fetch(options.work / "npm")
        corpus = build(package, workers=options.workers)
    except UserError as error:
        log.error("%s", error)
        return int(error.exit_code)
    for split, pairs in corpus.pairs.items():
        write_shards(options.work / split, pairs, number=max(1, round(len(pairs) / SHARD_PAIRS)))
    measured, classes, tallies = folders(package, corpus)
    for folder, pairs in measured.items():
        write_shards(options.work / folder, pairs, number=1)
    for folder, names in classes.items():
        (options.work / folder / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
    text = json.dumps(document(corpus, package, tallies), indent=1, ensure_ascii=False)
    (options.work / "SOURCES.json").write_text(text + "\n", encoding="utf-8")
    log.info("%s", {folder: len(pairs) for folder, pairs in {**corpus.pairs, **measured}.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
