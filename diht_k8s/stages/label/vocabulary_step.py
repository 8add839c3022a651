"""The step `vocabulary`: the filter's scores of all kept shards in, `vocabulary.json` out.

It imports no torch, so it starts at once, but for the names of the teacher's own classes.
"""

from __future__ import annotations

import json
from dataclasses import replace

from diht_k8s.stages.label.caption_concepts import read_captions
from diht_k8s.stages.label.job import LabelJob
from diht_k8s.stages.label.soft_labels import check_top_k
from diht_k8s.stages.label.vocabulary import ConceptCounts, ConceptVocabulary, freeze


def make_vocabulary(job: LabelJob) -> None:
    """Count the concepts of all kept captions and freeze the classes.

    Raises:
        UserError: top k is larger than a vocabulary.
        DataError: a vocabulary is empty.
    """
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
