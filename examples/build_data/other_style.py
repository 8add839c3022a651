"""The demo's other style: 500 drawings of packages that no choice has seen. `python -m
examples.build_data.other_style`.

The rule, fixed before the first figure on it was read:

1. Candidates are the colour drawings of `icons.ICON_SETS` in categories that show things; captions are their names.
2. A candidate is left out if its caption or base name is one of the other splits' pairs, or if it looks nearly
   like one of their images (the measures by which those were split).
3. The rest is grouped by the same measures, and each group keeps one drawing.
4. Of the classes with at least `MIN_CLASS` drawings up to `PER_CLASS` are drawn, then others up to `NUMBER`, by `SEED`.

The committed shards of the other splits are read, not rebuilt.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from PIL import Image

from diht_k8s.api.errors import UserError
from examples.build_data import build, groups, icons, openclipart, pictures
from examples.build_data.candidates import Candidate, Tally, normalised
from examples.build_data.items import Item
from examples.build_data.shards import Pair, write_shards

DATA: Final = Path(__file__).resolve().parent.parent / "data"
OTHER_SPLITS: Final = ("train", "development", "heldout")
SEED: Final = 20261126
NUMBER: Final = 500
PER_CLASS: Final = 40
MIN_CLASS: Final = 12

log = logging.getLogger("build_data")


@dataclass(frozen=True)
class Taken:
    """What the other splits have."""

    names: frozenset[str]
    """normalised captions and base names."""
    images: list[Image.Image]


def taken(folder: Path) -> Taken:
    """Names and images of the other splits' pairs."""
    names: set[str] = set()
    images: list[Image.Image] = []
    for shard in sorted(path for split in OTHER_SPLITS for path in (folder / split).glob("*.tar.gz")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None, "shards have plain files only"
                if member.name.endswith(".json"):
                    names |= names_of(json.loads(file.read()))
                else:
                    with Image.open(io.BytesIO(file.read())) as image:
                        images.append(image.convert("RGB"))
    return Taken(frozenset(names), images)


def names_of(fields: dict[str, Any]) -> set[str]:
    """Every name of a pair: its caption, the caption without keywords, and clip art's file name."""
    texts = [fields["caption"], fields["caption"].split(",")[0]]
    if fields["source"] == openclipart.SOURCE:
        texts.append(fields["file"].rsplit("/", 1)[-1])
    return {name for text in texts for name in (normalised(text), groups.base_name(text)) if name}


def open_items(items: Sequence[Item], closed: Taken, tallies: dict[str, Tally]) -> list[Item]:
    """The items that share no name and no look with the other splits (rule 2)."""
    thumbnails_ND = np.stack([pictures.thumbnail(image) for image in [*closed.images, *(item.image for item in items)]])
    first = len(closed.images)
    similar = pictures.near_duplicates(thumbnails_ND, limit=build.NEAR_DUPLICATE)
    alike = {second - first for one, second in similar if one < first <= second}
    kept: list[Item] = []
    for number, item in enumerate(items):
        names = {normalised(item.candidate.caption), groups.base_name(item.candidate.caption)}
        if names & closed.names:
            tallies[item.candidate.source].drop("name_of_another_split")
        elif number in alike:
            tallies[item.candidate.source].drop("looks_like_another_split")
        else:
            kept.append(item)
    return kept


def one_of_each_group(items: Sequence[Item], tallies: dict[str, Tally], rng: Random) -> list[Item]:
    """A random drawing of each group of variants (rule 3)."""
    thumbnails_ND = np.stack([pictures.thumbnail(item.image) for item in items])
    similar = pictures.near_duplicates(thumbnails_ND, limit=build.NEAR_DUPLICATE)
    members: dict[int, list[Item]] = defaultdict(list)
    for item, group in zip(items, groups.group_candidates([each.candidate for each in items], similar), strict=True):
        members[group].append(item)
    chosen = [rng.choice(members[group]) for group in sorted(members)]
    left = Counter(item.candidate.source for item in items) - Counter(item.candidate.source for item in chosen)
    for source, number in left.items():
        tallies[source].dropped["variant_of_another"] += number
    return chosen


def draw(items: Sequence[Item], tallies: dict[str, Tally], rng: Random) -> tuple[list[Item], list[str]]:
    """The gallery and its classes (rule 4); an image of too small a class has none.

    Raises:
        ValueError: too few items are left.
    """
    counts = Counter(item.candidate.class_name for item in items if item.candidate.class_name)
    classes = sorted(name for name, count in counts.items() if count >= MIN_CLASS)
    order = list(items)
    rng.shuffle(order)
    by_class = {name: [item for item in order if item.candidate.class_name == name] for name in classes}
    first = [item for name in classes for item in by_class[name][:PER_CLASS]]
    rest = [item for item in order if item.candidate.class_name not in classes]
    if len(first) + len(rest) < NUMBER:
        raise ValueError(f"only {len(first) + len(rest)} groups are left, {NUMBER} are wanted")
    chosen = (first + rest)[:NUMBER]
    for source, number in (
        Counter(item.candidate.source for item in items) - Counter(item.candidate.source for item in chosen)
    ).items():
        tallies[source].dropped["not_drawn"] += number
    rng.shuffle(chosen)
    return [_with_class(item, classes) for item in chosen], classes


def _with_class(item: Item, classes: Sequence[str]) -> Item:
    known = item.candidate.class_name if item.candidate.class_name in classes else None
    return replace(item, candidate=replace(item.candidate, class_name=known))


def fetch(icon_set: icons.IconSet, folder: Path) -> Path:
    """The package's tarball, fetched by npm where it does not lie in the folder.

    Raises:
        UserError: npm cannot fetch it.
    """
    path = folder / f"{icon_set.package.lstrip('@').replace('/', '-')}-{icon_set.version}.tgz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(  # noqa: S603  # fixed names
                ["npm", "pack", "--silent", f"{icon_set.package}@{icon_set.version}"],  # noqa: S607
                cwd=folder,
                check=True,
                capture_output=True,
            )
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise UserError(f"npm cannot fetch {icon_set.package} ({error}): install npm, or give --npm") from error
    return path


