"""`label/report.json`: vocabulary, heads and a few labelled images, for people and for the run's report.

In: the stage's own files. Out: one document without times, so that the same run gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.label.caption_concepts import KeptCaptions, read_captions
from diht_k8s.recipe.label.job import LabelJob
from diht_k8s.recipe.label.soft_labels import HeadLabels, Labels, read_labels
from diht_k8s.recipe.label.vocabulary import Concepts, ConceptVocabulary
from diht_k8s.recipe.runtime.bad_shards import LOST, Damage, damage_summary
from diht_k8s.recipe.runtime.ledger import Count, require_equal
from diht_k8s.recipe.shards.pairs import read_pairs
from diht_k8s.recipe.shards.samples import until_damage
from diht_k8s.recipe.shards.sources import Shard

SHOWN_CONCEPTS: Final = 20
EXAMPLES: Final = 16
EXAMPLE_LABELS: Final = 5
NAMED: Final = 0.2
"""A label names a concept where its probability is at least this (our choice: at most five concepts a head).

Heads that may say nothing name whatever they say.
"""


def make_report(job: LabelJob, vocabulary: ConceptVocabulary, heads: dict[str, Any]) -> dict[str, Any]:
    """The report of a stage whose labels are all there.

    Raises:
        DataError: more images than `filter.maxBadPercent` allows have no label, or more shards than
            `data.maxBadShards` allows are damaged.
    """
    total, bad = 0, Counter[str]()
    beyond = BeyondCaption(named_from=job.label.min_probability or NAMED, held_out=job.label.cross_fit > 1)
    examples: list[dict[str, Any]] = []
    wanted = example_shards(job.shards)
    for shard in job.shards:
        labels = read_labels(job.context.storage, job.context.layout.labels(shard.name))
        _check_labels(job, labels, vocabulary, shard)
        _check_rows(job, labels, shard)
        total += len(labels.uids)
        bad.update(labels.header["bad"])
        if "damage" in labels.header:
            job.bad_shards.add(shard.name, Damage(**labels.header["damage"]))
        if shard.name in job.training:  # enough for a share; all scores of a large run are hundreds of gigabytes
            beyond.add(labels, read_captions(job.context.storage, job.context.layout, shard), vocabulary)
        if shard.name in wanted:
            examples += _examples(job, shard, labels, vocabulary, wanted[shard.name])
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
            "objects": _vocabulary_figures(vocabulary.objects, vocabulary.cut["objects"]),
            "attributes": _vocabulary_figures(vocabulary.attributes, vocabulary.cut["attributes"]),
        },
        "heads": {
            "cross_fit": job.label.cross_fit,
            "training_pictures": sum(job.training.values()),
            "objects": heads["objects"],
            "attributes": heads["attributes"],
        },
        "pictures": {"total": total, "labelled": total - bad.total(), "bad": dict(sorted(bad.items()))},
        "beyond_caption": beyond.document(),
        "examples": examples,
        **damage_summary(job.bad_shards.found),
    }


@dataclass
class BeyondCaption:
    """What the labels name and the captions do not, in the shards that trained the heads.

    This is what distillation adds to the captions, right or wrong: nothing here says that it is in the image. What can be
    said without looking is how often the captions of unseen images name a concept where its label does.
    """

    named_from: float = NAMED
    held_out: bool = True
    """whether the labels come from heads that never saw the captions."""
    labelled: int = 0
    naming: Counter[str] = field(default_factory=Counter)
    """images with a label of at least `NAMED` outside of the caption, by head."""
    either: int = 0
    mass: dict[str, float] = field(default_factory=lambda: {"objects": 0.0, "attributes": 0.0})
    """sum of the probabilities outside of the captions, by head; an image's sum to 1."""
    names: dict[str, Counter[str]] = field(default_factory=lambda: {"objects": Counter(), "attributes": Counter()})
    confirmed: dict[str, Counter[str]] = field(default_factory=lambda: {"objects": Counter(), "attributes": Counter()})
    """how often the caption names what the label names, by head and concept."""
    silent: Counter[str] = field(default_factory=Counter)
    """images of which a head says nothing."""

    def add(self, labels: Labels, captions: KeptCaptions, vocabulary: ConceptVocabulary) -> None:
        """Count one shard."""
        self.labelled += int(labels.has_label_N.sum())
        either_N = np.zeros(len(labels.uids), np.bool_)
        for kind, head, concepts, names_N in (
            ("objects", labels.objects, vocabulary.objects, captions.objects),
            ("attributes", labels.attributes, vocabulary.attributes, captions.attributes),
        ):
            outside_NK = outside_caption(head, concepts, names_N) & labels.has_label_N[:, None]
            said_NK = named(head, labels.header)
            named_NK = outside_NK & said_NK
            either_N |= named_NK.any(axis=1)
            self.naming[kind] += int(named_NK.any(axis=1).sum())
            self.mass[kind] += float(head.probabilities_NK[outside_NK].sum(dtype=np.float64))
            self.names[kind].update(concepts.names[number] for number in head.ids_NK[named_NK].tolist())
            inside_NK = said_NK & ~outside_NK & labels.has_label_N[:, None]
            self.confirmed[kind].update(concepts.names[number] for number in head.ids_NK[inside_NK].tolist())
            self.silent[kind] += int((labels.has_label_N & ~head.probabilities_NK.any(axis=1)).sum())
        self.either += int(either_N.sum())

    def document(self) -> dict[str, Any]:
        """For the report."""
        count = max(1, self.labelled)
        return {
            "named_from": self.named_from,
            "measured_on": self.labelled,
            "pictures": round(self.either / count, 4),
            **{
                kind: {
                    "pictures": round(self.naming[kind] / count, 4),
                    "probability": round(self.mass[kind] / count, 4),
                    "silent": round(self.silent[kind] / count, 4),
                    "commonest": [[name, number] for name, number in _commonest(names)],
                    "precision": self._precision(kind),
                }
                for kind, names in self.names.items()
            },
        }

    def _precision(self, kind: str) -> dict[str, Any] | None:
        """In what share of the images whose label names a concept the caption does: of each added concept and their mean.

        The mean is over the added labels. The images are unseen ones; without folds there are hardly any: None.
        """
        names, confirmed = self.names[kind], self.confirmed[kind]
        if not self.held_out or not names:
            return None
        precision = {name: confirmed[name] / (confirmed[name] + number) for name, number in names.items()}
        mean = sum(precision[name] * number for name, number in names.items()) / names.total()
        return {
            "mean": round(mean, 4),
            "concepts": {name: round(precision[name], 4) for name, _ in _commonest(names)},
        }


