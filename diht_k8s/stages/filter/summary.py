"""Counts of the filter, and its `report.json`: per shard while its scores are computed, then summed over shards. Pure.

Nothing is dropped silently: input = kept + dropped by reason + bad by reason, which `group_summaries` checks. Sources
without images or captions get a sentence with the suffixes that are there and the usual mistakes (`LayoutHints`).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from diht_k8s.api.filter import Filter
from diht_k8s.data.shards.samples import IMAGE_SUFFIXES, Sample, storable
from diht_k8s.stages.filter.scores import BAD, Row
from diht_k8s.stages.filter.text_spotting.matching import normalised_words

MISSING: Final = ("picture_missing", "caption_missing")
MAX_SUFFIXES: Final = 40
"""Number of the most frequent suffixes stored per shard."""
SHOWN_SUFFIXES: Final = 8
MAX_KEYS: Final = 200_000
"""Keys of a shard that are compared with later ones."""
UNDECODED: Final = ("gif", "bmp", "tif", "tiff", "ppm", "heic", "avif", "svg")
"""Suffixes of images that no stage decodes."""
CAPTIONS: Final = ("caption", "captions", "text", "title", "alt")
"""Suffixes under which others store captions."""
USUAL: Final = (*IMAGE_SUFFIXES, "txt", "json")


@dataclass(kw_only=True)
class LayoutHints:
    """Counts over the samples without image or caption; `merge` adds two of them."""

    samples: int = 0
    suffixes: Counter[str] = field(default_factory=Counter)
    dotted: int = 0
    """samples with a suffix such as `v2.jpg`, left by a base name with dots."""
    split: int = 0
    """keys with their image in one place and their caption in another."""
    _seen: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def add(self, sample: Sample) -> None:
        """Count a sample of one shard, in order."""
        if sample.problem not in MISSING or not sample.members:  # a row of a table has none
            return
        self.samples += 1
        self.suffixes.update(storable(suffix) for suffix in sample.members)
        self.dotted += any(_is_dotted(suffix) for suffix in sample.members)
        earlier = self._seen.get(sample.key)
        if earlier is None and len(self._seen) < MAX_KEYS:
            self._seen[sample.key] = sample.problem
        self.split += earlier is not None and earlier != sample.problem

    def merge(self, other: LayoutHints) -> None:
        """Add the counts of another shard."""
        self.samples += other.samples
        self.suffixes.update(other.suffixes)
        self.dotted += other.dotted
        self.split += other.split

    def sentence(self, source: str) -> str:
        """The suffixes found and the advice for the source of these samples; empty where nothing is missing."""
        if not self.samples:
            return ""
        shown = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
        found = ", ".join(f"{suffix} {count}" for suffix, count in shown[:SHOWN_SUFFIXES])
        head = f"source {source}: {self.samples} samples have no image or no caption; the suffixes found are {found}"
        if self.split:
            return (
                f"{head}; {self.split} keys have image and caption in different places: all members of a key must "
                "follow each other, so pack the tar again in the order of the names (tar --sort=name)"
            )
        if self.dotted:
            return (
                f"{head}; {self.dotted} samples have dots in their base names, and a key ends at the first dot: "
                "rename the files, for example a.b.jpg to a_b.jpg"
            )
        if undecoded := [suffix for suffix in UNDECODED if suffix in self.suffixes]:
            return (
                f"{head}; images of the type {undecoded[0]} are not read: convert them to PNG, or unpack the shards "
                "and let "
                "diht import do that"
            )
        if named := [suffix for suffix in CAPTIONS if suffix in self.suffixes]:
            return f"{head}; set data.sources[].captionKey: {named[0]}"
        return f"{head}: if they name images or captions, set data.sources[].imageKey or captionKey"

    def to_json(self) -> dict[str, Any]:
        """The counts as stored in the header of a scores file."""
        most = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))[:MAX_SUFFIXES]
        return {"samples": self.samples, "suffixes": dict(most), "dotted": self.dotted, "split": self.split}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the counts from a header."""
        return cls(
            samples=data["samples"], suffixes=Counter(data["suffixes"]), dotted=data["dotted"], split=data["split"]
        )


def _is_dotted(suffix: str) -> bool:
    return "." in suffix and suffix.rpartition(".")[2] in USUAL


Name = TypeVar("Name", str, tuple[str, str])

