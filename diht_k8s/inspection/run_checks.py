"""Failures of a run that its data foretell: a batch larger than its pairs, more classes asked for than there are.

Only certain failures are reported. Shards are read where they are local and small; captions are parsed where there are
at most `MAX_PROFILED` of them. The number that a filter keeps is then known up to its image rules, which drop more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from diht_k8s.api.errors import DataError, DihtError
from diht_k8s.api.field_problems import FieldProblem
from diht_k8s.api.label import Vocabulary
from diht_k8s.api.run import DihtRun, Spec
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import survey
from diht_k8s.data.shards.sources import Shard, listed_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.inspection.dataset_profile import MAX_PROFILED, ProfiledPair, concept_counts
from diht_k8s.stages.filter.rules import caption_reason, new_row, sample_reason
from diht_k8s.stages.label.vocabulary import freeze

if TYPE_CHECKING:
    from diht_k8s.stages.filter.captions.parser import CaptionParser

MAX_BYTES: Final = 2 << 30
"""Of all shards: counting their samples reads them once."""
MARGIN: Final = 0.8
"""Share of the pairs that advice counts on: the image rules drop some."""


def check_run(run: DihtRun, storage: Storage, parser: Callable[[], CaptionParser]) -> list[FieldProblem]:
    """The failures that are certain; empty where none is.

    Args:
        run: the run.
        storage: of its input.
        parser: makes the parser of captions, where they are parsed.
    """
    spec = run.spec
    found = _too_few_samples(spec)
    patterns = [pattern for source in spec.data.sources for pattern in source.shards or ()]
    if any(storage.local_path(pattern) is None for pattern in patterns):
        return found
    try:
        shards = listed_shards(spec, storage)
        if not shards or sum(storage.size(shard.uri) for shard in shards) > MAX_BYTES:
            return found
        total = sum(survey(storage, shard.uri).samples for shard in shards)
        parses = spec.filter is not None and total <= MAX_PROFILED
        passing = _passing(spec, storage, shards, parser()) if parses else None
    except DihtError:  # shards that cannot be read: the stage that reads them says so
        return found
    pairs = total if passing is None else len(passing)
    found += _too_large_batch(spec, pairs, "pairs of its shards" if passing is None else "pairs whose captions pass")
    if passing is not None and spec.label is not None:
        found += _too_few_classes(spec, passing)
    return found


def _too_few_samples(spec: Spec) -> list[FieldProblem]:
    train = spec.train
    if train is None or train.samples >= train.batch_size:
        return []
    message = f"{train.samples} are fewer than one batch of {train.batch_size}: write train.samples: {train.batch_size}"
    return [FieldProblem(("spec", "train", "samples"), message)]


def _too_large_batch(spec: Spec, pairs: int, what: str) -> list[FieldProblem]:
    train = spec.train
    if train is None or train.shards or pairs >= train.batch_size:
        return []
    processes = train.num_nodes * train.processes_per_node
    share = 1 if processes > 1 else 2
    while 2 * share * processes <= pairs // 4:
        share *= 2
    said = f"{train.batch_size} is more than the {pairs} {what}"
    if share * processes > pairs * MARGIN:
        advice = f"too few for {processes} processes: give more pairs"
    else:
        advice = f"write train.batchSize: {share * processes}"
    return [FieldProblem(("spec", "train", "batchSize"), f"{said}: {advice}")]


def _too_few_classes(spec: Spec, passing: Sequence[ProfiledPair]) -> list[FieldProblem]:
    label = spec.label
    assert label is not None
    classes = _classes(passing, label.vocabulary)
    if min(classes) >= label.top_k:
        return []
    objects, attributes = classes
    wanted = label.vocabulary.min_count
    said = (
        f"{label.top_k} is more than the classes of {len(passing)} captions at minCount {wanted} "
        f"({objects} objects, {attributes} attributes)"
    )
    advice = "leave out spec.label and write train.distillation: {mode: Disabled}"
    for min_count in range(wanted, 1, -1):
        cuts = label.vocabulary.model_copy(update={"min_count": math.ceil(min_count / MARGIN)})
        if top_k := min(label.top_k, *_classes(passing, cuts)):
            lower = "" if min_count == wanted else f" and label.vocabulary.minCount: {min_count}"
            advice = f"write label.topK: {top_k}{lower}"
            break
    return [FieldProblem(("spec", "label", "topK"), f"{said}: {advice}")]


def _classes(passing: Sequence[ProfiledPair], cuts: Vocabulary) -> tuple[int, int]:
    """Objects and attributes; (0, 0) where one kind has none."""
    try:
        vocabulary = freeze(concept_counts(passing), cuts)
    except DataError:
        return 0, 0
    return len(vocabulary.objects), len(vocabulary.attributes)


def _passing(spec: Spec, storage: Storage, shards: Sequence[Shard], parser: CaptionParser) -> list[ProfiledPair]:
    """The pairs whose captions pass the filter; those of unfiltered sources all do."""
    rules = spec.filter
    assert rules is not None
    samples = [
        (shard.filtered, sample)
        for shard in shards
        for sample in read_pairs(storage, shard)
        if sample.problem is None and not (shard.filtered and sample_reason(sample, rules))
    ]
    graphs = parser.parse([sample.caption for _, sample in samples])
    found: list[ProfiledPair] = []
    for (filtered, sample), graph in zip(samples, graphs, strict=True):
        row = new_row("", sample)
        row.describe(graph, "check")
        if not (filtered and caption_reason(row, rules)):
            found.append(ProfiledPair(0, 0, sample.uid, "", row, sample.caption))
    return found
