"""Counts of the filter: per shard while its scores are computed, then summed over shards for the report.

Nothing is dropped silently: input = kept + dropped by reason + bad by reason, which `conservation` checks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from diht_k8s.data.shards.samples import Sample
from diht_k8s.stages.filter.junk_kinds import JunkKinds
from diht_k8s.stages.filter.layout_hints import LayoutHints
from diht_k8s.stages.filter.scores import BAD, Row
from diht_k8s.stages.filter.text_spotting.matching import normalised_words

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
    junk: JunkKinds = field(default_factory=JunkKinds)
    """all but the excluded ones by kind of junk, in runs with `filter.junkField`."""

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
            self.junk.add(row.junk, row.reason)
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
        self.hints.merge(other.hints)
        self.junk.merge(other.junk)
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
        self.junk.exclude(taken.junk)
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
                self.junk.drop(row.junk, reason)
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
            **({"junk": self.junk.to_json()} if self.junk.pairs else {}),
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
            junk=JunkKinds.from_json(data["junk"]) if "junk" in data else JunkKinds(),
        )


def top_names(counter: Counter[str], number: int) -> list[tuple[str, int]]:
    """The most frequent names with their counts; ties are sorted by name."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:number]


def _first(number: int, examples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(examples, key=lambda example: (example["rank"], example["shard"], example["key"]))[:number]
