"""`label/report.json`: vocabulary, heads and a few labelled images, for people and for the run's report.

In: the stage's own files. Out: one document without times, so that the same run gives the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import until_damage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime.bad_shards import LOST, Damage, damage_summary
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.stages.label.added import NONE, CaptionUse, best_added, outside_caption
from diht_k8s.stages.label.caption_concepts import KeptCaptions, read_captions
from diht_k8s.stages.label.job import LabelJob
from diht_k8s.stages.label.soft_labels import Labels, read_labels
from diht_k8s.stages.label.vocabulary import ConceptVocabulary

SHOWN_CONCEPTS: Final = 20
EXAMPLES: Final = 16
ADDED_FROM: Final = 0.55
"""The least score of an added label: that of a tenth of the demo's drawings (benchmarks/added_labels.py)."""


def make_report(job: LabelJob, vocabulary: ConceptVocabulary, heads: dict[str, Any]) -> dict[str, Any]:
    """The report of a stage whose labels are all there.

    Raises:
        DataError: more images than `filter.maxBadPercent` allows have no label, or more shards than
            `data.maxBadShards` allows are damaged.
    """
    total, bad = 0, Counter[str]()
    added = AddedLabels(_caption_use(job, vocabulary), held_out=job.label.cross_fit > 1)
    examples: list[dict[str, Any]] = []
    wanted = example_shards(job.training_shards)
    for shard in job.shards:
        labels = read_labels(job.context.storage, job.context.layout.labels(shard.name))
        _check_labels(job, labels, vocabulary, shard)
        _check_rows(job, labels, shard)
        total += len(labels.uids)
        bad.update(labels.header["bad"])
        if "damage" in labels.header:
            job.bad_shards.add(shard.name, Damage(**labels.header["damage"]))
        if shard.name in job.training:  # enough for a share; all scores of a large run are hundreds of gigabytes
            found = added.add(labels, read_captions(job.context.storage, job.context.layout, shard))
            examples += _examples(job, shard, labels.uids, found, wanted.get(shard.name, 0))
    _check_bad(job, total, bad)
    return {
        **job.header,
        "teacher": {
            "model": job.label.teacher.model,
            "image_size": job.label.teacher.image_size,
            "weights_sha256": job.context.config["programs"]["teacher"],
        },
        "vocabulary": {
            "captions": vocabulary.captions,
            "objects": {"classes": len(vocabulary.objects)},
            "attributes": {"classes": len(vocabulary.attributes)},
        },
        "heads": {
            "cross_fit": job.label.cross_fit,
            "training_pictures": sum(job.training.values()),
            "objects": heads["objects"],
            "attributes": heads["attributes"],
        },
        "pictures": {"total": total, "labelled": total - bad.total(), "bad": dict(sorted(bad.items()))},
        "added": added.document(),
        "examples": examples,
        **damage_summary(job.bad_shards.found),
    }


@dataclass
class AddedLabels:
    """The objects that labels add to the captions, in the shards that trained the heads.

    Nothing here says that they are in the images. What can be said without looking is how often the captions of unseen
    images name an object where a label says it.
    """

    use: CaptionUse
    held_out: bool = True
    """whether the labels come from heads that never saw the captions."""
    labelled: int = 0
    names: Counter[str] = field(default_factory=Counter)
    """images by their added label."""
    confirmed: Counter[str] = field(default_factory=Counter)
    """images of which a label says an object that their caption names."""
    unnamed: Counter[str] = field(default_factory=Counter)
    """images of which a label says an object that their caption does not name, shown or not."""

    def add(self, labels: Labels, captions: KeptCaptions) -> list[str | None]:
        """Count one shard; the label to show of each image."""
        concepts, head = self.use.concepts, labels.objects
        self.labelled += int(labels.has_label_N.sum())
        scores_NK = self.use.scores(head, captions)
        outside_NK = outside_caption(head, concepts, captions)
        said_NK = scores_NK >= ADDED_FROM
        number_N = best_added(np.where(said_NK, scores_NK, 0), outside_NK, head.ids_NK)
        found = [None if number == NONE else concepts.names[number] for number in number_N.tolist()]
        self.names.update(name for name in found if name is not None)
        for counter, mentions_NK in ((self.confirmed, said_NK & ~outside_NK), (self.unnamed, said_NK & outside_NK)):
            counter.update(concepts.names[number] for number in head.ids_NK[mentions_NK].tolist())
        return found

    def document(self) -> dict[str, Any]:
        """For the report."""
        commonest = sorted(self.names.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_CONCEPTS]
        return {
            "measured_on": self.labelled,
            "pictures": round(self.names.total() / max(1, self.labelled), 4),
            "none": self.labelled - self.names.total(),
            "commonest": [[name, number, self._precision(name)] for name, number in commonest],
            "precision": self._mean_precision(),
        }

    def _precision(self, name: str) -> float | None:
        """In what share of the images of which a label says an object the caption names it; without folds hardly any
        is unseen.
        """
        return round(self._share(name), 4) if self.held_out else None

    def _mean_precision(self) -> float | None:
        """The mean over the added labels."""
        if not self.held_out or not self.names:
            return None
        return round(sum(self._share(name) * number for name, number in self.names.items()) / self.names.total(), 4)

    def _share(self, name: str) -> float:
        return self.confirmed[name] / (self.confirmed[name] + self.unnamed[name])


