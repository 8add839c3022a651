"""The concept classes: objects and attributes of the kept captions, counted, cut and frozen in one order.

In: caption concepts of each kept shard, in any order. Out: `vocabulary.json`, ordered by count, then name, made by the
step `vocabulary`, which imports no torch but for the names of the teacher's own classes. The paper's vocabulary is not
known; stop list, cuts and caps are our choice. Names of authors are cut, too: a name that stands after "by" in more
than half of the captions that have it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.label import Vocabulary as Cuts

if TYPE_CHECKING:  # `diht concepts` reads a vocabulary without the packages of the recipe
    from diht_k8s.stages.label.caption_concepts import KeptCaptions
    from diht_k8s.stages.label.job import LabelJob

MAX_CLASSES: Final = 1 << 16
"""Labels are stored as 16 bits."""
SHOWN_CUT: Final = 20
"""Number of the commonest names of each cut that `vocabulary.json` lists, for inspection."""


@cache
def stop_list() -> tuple[frozenset[str], frozenset[str]]:
    """Names that say nothing about what an image shows (our choice), and words that say nothing at the end of a
    name.
    """
    text = files("diht_k8s.stages.label").joinpath("stop_list.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return frozenset(line.removeprefix("*") for line in lines), frozenset(line[1:] for line in lines if line[0] == "*")


@dataclass
class ConceptCounts:
    """In how many captions each concept occurs."""

    captions: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    attributes: Counter[str] = field(default_factory=Counter)
    credits: Counter[str] = field(default_factory=Counter)
    """in how many captions an object stands after `by`."""

    def add(self, captions: KeptCaptions) -> None:
        """Count one shard; a concept counts once a caption."""
        self.captions += len(captions.uids)
        for names in captions.objects:
            self.objects.update(set(names))
        for names in captions.attributes:
            self.attributes.update(set(names))
        for names in captions.credits:
            self.credits.update(set(names))


@dataclass(frozen=True)
class TeacherClass:
    """A class of the teacher's own."""

    number: int
    """in the teacher's classifier."""
    names: tuple[str, ...]
    """all of them, the usual one first."""


@dataclass(frozen=True)
class Concepts:
    """The classes of one head: class id = place in this list."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    teacher_classes: tuple[TeacherClass, ...] = ()
    """the last classes, which the teacher's own classifier says (`label.teacher.ownClasses`)."""

    @property
    def trained(self) -> Concepts:
        """The classes that captions gave."""
        count = len(self) - len(self.teacher_classes)
        return Concepts(self.names[:count], self.counts[:count])

    @property
    def ids(self) -> dict[str, list[int]]:
        """Name -> the classes that it names.

        A class of the teacher's own has several names, and the last word of a name is one, too: "owl" names the "great
        grey owl".
        """
        found: dict[str, list[int]] = {name: [number] for number, name in enumerate(self.trained.names)}
        for number, each in enumerate(self.teacher_classes, start=len(found)):
            for word in {word for name in each.names for word in (name, name.rpartition(" ")[2])}:
                found.setdefault(word, []).append(number)
        return found

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ConceptVocabulary:
    """The frozen classes of both heads."""

    captions: int
    """number of captions that were counted."""
    objects: Concepts
    attributes: Concepts
    cut: Mapping[str, Any]
    """for each head what was cut, by reason."""

    @property
    def sha256(self) -> str:
        """Digest of the names in their order: heads and labels carry it."""
        return sha256_of([self.objects.names, self.attributes.names])

    def document(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """The content of `vocabulary.json`."""
        return {
            **header,
            "sha256": self.sha256,
            "captions": self.captions,
            "objects": _rows(self.objects),
            "attributes": _rows(self.attributes),
            "cut": dict(self.cut),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ConceptVocabulary:
        """Read `vocabulary.json`.

        Raises:
            DataError: the document is of another schema, is damaged or was changed by hand.
        """
        if document.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"vocabulary.json has schema_version {document.get('schema_version')}, this program reads "
                f"{SCHEMA_VERSION}: "
                "use the version of the program that wrote it, or run the stage label again"
            )
        try:
            objects, attributes = _concepts(document["objects"]), _concepts(document["attributes"])
            vocabulary = cls(document["captions"], objects, attributes, {**document["cut"]})
            changed = vocabulary.sha256 != document["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"vocabulary.json is damaged ({error!r}): run the stage label again") from error
        if changed:
            raise DataError("vocabulary.json was changed after it was written: run the stage label again")
        return vocabulary


def _rows(concepts: Concepts) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"name": name, "count": count} for name, count in zip(concepts.names, concepts.counts, strict=True)
    ]
    for row, each in zip(rows[len(concepts.trained) :], concepts.teacher_classes, strict=True):
        row |= {"teacher_class": each.number, "names": list(each.names)}
    return rows


def _concepts(rows: list[dict[str, Any]]) -> Concepts:
    own = tuple(TeacherClass(row["teacher_class"], tuple(row["names"])) for row in rows if "teacher_class" in row)
    return Concepts(tuple(row["name"] for row in rows), tuple(row["count"] for row in rows), own)