MAX_EXAMPLES: Final = 12
MAX_NAMES: Final = 500
"""Number of the most frequent names stored per shard; the report shows fewer."""
MAX_COMPLEXITY: Final = 10
MAX_ACTIONS: Final = 5
"""Larger values are counted in the last cell of the threshold table."""
MAX_CAPTION: Final = 300
NAME_KINDS: Final = ("objects", "attributes", "actions")
CELL_FIELDS: Final = ("samples", "unread", "matched")


@dataclass(kw_only=True)
class Summary:
    """Counts over samples; `merge` adds two of them."""

    input: int = 0
    kept: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    cells: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """(complexity, actions) -> number of scored samples of filtered sources that no earlier rule dropped; of these, the
    number whose images were not read, and the number whose images show the caption.
    """
    names: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in NAME_KINDS})
    painted: Counter[str] = field(default_factory=Counter)
    """verdicts on images whose JSON records whether words of the caption were painted into them: `painted_found`,
    `painted_missed`, `short_found`, `short_missed` (no painted word is as long as the rule asks), `clean_dropped`,
    `clean_passed`.
    """
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """reason (or `kept`) -> the samples with the smallest hashes of their uids, which makes them a uniform draw."""
    hints: LayoutHints = field(default_factory=LayoutHints)
    junk: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind of junk, "" for none; reason, "" if kept) -> samples, in runs with `filter.junkField`; excluded ones do
    not count.
    """

    def add(self, row: Row, sample: Sample, *, filtered: bool, min_characters: int) -> None:
        """Count one filtered sample.

        Args:
            row: its scores and verdict.
            sample: the sample.
            filtered: whether its source is filtered.
            min_characters: threshold of the T rule, by which painted words count as long enough.
        """
        self.input += 1
        if row.kept:
            self.kept += 1
        elif row.reason.startswith(BAD):
            self.bad[row.reason.removeprefix(BAD)] += 1
        else:
            self.dropped[row.reason] += 1
        if row.parser_version:
            self.names["objects"].update(row.objects)
            self.names["attributes"].update(name for _, name in row.attributes)
            self.names["actions"].update(row.actions)
            if filtered and not row.reason.startswith(BAD) and row.reason not in ("language", "objects"):
                self._add_cell(row)
        if row.junk is not None:
            self.junk[row.junk, row.reason] += 1
        self.hints.add(sample)
        self._add_painted(row, sample, min_characters)
        self._add_example(row, sample)

    def _add_cell(self, row: Row) -> None:
        key = (min(row.complexity, MAX_COMPLEXITY), min(row.num_actions, MAX_ACTIONS))
        cell = self.cells.setdefault(key, [0] * len(CELL_FIELDS))
        cell[0] += 1
        cell[1] += row.matched is None
        cell[2] += row.matched is True

    def _add_painted(self, row: Row, sample: Sample, min_characters: int) -> None:
        if row.matched is None or "painted" not in sample.meta:
            return
        painted = sample.meta["painted"]
        if not painted:
            self.painted["clean_dropped" if row.matched else "clean_passed"] += 1
            return
        text = painted.get("text", "") if isinstance(painted, dict) else str(painted)
        long_enough = any(len(word) >= min_characters for word in normalised_words(text))
        self.painted[f"{'painted' if long_enough else 'short'}_{'found' if row.matched else 'missed'}"] += 1

    def _add_example(self, row: Row, sample: Sample) -> None:
        reason = row.reason or "kept"
        if reason == "exclude":
            return  # the report must not show what somebody wants taken down
        rank = hashlib.sha256(row.uid.encode()).hexdigest()
        chosen = self.examples.setdefault(reason, [])
        if len(chosen) < MAX_EXAMPLES or rank < chosen[-1]["rank"]:
            example = {
                "rank": rank,
                "uid": row.uid,
                "shard": row.shard,
                "key": row.index,
                "caption": sample.caption[:MAX_CAPTION],
                "objects": list(row.objects)[:8],
                "actions": list(row.actions)[:8],
                "texts": [text.text[:80] for text in row.ocr[:8]],
            }
            self.examples[reason] = _first(MAX_EXAMPLES, [*chosen, example])

    def merge(self, other: Summary) -> None:
        """Add the counts of other samples."""
        self.input += other.input
        self.kept += other.kept
        for mine, theirs in (
            (self.bad, other.bad),
            (self.dropped, other.dropped),
            (self.painted, other.painted),
            *((self.names[kind], other.names[kind]) for kind in NAME_KINDS),
        ):
            mine.update(theirs)
        for key, cell in other.cells.items():
            mine_cell = self.cells.get(key, [0] * len(CELL_FIELDS))
            self.cells[key] = [one + two for one, two in zip(mine_cell, cell, strict=True)]
        self.junk.update(other.junk)
        self.hints.merge(other.hints)
        for reason, examples in other.examples.items():
            self.examples[reason] = _first(MAX_EXAMPLES, [*self.examples.get(reason, []), *examples])

    def exclude(self, taken: Summary, uids: Collection[str]) -> None:
        """Count kept samples as excluded.

        Args:
            taken: their counts, which are part of this summary.
            uids: samples whose examples are removed as well.
        """
        self.kept -= taken.kept
        self.dropped["exclude"] += taken.kept
        self.dropped = +self.dropped
        self.painted = self.painted - taken.painted
        for kind in NAME_KINDS:
            self.names[kind] -= taken.names[kind]  # rare names are not stored, so their counts stay at zero
        for key, cell in taken.cells.items():
            self.cells[key] = [one - two for one, two in zip(self.cells[key], cell, strict=True)]
        self.cells = {key: cell for key, cell in self.cells.items() if cell[0]}
        left = {
            reason: [example for example in examples if example["uid"] not in uids]
            for reason, examples in self.examples.items()
        }
        self.examples = {reason: examples for reason, examples in left.items() if examples}

    def drop(self, rows: Sequence[Row], reason: str) -> None:
        """Count kept samples as dropped by a later rule."""
        self.kept -= len(rows)
        self.dropped[reason] += len(rows)
        for row in rows:
            if row.junk is not None:
                self.junk.update({(row.junk, ""): -1, (row.junk, reason): 1})
        kept, gone = self.examples.pop("kept", []), frozenset(row.uid for row in rows)
        parts = {
            "kept": [item for item in kept if item["uid"] not in gone],
            reason: [i for i in kept if i["uid"] in gone],
        }
        self.examples |= {name: examples for name, examples in parts.items() if examples}

    @property
    def accounted(self) -> int:
        """Samples of which it is known what became of them."""
        return self.kept + self.dropped.total() + self.bad.total()

    def counts(self) -> dict[str, Any]:
        """Number of input and kept samples, and of bad and dropped samples by reason."""
        return {
            "input": self.input,
            "kept": self.kept,
            "bad": dict(sorted(self.bad.items())),
            "dropped": dict(sorted(self.dropped.items())),
        }

    def to_json(self, names: int = MAX_NAMES) -> dict[str, Any]:
        """The summary as stored in the header of a scores file; the same samples give the same text.

        Args:
            names: number of the most frequent names of each kind that are stored.
        """
        return {
            **self.counts(),
            "cells": [[*key, *cell] for key, cell in sorted(self.cells.items())],
            "names": {kind: top_names(self.names[kind], names) for kind in NAME_KINDS},
            "painted": dict(sorted(self.painted.items())),
            "examples": {reason: self.examples[reason] for reason in sorted(self.examples)},
            **({"hints": self.hints.to_json()} if self.hints.samples else {}),
            **({"junk": top_names(+self.junk, names)} if self.junk else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the summary from a header."""
        return cls(
            input=data["input"],
            kept=data["kept"],
            bad=Counter(data["bad"]),
            dropped=Counter(data["dropped"]),
            cells={(item[0], item[1]): item[2:] for item in data["cells"]},
            names={kind: Counter(dict(data["names"][kind])) for kind in NAME_KINDS},
            painted=Counter(data["painted"]),
            examples=dict(data["examples"]),
            hints=LayoutHints.from_json(data["hints"]) if "hints" in data else LayoutHints(),
            junk=Counter({(kind, reason): number for (kind, reason), number in data.get("junk", [])}),
        )