def example_shards(shards: Sequence[Shard]) -> dict[str, int]:
    """How many examples each shard gives: evenly spread, `EXAMPLES` in all if there are that many images."""
    chosen = [shards[number * len(shards) // EXAMPLES] for number in range(EXAMPLES)]
    return Counter(shard.name for shard in chosen)


def _examples(
    job: LabelJob, shard: Shard, uids: Sequence[str], added: Sequence[str | None], most: int
) -> list[dict[str, Any]]:
    """Evenly spread images of one shard with an added label and their captions, in whose text the label is not,
    either.
    """
    names = {row: name for row, name in enumerate(added) if name is not None}
    if not most or not names:
        return []
    samples = until_damage(read_pairs(job.context.storage, shard))
    captions = {row: sample.caption for row, sample in enumerate(islice(samples, max(names) + 1)) if row in names}
    rows = [row for row, caption in captions.items() if not words(names[row]) <= words(caption)]
    chosen = sorted({rows[(2 * number + 1) * len(rows) // (2 * most)] for number in range(most)}) if rows else []
    return [{"uid": uids[row], "shard": shard.name, "caption": captions[row], "added": names[row]} for row in chosen]


def words(text: str) -> set[str]:
    """The words of a text in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def _caption_use(job: LabelJob, vocabulary: ConceptVocabulary) -> CaptionUse:
    use = CaptionUse(vocabulary.objects)
    for shard in job.training_shards:
        use.add(read_captions(job.context.storage, job.context.layout, shard))
    return use


def _check_labels(job: LabelJob, labels: Labels, vocabulary: ConceptVocabulary, shard: Shard) -> None:
    if (
        labels.header["config_sha256"] != job.context.config_sha256
        or labels.header["vocabulary_sha256"] != vocabulary.sha256
    ):
        raise DataError(
            f"{job.context.layout.labels(shard.name)} belongs to another vocabulary or configuration: "
            "run the stage label again"
        )


def _check_rows(job: LabelJob, labels: Labels, shard: Shard) -> None:
    """Compare the rows of labels with the filter's count of kept pairs, and those without labels with their reasons."""
    assert shard.samples is not None, "the filter counts what it keeps"
    uri, again = job.context.layout.labels(shard.name), "remove this file and run the stage label again"
    kept, rows = Count(shard.samples, "pairs were kept by the filter"), Count(len(labels.uids), "rows have labels")
    require_equal(uri, again, kept, rows)
    bad = Count(sum(labels.header["bad"].values()), "images are bad by reason")
    require_equal(uri, again, bad, Count(int((~labels.has_label_N).sum()), "rows have no label"))


def _check_bad(job: LabelJob, total: int, bad: Counter[str]) -> None:
    rules = job.context.run.spec.filter
    assert rules is not None  # a label stage needs a filter: the run document's rules say so
    bad = Counter({reason: count for reason, count in bad.items() if reason != LOST})  # data.maxBadShards limits those
    if 100 * bad.total() > rules.max_bad_percent * total:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(bad.items()))
        raise DataError(
            f"{bad.total()} of {total} kept images cannot be used ({reasons}), more than filter.maxBadPercent "
            f"{rules.max_bad_percent:g}: fix the shards or raise the limit"
        )