def candidates_of(tarballs: Sequence[Path], tallies: dict[str, Tally]) -> list[Candidate]:
    """The candidates of all packages (rule 1)."""
    found: list[Candidate] = []
    for icon_set, tarball in zip(icons.ICON_SETS, tarballs, strict=True):
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(tarball) as tar:
                tar.extractall(scratch, filter="data")
            found += icons.read_candidates(icon_set, Path(scratch) / "package", tallies[icon_set.source])
    return found


def documents(tarballs: Sequence[Path], tallies: dict[str, Tally], classes: Iterable[str]) -> dict[str, str]:
    """Texts beside the shard: names, prompts, sources with every drawing's fate, licences."""
    packages = [
        {
            "name": each.package,
            "version": each.version,
            "licence": each.licence,
            "author": each.author,
            "sha256": hashlib.sha256(tarball.read_bytes()).hexdigest(),
        }
        for each, tarball in zip(icons.ICON_SETS, tarballs, strict=True)
    ]
    fates = {
        source: {"seen": tally.seen, "kept": tally.kept, "dropped": dict(sorted(tally.dropped.items()))}
        for source, tally in tallies.items()
    }
    licences = [
        f"- `{each.source}`: {each.author} (npm package `{each.package}` {each.version}), {each.licence}: "
        f"<{each.licence_url}>\n"
        for each in icons.ICON_SETS
    ]
    return {
        "classnames.txt": "".join(f"{name}\n" for name in classes),
        "templates.txt": "".join(f"{template}\n" for template in build.TEMPLATES),
        "SOURCES.json": json.dumps(
            {"schema_version": 1, "packages": packages, "seed": SEED, "pictures": fates}, indent=2
        )
        + "\n",
        "LICENCES.md": "# Licences of the other style\n\nThe drawings were changed: laid on white, cropped, shrunk and "
        "stored as WebP.\n\n" + "".join(licences),
    }


def other_style(tarballs: Sequence[Path], folder: Path) -> tuple[list[Pair], dict[str, str]]:
    """Pairs and documents of the split."""
    tallies, rng = {each.source: Tally() for each in icons.ICON_SETS}, Random(SEED)
    items = build.load(candidates_of(tarballs, tallies), tallies)
    items = one_of_each_group(open_items(items, taken(folder), tallies), tallies, rng)
    chosen, classes = draw(items, tallies, rng)
    assert sum(tally.kept for tally in tallies.values()) == len(chosen), "every drawing is accounted for"
    return build.gallery_pairs(chosen, range(len(chosen)), classes), documents(tarballs, tallies, classes)


def main() -> int:
    """Parse the arguments, build, report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.build_data.other_style", description=__doc__)
    parser.add_argument("--npm", type=Path, help="folder of .tgz packages; what is missing is fetched into it by npm")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the splits (default: examples/data)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            tarballs = [fetch(each, options.npm or Path(scratch)) for each in icons.ICON_SETS]
            pairs, texts = other_style(tarballs, options.data)
    except UserError as error:
        log.error("%s", error)
        return int(error.exit_code)
    total = write_shards(options.data / "heldout_style", pairs, number=1)
    for name, text in texts.items():
        (options.data / "heldout_style" / name).write_text(text, encoding="utf-8")
    log.info("wrote %s bytes of shards, %s pairs", f"{total:,}", len(pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