def top_names(counter: Counter[Name], number: int) -> list[tuple[Name, int]]:
    """The most frequent names with their counts; ties are sorted by name."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:number]


def _first(number: int, examples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(examples, key=lambda example: (example["rank"], example["shard"], example["key"]))[:number]


SHOWN_NAMES: Final = 50
SHOWN_KINDS: Final = 20
"""Kinds of junk."""
STEPS: Final = (
    "exclude",
    "language",
    "metadata",
    "objects",
    "complexity",
    "action",
    "size",
    "benchmark",
    "clip_score",
    "text",
    "duplicate",
    "clip_share",
)
"""Reasons in the order in which the rules are applied."""
ALWAYS_SHOWN: Final = frozenset(("exclude", "language", "complexity", "action", "text"))
"""The others are shown only if they dropped a sample."""
THRESHOLDS: Final = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1), (3, 1))


def report(summary: Summary, rules: Filter, header: dict[str, Any]) -> dict[str, Any]:
    """Build the report.

    Args:
        summary: counts over all shards.
        rules: the run's thresholds.
        header: schema_version, config_sha256 and inputs.
    """
    return {
        **header,
        "counts": summary.counts(),
        "funnel": funnel(summary),
        "thresholds": {"minComplexity": rules.min_complexity, "minActions": rules.min_actions},
        "table": [_thresholds(summary, complexity, actions) for complexity, actions in THRESHOLDS],
        "complexity": _histogram(summary, 0),
        "actions": _histogram(summary, 1),
        "names": {kind: top_names(summary.names[kind], SHOWN_NAMES) for kind in NAME_KINDS},
        "text_spotting": text_spotting(summary),
        "junk": None if rules.junk_field is None else junk_table(summary, rules.junk_field),
        "examples": {
            reason: [{name: value for name, value in example.items() if name != "rank"} for example in examples]
            for reason, examples in sorted(summary.examples.items())
        },
    }


def junk_table(summary: Summary, name: str) -> dict[str, Any]:
    """What became of the readable pairs of each kind of junk, the commonest first, and of the wanted pairs, which have
    none.

    Args:
        summary: counts over all shards.
        name: the field of the .json.
    """
    kinds = defaultdict[str, Counter[str]](Counter)
    for (kind, reason), number in summary.junk.items():
        if not reason.startswith(BAD):
            kinds[kind][reason] += number
    wanted, junk = kinds.pop("", Counter[str]()), sum(kinds.values(), Counter[str]())
    shown = sorted(kinds.items(), key=lambda item: (-item[1].total(), item[0]))[:SHOWN_KINDS]
    rows = [{"kind": kind, **_junk_row(counts)} for kind, counts in shown]
    return {"field": name, "kinds": rows, "junk": _junk_row(junk), "wanted": _junk_row(wanted)}


def _junk_row(counts: Counter[str]) -> dict[str, Any]:
    dropped = {reason: number for reason, number in sorted(counts.items()) if reason}
    return {"pairs": counts.total(), "kept": counts[""], "dropped": dropped}


def funnel(summary: Summary) -> list[dict[str, Any]]:
    """Samples left after each step, in the order of the rules; the last entry is the number kept."""
    steps = [("input", 0), ("readable", summary.bad.total())]
    steps += [
        (reason, summary.dropped[reason]) for reason in STEPS if reason in ALWAYS_SHOWN or summary.dropped[reason]
    ]
    left, entries = summary.input, []
    for name, dropped in steps:
        left -= dropped
        entries.append({"step": name, "samples": left, "dropped": dropped})
    return entries


def _thresholds(summary: Summary, min_complexity: int, min_actions: int) -> dict[str, Any]:
    """Number of samples of filtered sources that would pass C and A, and T if all their images were read.

    What `language` or `objects` drops is not among them; what another rule drops may be.
    """
    chosen = [
        (complexity, actions, cell)
        for (complexity, actions), cell in summary.cells.items()
        if complexity >= min_complexity and actions >= min_actions
    ]
    passed, unread, matched = (sum(cell[index] for _, _, cell in chosen) for index in range(3))
    after_complexity = sum(cell[0] for (complexity, _), cell in summary.cells.items() if complexity >= min_complexity)
    return {
        "minComplexity": min_complexity,
        "minActions": min_actions,
        "scored": sum(cell[0] for cell in summary.cells.values()),
        "complexity": after_complexity,
        "action": passed,
        "text": None if unread else passed - matched,
    }


def _histogram(summary: Summary, axis: int) -> list[int]:
    """Number of samples by complexity (axis 0) or number of actions (axis 1); the last bin holds the rest."""
    bins = [0] * (max((key[axis] for key in summary.cells), default=0) + 1)
    for key, cell in summary.cells.items():
        bins[key[axis]] += cell[0]
    return bins


def text_spotting(summary: Summary) -> dict[str, Any] | None:
    """Recall and precision, if the input records which images had words of their caption painted in; else None."""
    if not summary.painted:
        return None
    found, missed = summary.painted["painted_found"], summary.painted["painted_missed"]
    wrong = summary.painted["clean_dropped"]
    return {
        **dict(sorted(summary.painted.items())),
        "recall": round(found / (found + missed), 4) if found + missed else None,
        "precision": round(found / (found + wrong), 4) if found + wrong else None,
    }
