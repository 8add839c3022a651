"""What the teacher knows: the same heads on its features and on an untrained network's, and nearest neighbours.

Pools of `benchmarks/run ablation`; average precision of 22 objects by heads that never saw the image's group; bootstrap
over concepts. Shapes: N images, C classes, D features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._arguments import make_parser
from benchmarks.ablation.pools import Pairs, pool_run, prepare_pools, read_pairs
from benchmarks.ablation.processes import ROOT
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.stages.evaluate.ridge import raw_pixels
from diht_k8s.stages.filter import CaptionParser
from diht_k8s.stages.label.caption_concepts import read_captions
from diht_k8s.stages.label.features import read_safetensors
from diht_k8s.stages.label.head_metrics import MIN_EXAMPLES, average_precision
from diht_k8s.stages.label.heads import Head, folds_of
from diht_k8s.stages.label.targets import encode
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_weights import weights_uri
from diht_k8s.stages.label.vocabulary import Concepts, ConceptVocabulary

HELD_OUT_EXAMPLES: Final = 5
"""The 500 held-out pairs have one pair a group, so few concepts have 20 of them.

Concepts with 20 training pairs and at least this many held-out ones count, too.
"""
NEIGHBOURS: Final = 5
RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Labelled:
    """A label stage's features, object head and classes."""

    features_ND: Tensor
    fold_N: Tensor
    present_NC: NDArray[np.bool_]
    head: Head
    concepts: Concepts


def main() -> None:
    """Print the line."""
    parser = make_parser("teacher", __doc__)
    parser.add_argument("--work", default="runs/ablation", help="folder of the pools (default: %(default)s)")
    parser.add_argument("--document", default="examples/demo.yaml", help="(default: %(default)s)")
    options = parser.parse_args()
    work = Path(options.work).resolve()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    prepare_pools(options.document, work)
    runs = {name: pool_run(options.document, work, name) for name in ("pool", "untrained")}
    print(json.dumps({"benchmark": "teacher", **compare(runs)}))


def teacher_features(run: DihtRun, pairs: Pairs) -> Tensor:
    """The teacher's features of some images, fp32."""
    assert run.spec.label is not None, "the demo labels"
    config = run.spec.label.teacher
    teacher = load_teacher(config, Storage(), weights_uri(config), torch.device("cpu"))
    size = teacher.batch_size
    chunks = [pairs.images[start : start + size] for start in range(0, len(pairs), size)]
    return torch.cat(
        [teacher.features(torch.stack([teacher.preprocess(image) for image in chunk])) for chunk in chunks]
    )


def compare(runs: dict[str, DihtRun]) -> dict[str, Any]:
    """All figures."""
    found = {name: read_labelled(run) for name, run in runs.items()}
    cross_fitted = {name: average_precision(probabilities(each), each.present_NC)[0] for name, each in found.items()}
    evaluate = runs["pool"].spec.evaluate
    assert evaluate is not None, "the demo has held-out pairs"
    held_out, classes_N = read_pairs(evaluate.benchmarks[0].shards)
    features = {name: teacher_features(run, held_out) for name, run in runs.items()}
    graphs = CaptionParser().parse(held_out.captions)
    present_NC = (
        encode([[mention.name for mention in graph.objects] for graph in graphs], found["pool"].concepts)
        .soft(np.arange(len(held_out)))
        .numpy()
        > 0
    )
    trained_C = np.asarray(found["pool"].present_NC.sum(axis=0) >= MIN_EXAMPLES)
    held_out_precision = {
        name: ranked_precision(each.head.all_data_probabilities(features[name]).numpy(), present_NC, trained_C)
        for name, each in found.items()
    }
    described = {**features, "pixels": torch.from_numpy(np.stack([raw_pixels(image) for image in held_out.images]))}
    chosen_N = torch.from_numpy(np.flatnonzero(classes_N >= 0))
    return {
        "cross_fitted_training_pairs": ratio(cross_fitted),
        "held_out_pairs": ratio(held_out_precision),
        "neighbours_in_class_percent": {
            name: round(100 * in_class(each[chosen_N], torch.from_numpy(classes_N)[chosen_N]), 1)
            for name, each in described.items()
        },
    }


def read_labelled(run: DihtRun) -> Labelled:
    """What a committed label stage left."""
    assert run.spec.label is not None, "the demo labels"
    storage = Storage()
    layout = run_layout(run, storage)
    vocabulary = ConceptVocabulary.from_document(json.loads(storage.read_bytes(layout.vocabulary)))
    tensors, _ = read_safetensors(storage, layout.teacher_heads)
    parts: list[dict[str, Tensor]] = []
    names: list[list[str]] = []
    for shard in kept_shards(run.spec, storage, layout):
        parts.append(read_safetensors(storage, layout.features(shard.name))[0])
        names += read_captions(storage, layout, shard).objects
    fold_N = folds_of(torch.cat([part["group_hash"] for part in parts]), run.spec.label.cross_fit, run.spec.seed)
    present_NC = np.asarray(encode(names, vocabulary.objects).soft(np.arange(len(names))).numpy() > 0)
    head = Head(tensors["objects.weight"], tensors["objects.bias"])
    return Labelled(torch.cat([part["features"] for part in parts]), fold_N, present_NC, head, vocabulary.objects)


def probabilities(labelled: Labelled) -> NDArray[np.float32]:
    """Of each image by the head that never saw its group."""
    return labelled.head.probabilities(labelled.features_ND, labelled.fold_N).numpy()


def ranked_precision(
    scores_NC: NDArray[np.float32], present_NC: NDArray[np.bool_], trained_C: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Average precision on held-out images of well-trained classes with enough of them, NaN elsewhere."""
    precision_C, _ = average_precision(scores_NC, present_NC, least=HELD_OUT_EXAMPLES)
    return np.where(trained_C, precision_C, np.nan)


def ratio(precision: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Means of both networks over the same concepts, their ratio and its bootstrap interval."""
    measured_C = ~np.isnan(precision["pool"])
    teacher_C, untrained_C = precision["pool"][measured_C], precision["untrained"][measured_C]
    rng = np.random.default_rng(0)
    draws_RC = rng.integers(0, len(teacher_C), (RESAMPLES, len(teacher_C)))
    ratios_R = teacher_C[draws_RC].mean(axis=1) / untrained_C[draws_RC].mean(axis=1)
    return {
        "concepts": len(teacher_C),
        "teacher": round(float(teacher_C.mean()), 4),
        "untrained": round(float(untrained_C.mean()), 4),
        "ratio": round(float(teacher_C.mean() / untrained_C.mean()), 2),
        "interval": [round(float(value), 2) for value in np.quantile(ratios_R, [0.025, 0.975])],
    }


def in_class(features_ND: Tensor, classes_N: Tensor) -> float:
    """Share of the images whose 5 nearest neighbours (cosine, standardised) mostly have their class; ties go to the
    nearest.
    """
    scaled_ND = (features_ND - features_ND.mean(dim=0)) / features_ND.std(dim=0).clamp(min=1e-6)
    unit_ND = torch.nn.functional.normalize(scaled_ND, dim=1)
    near_NK = (unit_ND @ unit_ND.T).fill_diagonal_(-2).topk(NEIGHBOURS, dim=1).indices
    votes_NC = torch.zeros(len(classes_N), int(classes_N.max()) + 1)
    for place in range(NEIGHBOURS):
        votes_NC[torch.arange(len(classes_N)), classes_N[near_NK[:, place]]] += 1 + 1e-3 * (NEIGHBOURS - place)
    return float((votes_NC.argmax(dim=1) == classes_N).float().mean())


if __name__ == "__main__":
    main()
