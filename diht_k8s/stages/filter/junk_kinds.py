"""What becomes of the pairs of a pool whose junk is known: counts by kind, and the filter's precision and recall. Pure.

A pair's .json names its kind of junk (`filter.junkField`); pairs without the field are wanted. The kinds are a stranger's
text: they are cut, and the commonest are told apart. Excluded pairs do not count, so a takedown leaves nothing of them here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from diht_k8s.stages.filter.scores import BAD

WANTED: Final = ""
"""The kind of pairs without the field."""
MAX_NAME: Final = 60
"""Characters of a kind."""
MAX_KINDS: Final = 100
"""Kinds that a shard, and a stage, tell apart; the rest count together."""
SHOWN_KINDS: Final = 20

Json = dict[str, Any]


def kind_of(meta: Mapping[str, Any], name: str) -> str:
    """The kind of junk of a pair, printable and short; `WANTED` where its .json has none, or null, false, NaN or ""."""
    value = meta.get(name)
    if not value or value != value:  # NaN is what tables write where a row has no text
        return WANTED
    text = str(value)[: 4 * MAX_NAME]
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:MAX_NAME] or "not printable"


@dataclass
class JunkKinds:
    """Pairs by kind and reason; `merge` adds two of them."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """kind -> reason ("" if kept) -> pairs."""
    others: Counter[str] = field(default_factory=Counter)
    """the same of all kinds beyond `MAX_KINDS`."""

    @property
    def pairs(self) -> int:
        """All that count."""
        return self.others.total() + sum(counter.total() for counter in self.counts.values())

    def add(self, kind: str, reason: str) -> None:
        """Count a pair."""
        self.counts.setdefault(kind, Counter())[reason] += 1

    def drop(self, kind: str, reason: str) -> None:
        """Count a kept pair as dropped."""
        counter = self._of(kind)
        counter[""] -= 1
        counter[reason] += 1

    def merge(self, other: JunkKinds) -> None:
        """Add the counts of other pairs."""
        for kind, counter in other.counts.items():
            self.counts.setdefault(kind, Counter()).update(counter)
        self.others.update(other.others)
        self._fold()

    def exclude(self, taken: JunkKinds) -> None:
        """Take out pairs that are part of these."""
        for kind, counter in taken.counts.items():
            self._of(kind).subtract(counter)
        self.counts = {kind: +counter for kind, counter in self.counts.items() if +counter}
        self.others = +self.others

    def name_only(self, kinds: Collection[str]) -> None:
        """Forget the names of all kinds but these."""
        for kind in [kind for kind in self.counts if kind not in kinds and kind != WANTED]:
            self.others.update(self.counts.pop(kind))

    def to_json(self) -> Json:
        """The counts as they are stored; the same pairs give the same text."""
        self._fold()
        return {
            "kinds": {kind: _sorted(self.counts[kind]) for kind in sorted(self.counts)},
            "others": _sorted(self.others),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JunkKinds:
        """Read stored counts."""
        return cls({kind: Counter(counts) for kind, counts in data["kinds"].items()}, Counter(data["others"]))

    def _of(self, kind: str) -> Counter[str]:
        return self.counts.get(kind, self.others)

    def _fold(self) -> None:
        self.name_only(self._commonest(MAX_KINDS))

    def _commonest(self, number: int) -> list[str]:
        named = [kind for kind in self.counts if kind != WANTED]
        return sorted(named, key=lambda kind: (-self.counts[kind].total(), kind))[:number]

    def figures(self, name: str, rules: Sequence[str]) -> Json:
        """The filter's precision and recall, for `report.json`.

        A pair counts for the first rule that drops it; pairs that cannot be used count for none, and are left out of
        all shares. A share of nothing is None.

        Args:
            name: the field of the .json.
            rules: reasons in the order in which the rules are applied.
        """
        shown = self._commonest(SHOWN_KINDS)
        rest = self.others + sum(
            (self.counts[kind] for kind in self._commonest(MAX_KINDS)[SHOWN_KINDS:]), Counter[str]()
        )
        wanted = self.counts.get(WANTED, Counter[str]())
        junk = rest + sum((self.counts[kind] for kind in shown), Counter[str]())
        everything = junk + wanted
        used = [rule for rule in rules if everything[rule]]
        before, after = _used(everything), everything[""]
        return {
            "field": name,
            "wanted": _row(wanted),
            "kinds": [{"kind": kind, **_row(self.counts[kind])} for kind in shown],
            "other_kinds": _row(rest) if rest else None,
            "junk": _row(junk),
            "rules": [
                {
                    "rule": rule,
                    "dropped": everything[rule],
                    "precision": _share(junk[rule], everything[rule]),
                    "recall": _share(junk[rule], _used(junk)),
                }
                for rule in used
            ],
            "filter": {
                "precision": _share(_used(junk) - junk[""], before - after),
                "recall": _share(_used(junk) - junk[""], _used(junk)),
                "wanted_kept": _share(wanted[""], _used(wanted)),
                "kept": _share(after, before),
                "junk_before": _share(_used(junk), before),
                "junk_after": _share(junk[""], after),
            },
        }


def _used(counter: Counter[str]) -> int:
    return sum(number for reason, number in counter.items() if not reason.startswith(BAD))


def _row(counter: Counter[str]) -> Json:
    dropped = {reason: number for reason, number in sorted(counter.items()) if reason and not reason.startswith(BAD)}
    return {"pairs": counter.total(), "bad": counter.total() - _used(counter), "kept": counter[""], "dropped": dropped}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted((+counter).items()))
