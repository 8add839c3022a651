"""The few-shot probe on the demo's images: ours, from scratch, the L2 pull, the prior alone.

The demo's teacher, clip art, 20 draws; balanced accuracies. The prior is a ridge regression from words, fitted on other
pairs. Draws share images: their 95 % t intervals are somewhat too narrow.
"""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks._arguments import make_parser
from diht_k8s.api.label import Teacher
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.few_shot import FewShotCurve, few_shot_curve

CLASSES: Final = {
    "animals": "animal,dog,cat,bird,fish,insect,horse",
    "food": "food,fruit,cake,bread,vegetable,drink",
    "transportation": "car,truck,airplane,ship,train,bicycle,vehicle",
    "tools": "tool,hammer,saw,screwdriver,wrench,scissors",
    "people": "man,woman,person,boy,girl,people",
    "recreation": "game,music,guitar,ball,toy,holiday,sport,chess",
    "office": "office,pen,pencil,paper,book,desk,clip",
    "signs_and_symbols/flags": "flag,flags",
    "computer/icons": "icon,folder,computer,button,document,desktop",
    "geography": "map,globe,geography,country,continent,world",
}
"""Folder of the clip art -> words whose mean prediction is the class' prior."""
SHOTS: Final = (1, 2, 4, 8, 16)
ALPHAS: Final = (0.3, 1.0, 3.0, 10.0)
SCALES: Final = (2.0, 5.0, 10.0, 20.0, 40.0)
HELD_OUT: Final = 600

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Features of the demo's clean images, with what is known of each."""

    features_ND: Array
    captions: list[str]
    labels_N: NDArray[np.int64]
    """-1 outside the ten folders."""
    groups_N: NDArray[np.int64]


def read_pairs(data: str) -> Pairs:
    """All images of the pool but its junk, through the teacher."""
    import torch

    from diht_k8s.stages.label.teacher import load_teacher
    from diht_k8s.stages.label.teacher_weights import weights_uri

    config, storage = Teacher(image_size=128), Storage()
    teacher = load_teacher(config, storage, weights_uri(config), torch.device("cpu"))
    features, captions, labels, groups = list[Array](), list[str](), list[int](), list[int]()
    for uri in sorted(glob.glob(f"{data}/train/*.tar.gz") + glob.glob(f"{data}/development/*.tar.gz")):
        samples = [sample for sample in read_samples(storage, uri) if "junk" not in sample.meta]
        for start in range(0, len(samples), 32):
            block = samples[start : start + 32]
            pixels = torch.stack([teacher.preprocess(decode(sample.image)) for sample in block])
            features.append(teacher.features(pixels).numpy().astype(np.float64))
        captions += [sample.caption for sample in samples]
        labels += [label_of(sample.meta) for sample in samples]
        groups += [sample.meta["group"] for sample in samples]
    return Pairs(np.concatenate(features), captions, np.array(labels), np.array(groups))


def label_of(meta: Any) -> int:
    """Class of a clip by its folder, -1 for none."""
    return next((i for i, folder in enumerate(CLASSES) if meta["file"].startswith(folder + "/")), -1)


def unit(values_ND: Array) -> Array:
    """Rows of length 1."""
    return values_ND / np.maximum(np.linalg.norm(values_ND, axis=1, keepdims=True), 1e-9)


def task_of(pairs: Pairs, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64], Array]:
    """(features, labels, W_0) of the task: half of the groups for the task, the rest for the prior."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    names = np.unique(pairs.groups_N)
    for_task = dict(zip(names.tolist(), (rng.random(len(names)) < 0.5).tolist(), strict=True))
    task_N = (pairs.labels_N >= 0) & np.array([for_task[group] for group in pairs.groups_N.tolist()])
    features_ND = unit(pairs.features_ND)
    features_ND = unit(features_ND - features_ND[~task_N].mean(axis=0))
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    words: Any = vectorizer.fit_transform([c for c, inside in zip(pairs.captions, task_N, strict=True) if not inside])
    weights_VD, scale = fit_prior(words, features_ND[~task_N], rng)
    transform: Any = vectorizer.transform
    spoken = [unit(transform(text.split(",")) @ weights_VD).mean(axis=0) for text in CLASSES.values()]
    return features_ND[task_N], pairs.labels_N[task_N], scale * unit(np.stack(spoken))


def fit_prior(words: Any, features_ND: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Ridge weights from words to features, and the temperature under which held-out captions find their image best."""

    def ridge(rows: NDArray[np.int64], alpha: float) -> Array:
        gram = (words[rows].T @ words[rows]).toarray() + alpha * np.eye(words.shape[1])
        return np.linalg.solve(gram, words[rows].T @ features_ND[rows])

    order = rng.permutation(words.shape[0])
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    predicted = {alpha: unit(words[held_out] @ ridge(rest, alpha)) for alpha in ALPHAS}
    best = max(ALPHAS, key=lambda alpha: float((predicted[alpha] * features_ND[held_out]).sum(axis=1).mean()))
    scores = predicted[best] @ features_ND[held_out].T

    def loss(scale: float) -> float:
        return float((np.logaddexp.reduce(scale * scores, axis=1) - scale * np.diag(scores)).mean())

    return ridge(order, best), min(SCALES, key=loss)


def summary(curve: FewShotCurve) -> list[dict[str, Any]]:
    """Means, and differences of ours to each other classifier with intervals over the draws, for each number of
    shots.
    """
    from scipy import stats

    rows: list[dict[str, Any]] = []
    for shots in SHOTS:
        draws = [draw for draw in curve.draws if draw.shots == shots]
        row: dict[str, Any] = {"shots": shots, "draws": len(draws), "held_out": draws[0].held_out}
        row["largest_residual"] = max(draw.residual for draw in draws)
        for kind in ("probe", "scratch", "pull", "zero_shot"):
            values = np.array([getattr(draw, kind) for draw in draws])
            row[kind] = round(float(values.mean()), 4)
            if kind != "probe":
                gain = np.array([draw.probe for draw in draws]) - values
                half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
                row[f"over_{kind}"] = [round(float(edge), 4) for edge in (gain.mean() - half, gain.mean() + half)]
        rows.append(row)
    return rows


def main() -> None:
    """Run it."""
    parser = make_parser("few_shot", __doc__)
    parser.add_argument("--data", default=str(Path(__file__).parent.parent / "examples" / "data"))
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    features_ND, labels_N, zero_shot_CD = task_of(read_pairs(options.data), np.random.default_rng(0))
    rngs = [np.random.default_rng([0, draw]) for draw in range(options.draws)]
    curve = few_shot_curve(
        features_ND.astype(np.float32), labels_N, zero_shot_CD.astype(np.float32), SHOTS, rngs, list(CLASSES)
    )
    print(json.dumps({"benchmark": "few_shot", "test_pictures": curve.test_images, "points": summary(curve)}))


if __name__ == "__main__":
    main()
