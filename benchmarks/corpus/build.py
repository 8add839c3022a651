"""The corpus from the unpacked package, every icon accounted for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

from benchmarks.corpus.captions import COLOURS, GROUNDS, Look, captions_of
from benchmarks.corpus.drawing import Icon, NotDrawnError, draw, encode
from benchmarks.corpus.icon_sets import ICON_SETS, Style
from benchmarks.corpus.names import parse_name
from benchmarks.corpus.splits import GALLERY, SPLITS, Split, split_of
from diht_k8s.stages.filter.fingerprints import Gallery, fingerprint
from examples.build_data.candidates import Tally
from examples.build_data.groups import base_name
from examples.build_data.shards import Pair

SEED: Final = 20261127
PLAIN_GROUND: Final = 0.7
"""share of drawings on white."""
MAX_TAGS: Final = 4


@dataclass(frozen=True)
class Entry:
    """An icon that may become a pair."""

    source: str
    file: str
    thing: str
    style: Style
    concept: str
    split: Split
    licence: str
    icon: Icon
    own_colours: bool
    tags: tuple[str, ...]

    @property
    def uid(self) -> str:
        """Identity, stable over rebuilds: digest of set and name."""
        return hashlib.sha256(f"{self.source}/{self.file}".encode()).hexdigest()[:16]


@dataclass
class Corpus:
    """Pairs of each split, and what became of every icon."""

    pairs: dict[Split, list[Pair]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    tallies: dict[str, Tally] = field(default_factory=dict)
    training_bits: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.uint64))
    """fingerprints of the training pairs."""


@dataclass(frozen=True)
class Drawn:
    """A drawing and its fingerprint."""

    picture: bytes
    bits_4: np.ndarray


def build(package: Path, *, workers: int = 2) -> Corpus:
    """All pairs, in random order within each split.

    Args:
        package: unpacked npm package.
        workers: processes that draw.
    """
    corpus = Corpus()
    entries = list(_chosen([entry for name in ICON_SETS for entry in read_set(package, name, corpus)], corpus))
    Random(SEED).shuffle(entries)
    looks = [look_of(entry) for entry in entries]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # ends its workers without a signal
        drawn = list(pool.map(drawn_of, entries, looks, chunksize=256))
    found = defaultdict[Split, list[tuple[Entry, Look, Drawn]]](list)
    for entry, look, result in zip(entries, looks, drawn, strict=True):
        if isinstance(result, str):
            corpus.tallies[entry.source].drop(result)
        else:
            found[entry.split].append((entry, look, result))
    bits: list[np.ndarray] = []
    closed = Gallery(np.array([item[2].bits_4 for split in SPLITS[1:] for item in found[split]]).reshape(-1, 4))
    for split in SPLITS:
        for entry, look, result in found[split]:
            if split == "train" and closed.holds_bits(result.bits_4):
                corpus.tallies[entry.source].drop("looks_like_another_split")
                continue
            corpus.pairs[split].append(Pair(picture=result.picture, fields=fields_of(entry, look)))
            if split == "train":
                bits.append(result.bits_4)
    corpus.training_bits = np.array(bits).reshape(-1, 4)
    return corpus


def read_set(package: Path, name: str, corpus: Corpus) -> Iterator[Entry]:
    """The icons of a set that name a thing and have a split; others are counted."""
    document: dict[str, Any] = json.loads((package / "json" / f"{name}.json").read_text(encoding="utf-8"))
    tally = corpus.tallies[name] = Tally()
    tags = defaultdict[str, list[str]](list)
    for alias, of in document.get("aliases", {}).items():
        tags[of["parent"]].append(alias.replace("-", " "))
    for file, icon in sorted(document["icons"].items()):
        tally.seen += 1
        parsed = parse_name(file, ICON_SETS[name], document.get("suffixes", ()), document.get("prefixes", ()))
        concept = "" if parsed is None else base_name(parsed.thing)
        split = split_of(concept, parsed.style) if parsed is not None and concept else None
        if parsed is None or not concept:
            tally.drop("names_no_thing")
        elif icon.get("hidden"):
            tally.drop("withdrawn_by_the_set")
        elif split is None:
            tally.drop("held_out_style_of_an_unseen_concept")
        else:
            others = [tag for tag in tags[file] if base_name(tag) != concept and tag.replace(" ", "").isalpha()]
            yield Entry(
                name,
                file,
                parsed.thing,
                parsed.style,
                concept,
                split,
                document["info"]["license"]["spdx"],
                Icon(icon["body"], box_of(document, icon)),
                document["info"]["palette"],
                tuple(others[:MAX_TAGS]),
            )


def box_of(document: dict[str, Any], icon: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height of an icon's viewBox."""
    sides = (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    left, top, width, height = (icon.get(side, document.get(side, usual)) for side, usual in sides)
    return left, top, width, height


def _chosen(entries: Sequence[Entry], corpus: Corpus) -> Iterator[Entry]:
    """One icon of each base name of a set; in galleries one of each base name, up to GALLERY."""
    first: set[tuple[str, str]] = set()
    sizes, words = Counter[Split](), set[str]()
    for entry in sorted(entries, key=lambda entry: (entry.split != "train", entry.uid)):
        scope = entry.source if entry.split == "train" else entry.split
        if (scope, entry.concept) in first:
            corpus.tallies[entry.source].drop("variant_of_another")
        elif entry.split.endswith("_style") and not words.issuperset(entry.thing.split()):
            corpus.tallies[entry.source].drop("word_unseen_in_training")
        elif entry.split != "train" and sizes[entry.split] == GALLERY:
            corpus.tallies[entry.source].drop("not_drawn")
        else:
            first.add((scope, entry.concept))
            sizes[entry.split] += 1
            if entry.split == "train":
                words.update(entry.thing.split())
            yield entry


def look_of(entry: Entry) -> Look:
    """Colour and ground, by the entry's identity."""
    rng = Random(f"{SEED} {entry.uid}")
    colour = None if entry.own_colours else rng.choice(list(COLOURS))
    ground = "white" if rng.random() < PLAIN_GROUND else rng.choice(list(GROUNDS)[1:])
    return Look(entry.thing, entry.style, colour, ground, entry.tags)


def drawn_of(entry: Entry, look: Look) -> Drawn | str:
    """The drawing, or why there is none."""
    try:
        image = draw(entry.icon, colour=COLOURS[look.colour or "black"], ground=GROUNDS[look.ground])
    except NotDrawnError as reason:
        return str(reason)
    return Drawn(encode(image), fingerprint(image))


def fields_of(entry: Entry, look: Look) -> dict[str, Any]:
    """What a pair's JSON says."""
    captions = captions_of(look, Random(f"{SEED} caption {entry.uid}"))
    return {
        "uid": entry.uid,
        "caption": captions[0],
        "captions": captions,
        "thing": entry.thing,
        "concept": entry.concept,
        "look": {name: value for name, value in asdict(look).items() if name in ("style", "colour", "ground")},
        "source": entry.source,
        "file": entry.file,
        "licence": entry.licence,
    }
