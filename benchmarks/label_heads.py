"""Kinds of heads compared on the development split: what they say of unseen images, and how often the caption names it.

In: a committed label stage with its features, and a benchmark's shards. Out: a JSON line. Each setting trains the object head on
the same cached features and vocabulary (less what `maxFraction` cuts). Nothing here says that an added label is in the image:
`benchmarks/run added_labels` draws the sheet for that.

Shapes: N images, C classes.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ablation.pools import ROOT, read_pairs, teacher_features
from diht_k8s.api.documents import load
from diht_k8s.api.label import Heads
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.filter import CaptionParser
from diht_k8s.recipe.label.caption_concepts import read_captions
from diht_k8s.recipe.label.features import read_safetensors
from diht_k8s.recipe.label.heads import Head, TrainingImages, fit_head, folds_of
from diht_k8s.recipe.label.soft_labels import top_k
from diht_k8s.recipe.label.targets import Targets, encode
from diht_k8s.recipe.label.teacher import load_teacher
from diht_k8s.recipe.label.teacher_classes import imagenet_names, join_classes, with_own_classes
from diht_k8s.recipe.label.teacher_weights import weights_uri
from diht_k8s.recipe.label.vocabulary import Concepts, ConceptVocabulary
from diht_k8s.recipe.runtime.inputs import kept_shards
from diht_k8s.recipe.runtime.run_folder import run_layout
from diht_k8s.recipe.shards.storage import Storage

FRACTIONS: Final = (1.0, 0.25)
TRAININGS: Final = ({}, {"lr": 1e-4, "epochs": 40, "weight_decay": 3.0})
"""The contract's defaults, and a slower training with a decay that holds the weights of 1,280 features back."""
LEAST: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Pool:
    """Features, folds and caption concepts of the images that train the heads."""

    images: TrainingImages
    names_N: list[list[str]]
    vocabulary: Concepts


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(prog="benchmarks/run label_heads", description=__doc__)
    parser.add_argument("--document", default="examples/demo.yaml", help="a labelled run (default: %(default)s)")
    parser.add_argument("--output", help="its data.output where that is another than the document's")
    parser.add_argument("--benchmark", type=int, default=0, help="the development split's place in evaluate.benchmarks")
    options = parser.parse_args()
    overrides = [f"data.output={Path(options.output).resolve()}"] if options.output else []
    os.chdir(ROOT)
    torch.set_num_threads(1)
    run = load(Path(options.document).read_text(), name=options.document, overrides=overrides)
    print(json.dumps({"benchmark": "label_heads", "settings": compare(run, options.benchmark)}))


def compare(run: DihtRun, benchmark: int) -> list[dict[str, Any]]:
    """A row for each setting and least probability."""
    assert run.spec.evaluate is not None, "the run has benchmarks"
    pool = read_pool(run)
    pairs, _ = read_pairs(run.spec.evaluate.benchmarks[benchmark].shards)
    assert run.spec.label is not None, "the run labels"
    config = run.spec.label.teacher
    teacher = load_teacher(config, Storage(), weights_uri(config), torch.device("cpu"))
    features = teacher_features(run, pairs)
    names_N = [[mention.name for mention in graph.objects] for graph in CaptionParser().parse(pairs.captions)]
    found: list[dict[str, Any]] = []
    for fraction, kind, training in product(FRACTIONS, ("Softmax", "Sigmoid"), TRAININGS):
        most = fraction * len(pool.names_N)
        rows = [row for row in zip(pool.vocabulary.names, pool.vocabulary.counts, strict=True) if row[1] <= most]
        concepts = Concepts(*map(tuple, zip(*rows, strict=True)))
        targets = encode(pool.names_N, concepts)
        config = Heads.model_validate({"kind": kind, "calibrate": True, **training})
        head = fit_head(
            pool.images, targets, config, run.spec.seed, torch.device("cpu"), lambda epoch, figures, state: None
        )
        setting = {"maxFraction": fraction, "kind": kind, **training, "temperature": round(head.temperature, 2)}
        found += said_at(head, pool, targets, (features, encode(names_N, concepts)), setting)
        if kind == "Sigmoid" and fraction < 1 and training:
            longer = join_classes(concepts, dict(rows), imagenet_names())
            targets = encode(pool.names_N, longer)
            head = with_own_classes(head, pool.images, targets, teacher.classifier, longer)
            setting |= {"ownClasses": len(longer.teacher_classes)}
            found += said_at(head, pool, targets, (features, encode(names_N, longer)), setting)
    return found


def said_at(
    head: Head, pool: Pool, targets: Targets, unseen: tuple[torch.Tensor, Targets], setting: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each least probability: on the pool by heads that never saw the image, on the unseen images by the one on all."""
    cross_fitted = head.probabilities(pool.images.features_ND, pool.images.fold_N).numpy()
    development = head.all_data_probabilities(unseen[0]).numpy()
    return [
        {
            **setting,
            "minProbability": least,
            "cross_fitted": says(cross_fitted, targets, least),
            "development": says(development, unseen[1], least),
        }
        for least in LEAST
    ]


def says(probabilities_NC: NDArray[np.float32], targets: Targets, least: float) -> dict[str, Any]:
    """Labels of at least a probability, the percentage that captions name, and percentages of images."""
    rows = np.arange(len(probabilities_NC))
    present_NC = targets.soft(rows).numpy() > 0
    ids_NK, kept_NK = top_k(probabilities_NC, min(10, targets.classes), least)
    said_NK, named_NK = kept_NK > 0, np.take_along_axis(present_NC, ids_NK.astype(np.int64), axis=1)
    return {
        "labels": int(said_NK.sum()),
        "named_percent": round(100 * float(named_NK[said_NK].mean()), 1) if said_NK.any() else None,
        "concepts_found_percent": round(100 * float((named_NK & said_NK).sum() / present_NC.sum()), 1),
        "silent_percent": round(100 * float((~said_NK.any(axis=1)).mean()), 1),
        "added_percent": round(100 * float((said_NK & ~named_NK).any(axis=1).mean()), 1),
    }


def read_pool(run: DihtRun) -> Pool:
    """What a committed label stage and its filter left."""
    assert run.spec.label is not None, "the run labels"
    storage = Storage()
    layout = run_layout(run, storage)
    vocabulary = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary)))
    features, groups, names = list[torch.Tensor](), list[torch.Tensor](), list[list[str]]()
    for shard in kept_shards(run.spec, storage, layout):
        tensors, _ = read_safetensors(storage, layout.features(shard.name))
        features.append(tensors["features"])
        groups.append(tensors["group_hash"])
        names += read_captions(storage, layout, shard).objects
    folds = run.spec.label.cross_fit
    fold_N = folds_of(torch.cat(groups), folds, run.spec.seed)
    return Pool(TrainingImages(torch.cat(features), fold_N, folds), names, vocabulary.objects)


if __name__ == "__main__":
    main()
