"""Further tests of the corpus: names without colours, drawings of unseen sets."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import pyarrow.parquet as pq

from benchmarks.corpus.build import Corpus, Entry, box_of, drawn_of, fields_of, look_of
from benchmarks.corpus.captions import kind_of
from benchmarks.corpus.drawing import Icon
from benchmarks.corpus.icon_sets import Style
from benchmarks.corpus.names import parse_name
from benchmarks.corpus.splits import GALLERY, Split
from diht_k8s.stages.filter.fingerprints import Gallery
from examples.build_data.candidates import Tally
from examples.build_data.groups import base_name
from examples.build_data.shards import Pair

NAMED: Final[tuple[Split, ...]] = ("development", "development_style", "heldout_concepts", "heldout_style")
"""Splits that get a gallery of names."""
UNSEEN_SETS: Final[dict[str, Style]] = {
    "openmoji": "emoji",
    "icon-park": "colour",  # the second protocol's transfer
    "whh": "solid",
    "streamline-ultimate-color": "colour",  # what PROTOCOL-4.md confirms on
}
"""Sets of which no split has a drawing, each with a gallery of names."""
CATEGORY: Final = {"streamline-pixel": 20, "openmoji": 40, "icon-park": 40}
"""Sets with categories -> drawings of a category; smaller categories are left out."""
MEASURED_SETS: Final[dict[str, Style]] = {"streamline-pixel": "pixel", **UNSEEN_SETS}
"""Sets of which no training has a drawing."""
EVIDENCE: Final = Path(__file__).resolve().parents[1] / "ablation"
PUBLISHED: Final = {
    "openmoji_names": "evidence-2/openmoji-names.parquet",
    "icon_park_names": "evidence-2/icon-park-names.parquet",
    "whh_names": "evidence-4/things_224/whh-names.parquet",
    "streamline_ultimate_color_names": "evidence-4/things_224/streamline-ultimate-color-names.parquet",
    "streamline_pixel_categories": "evidence-2/pixel-categories linear.parquet",
    "openmoji_categories": "evidence-2/openmoji-categories linear.parquet",
    "icon_park_categories": "evidence-2/icon-park-categories linear.parquet",
}
"""Folder -> trainings that were measured on it. Another machine finds other near copies of the training among the
drawings (8 and 15 of the categories of openmoji and icon-park), and trainings of both shall be measured on the same
ones.
"""


@dataclass(frozen=True)
class UnseenSet:
    """A set's drawings, one of each concept, and what became of its icons."""

    pairs: list[Pair]
    """each with its `category`."""
    tally: Tally


def names_of(pairs: Sequence[Pair], words: frozenset[str] | None = None) -> list[Pair]:
    """The pairs with their names as captions, but for names with a word of colour.

    Args:
        pairs: one of each concept.
        words: where given, names with another word are left out too.
    """
    return [
        replace(pair, fields={**pair.fields, "caption": pair.fields["thing"], "captions": [pair.fields["thing"]]})
        for pair in pairs
        if kind_of(pair.fields["thing"]) == "neither"
        and (words is None or words.issuperset(pair.fields["thing"].split()))
    ]


def categories_of(pairs: Sequence[Pair], size: int) -> tuple[list[Pair], list[str]]:
    """`size` pairs of each category that has as many, with their class `cls`, and the names of the classes."""
    members = defaultdict[str, list[Pair]](list)
    for pair in pairs:
        members[pair.fields["category"]].append(pair)
    names = sorted(name for name, found in members.items() if name and len(found) >= size)
    chosen = [
        replace(pair, fields={**pair.fields, "cls": number})
        for number, name in enumerate(names)
        for pair in members[name][:size]
    ]
    Random(0).shuffle(chosen)
    return chosen, names


def published(folder: str) -> frozenset[str]:
    """The uids on which published trainings were measured; none where there are no trainings."""
    path = EVIDENCE / PUBLISHED[folder] if folder in PUBLISHED else None
    return frozenset() if path is None else frozenset(pq.read_table(path, columns=["uid"])["uid"].to_pylist())


def _of(pairs: Sequence[Pair], uids: frozenset[str]) -> Sequence[Pair]:
    """The pairs of these uids; all without one."""
    return [pair for pair in pairs if pair.fields["uid"] in uids] if uids else pairs


def unseen_set(package: Path, name: str, corpus: Corpus, measured: frozenset[str] = frozenset()) -> UnseenSet:
    """Draw a set; what looks nearly like a training pair is left out, but for what published trainings were measured
    on.
    """
    tally, closed = Tally(), Gallery(corpus.training_bits)
    pairs: list[Pair] = []
    for entry, category in _entries(package, name, tally):
        look = look_of(entry)
        drawn = drawn_of(entry, look)
        if isinstance(drawn, str):
            tally.drop(drawn)
        elif entry.uid not in measured and closed.holds_bits(drawn.bits_4):
            tally.drop("looks_like_a_training_pair")
        else:
            pairs.append(Pair(picture=drawn.picture, fields={**fields_of(entry, look), "category": category}))
    return UnseenSet(pairs, tally)


def folders(package: Path, corpus: Corpus) -> tuple[dict[str, list[Pair]], dict[str, list[str]], dict[str, Tally]]:
    """Pairs by folder, class names of those with categories, and what became of the icons by set."""
    words = frozenset(word for pair in corpus.pairs["train"] for word in pair.fields["thing"].split())
    pairs = {f"{split}_names": names_of(corpus.pairs[split]) for split in NAMED}
    classes: dict[str, list[str]] = {}
    tallies: dict[str, Tally] = {}
    for name in MEASURED_SETS:
        folder = name.replace("-", "_")
        named, sorted_ = (published(f"{folder}_{kind}") for kind in ("names", "categories"))
        found = unseen_set(package, name, corpus, named | sorted_)
        tallies[name] = found.tally
        if name in UNSEEN_SETS:
            pairs[f"{folder}_names"] = names_of(_of(found.pairs, named), words)[:GALLERY]
        if name in CATEGORY:
            chosen = categories_of(_of(found.pairs, sorted_), CATEGORY[name])
            pairs[f"{folder}_categories"], classes[f"{folder}_categories"] = chosen
    return pairs, classes, tallies


def _entries(package: Path, name: str, tally: Tally) -> Iterator[tuple[Entry, str]]:
    """One icon of each concept with its category ("" for none), in an order that depends on their identities alone."""
    document: dict[str, Any] = json.loads((package / "json" / f"{name}.json").read_text(encoding="utf-8"))
    category_of = {file: category for category, files in document.get("categories", {}).items() for file in files}
    found: list[Entry] = []
    for file, icon in document["icons"].items():
        tally.seen += 1
        parsed = parse_name(file, MEASURED_SETS[name], document.get("suffixes", ()), document.get("prefixes", ()))
        concept = "" if parsed is None else base_name(parsed.thing)
        if parsed is None or not concept or icon.get("hidden"):
            tally.drop("names_no_thing")
            continue
        body = Icon(icon["body"], box_of(document, icon))
        licence, colours = document["info"]["license"]["spdx"], document["info"]["palette"]
        found.append(
            Entry(name, file, parsed.thing, parsed.style, concept, "measured_only", licence, body, colours, ())
        )
    first: set[str] = set()
    for entry in sorted(found, key=lambda entry: entry.uid):
        if entry.concept in first:
            tally.drop("variant_of_another")
            continue
        first.add(entry.concept)
        yield entry, category_of.get(entry.file, "")