def make_vocabulary(job: LabelJob) -> None:
    """Count the concepts of all kept captions and freeze the classes.

    Raises:
        UserError: top k is larger than a vocabulary.
        DataError: a vocabulary is empty.
    """
    from diht_k8s.stages.label.caption_concepts import read_captions

    context, counts, done = job.context, ConceptCounts(), 0
    context.progress.start("vocabulary", job.samples(job.shards), unit="captions")
    for shard in job.shards:
        context.stop.raise_if_requested()
        counts.add(read_captions(context.storage, context.layout, shard))
        done += shard.samples or 0
        context.progress.update(done)
    vocabulary = freeze(counts, job.label.vocabulary)
    if job.label.teacher.own_classes:
        from diht_k8s.stages.label.teacher_classes import imagenet_names, join_classes  # torch

        joined = join_classes(vocabulary.objects, counts.objects, imagenet_names())
        vocabulary = replace(vocabulary, objects=joined)
    check_top_k(job.label.top_k, {"objects": len(vocabulary.objects), "attributes": len(vocabulary.attributes)})
    job.write_json(context.layout.vocabulary, vocabulary.document(job.header))


def read_vocabulary(job: LabelJob) -> ConceptVocabulary:
    """The frozen classes of both heads."""
    return ConceptVocabulary.from_document(json.loads(job.context.storage.read_bytes(job.context.layout.vocabulary)))


def check_top_k(top_k: int, classes: Mapping[str, int]) -> None:
    """Refuse a top k that a head cannot fill, and more classes than an id holds.

    Raises:
        UserError: says which head.
    """
    for kind, count in classes.items():
        if top_k > count:
            raise UserError(
                f"label.topK {top_k} is larger than the vocabulary of {kind} ({count}): "
                f"set label.topK to at most {count}, or lower label.vocabulary.minCount"
            )
        if count > MAX_CLASSES:
            raise UserError(f"{count} {kind} are more than {MAX_CLASSES}: lower the caps in label.vocabulary")


def freeze(counts: ConceptCounts, cuts: Cuts) -> ConceptVocabulary:
    """Cut and order the counted concepts.

    Raises:
        DataError: no object or no attribute is left.
    """
    least = max(cuts.min_count, math.ceil(cuts.min_fraction * counts.captions))
    credited = {name for name, count in counts.credits.items() if 2 * count > counts.objects[name]}
    reasons = {"excluded": frozenset(cuts.exclude), "credits": credited}
    objects, cut_objects = _cut(
        counts.objects, least, cuts.max_objects, {**reasons, **_everywhere(counts.objects, counts.captions, cuts)}
    )
    attributes, cut_attributes = _cut(
        counts.attributes,
        least,
        cuts.max_attributes,
        {**reasons, "credits": (), **_everywhere(counts.attributes, counts.captions, cuts)},
    )
    for kind, kept, counter in (("objects", objects, counts.objects), ("attributes", attributes, counts.attributes)):
        if not kept.names:
            raise DataError(
                f"the vocabulary has no {kind}: none of {len(counter)} occurs in at least {least} of "
                f"{counts.captions} captions: "
                "lower label.vocabulary.minCount or minFraction, or give more pairs"
            )
    return ConceptVocabulary(
        counts.captions, objects, attributes, {"objects": cut_objects, "attributes": cut_attributes}
    )


def _everywhere(counter: Counter[str], captions: int, cuts: Cuts) -> dict[str, Collection[str]]:
    """The names in too many captions, if there is a limit."""
    if cuts.max_fraction == 1:
        return {}
    return {"everywhere": {name for name, count in counter.items() if count > cuts.max_fraction * captions}}


def _cut(
    counter: Counter[str], least: int, most: int, named: Mapping[str, Collection[str]]
) -> tuple[Concepts, dict[str, Any]]:
    """The classes in order, and what was cut: of several reasons the first counts.

    `named` maps reasons to the names that they cut.
    """
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    cut: dict[str, list[tuple[str, int]]] = {
        "stop_list": [],
        **{reason: [] for reason in named},
        "rare": [],
        "over_cap": [],
    }
    kept: list[tuple[str, int]] = []
    for name, count in ordered:
        reasons = {
            "stop_list": not _is_informative(name),
            **{reason: name in names for reason, names in named.items()},
            "rare": count < least,
            "over_cap": len(kept) == most,
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        (kept if reason is None else cut[reason]).append((name, count))
    figures = {
        reason: {"distinct": len(items), "commonest": [[name, count] for name, count in items[:SHOWN_CUT]]}
        for reason, items in cut.items()
    }
    names, counts = [name for name, _ in kept], [count for _, count in kept]
    return Concepts(tuple(names), tuple(counts)), {"distinct": len(ordered), "least_count": least, **figures}


def _is_informative(name: str) -> bool:
    names, endings = stop_list()
    if len(name) == 1 or not any(character.isalpha() for character in name):
        return False
    return name not in names and name.rpartition(" ")[2] not in endings