def named(head: HeadLabels, header: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Which of the stored classes the label names, [N, K]: those of at least `NAMED`, or all that a head says that may be silent."""
    return head.probabilities_NK > 0 if header.get("min_probability") else head.probabilities_NK >= NAMED


def outside_caption(head: HeadLabels, concepts: Concepts, names_N: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Which of the stored classes the image's caption does not name, [N, K]."""
    ids, outside = concepts.ids, list[list[bool]]()
    for row, names in zip(head.ids_NK.tolist(), names_N, strict=True):
        inside = {number for name in names for number in ids.get(name, ())}
        outside.append([number not in inside for number in row])
    return np.array(outside, np.bool_).reshape(head.ids_NK.shape)


def _commonest(names: Counter[str]) -> list[tuple[str, int]]:
    return sorted(names.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_CONCEPTS]


def example_shards(shards: Sequence[Shard]) -> dict[str, int]:
    """How many examples each shard gives: evenly spread, `EXAMPLES` in all if there are that many images."""
    chosen = [shards[number * len(shards) // EXAMPLES] for number in range(EXAMPLES)]
    return Counter(shard.name for shard in chosen)


def _examples(
    job: LabelJob, shard: Shard, labels: Labels, vocabulary: ConceptVocabulary, count: int
) -> list[dict[str, Any]]:
    """Evenly spread rows of one shard with caption and likeliest concepts."""
    total = len(labels.uids)
    rows = sorted({(2 * number + 1) * total // (2 * count) for number in range(count)})
    samples = until_damage(read_pairs(job.context.storage, shard))
    captions = {row: sample.caption for row, sample in enumerate(islice(samples, rows[-1] + 1)) if row in rows}
    return [
        {
            "uid": labels.uids[row],
            "shard": shard.name,
            "caption": captions[row],
            "objects": _likeliest(labels.objects, vocabulary.objects, row),
            "attributes": _likeliest(labels.attributes, vocabulary.attributes, row),
        }
        for row in rows
        if labels.has_label_N[row]
    ]


def _likeliest(labels: HeadLabels, concepts: Concepts, row: int) -> list[list[Any]]:
    pairs = zip(labels.ids_NK[row].tolist(), labels.probabilities_NK[row].tolist(), strict=True)
    said = [[concepts.names[number], round(probability, 4)] for number, probability in pairs if probability]
    return said[:EXAMPLE_LABELS]


def _vocabulary_figures(concepts: Concepts, cut: dict[str, Any]) -> dict[str, Any]:
    rows = [[name, count] for name, count in zip(concepts.names, concepts.counts, strict=True)]
    return {
        "classes": len(concepts),
        "commonest": rows[:SHOWN_CONCEPTS],
        "rarest": rows[-SHOWN_CONCEPTS:],
        "cut": cut,
    }


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
