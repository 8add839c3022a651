"""The references of a retrieval benchmark: regressions that are fitted on the run's own training pairs.

A model trained for minutes easily beats chance; the question is how it does beside a closed-form regression on a strong
frozen encoder. The ridge regression goes from CLIP's tokens to the whitened features of the label stage's teacher, with
the teacher's class names as further captions, and is what a training may start as (`train.textStart: Ridge`, see
`token_ridge`): a text tower trained on the same features should be above it. It has no more dimensions than the model's
embedding: with all of the features' it could stand above the model by these alone. A run with `train.words` has a
second reference, the kernel regression on them (see `kernel_regression`), which no text tower has to carry. The
training images are also compared with the benchmark's by digest.

Shapes: N training pairs, M test images, C captions of them, F features, D embedding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.images import DECODERS
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample, read_samples, until_damage
from diht_k8s.data.shards.sources import Shard, known_sources, training_shards
from diht_k8s.models.word_vectors import token_vectors
from diht_k8s.report.per_image import PerImage, holm, paired_differences, verdict
from diht_k8s.runtime.bad_shards import BadShards
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.retrieval import CUTOFFS, Retrieval, direction_json, gallery, image_of_text, retrieval
from diht_k8s.stages.label.teacher_classes import class_captions
from diht_k8s.stages.train.model.kernel_regression import (
    MAX_CAPTIONS,
    fit_kernel_regression,
    with_classes,
)
from diht_k8s.stages.train.model.kernel_regression import PENALTY as KERNEL_PENALTY
from diht_k8s.stages.train.model.token_ridge import PENALTY, ClassCaptions, TokenRidge, fit_ridge

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

    from diht_k8s.stages.label.features import TeacherFeatures
    from diht_k8s.stages.label.teacher import TeacherNetwork

MAX_GALLERY: Final = 10_000
"""Benchmarks of more images get no reference."""
MAX_PAIRS: Final = 20_000
"""Training pairs that the reference is fitted on: more take longer and add little accuracy."""
MIN_PAIRS: Final = 50
"""A regression on fewer pairs is meaningless."""

Json = dict[str, Any]


@dataclass
class TrainingPairs:
    """Training data of the reference; only digests in a run without retrieval or teacher features."""

    number: int = 0
    digests: set[str] = field(default_factory=set)
    """SHA-256 of each image's bytes."""
    captions: list[str] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    """[D] of each pair whose shard has teacher features."""


@dataclass(frozen=True)
class FittedRegression:
    """One reference for models of a dimension."""

    facts: Json
    ridge: TokenRidge
    """has the embeddings of images."""
    texts: Callable[[NDArray[np.int64]], NDArray[np.floating]]
    """tokens CxT -> embeddings CxD."""


class RidgeReference:
    """The references of a run: the training pairs are read, and they are fitted, for the first benchmark that asks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        evaluate = context.run.spec.evaluate
        assert evaluate is not None, "run_stage checks that the stage is there"
        self._decoder = DECODERS[evaluate.decode]  # that of the model's images: another one may refuse some
        self._retrieval = any(benchmark.type == "Retrieval" for benchmark in evaluate.chosen)
        self._label = find_committed(context.storage, context.layout, Stage.LABEL) if context.run.spec.label else None
        self._fitted = dict[int, list[FittedRegression]]()
        """by dimension."""

    def compare(self, images: EncodedImages, seed: list[int], model: PerImage) -> Json:
        """A retrieval benchmark's references with their differences to the model, or a note on why there is none."""
        captioned = gallery(images)
        if (reason := self._why_none(captioned)) is not None:
            return {"references": [], "notes": [f"no reference: {reason}"], "seen": self.seen(captioned.items)}
        fitted, features_MF = self._regressions(captioned.features_ND.shape[1]), self._features(captioned)
        tokens_CT = _tokens([caption for item in captioned.items for caption in item.captions])
        references = list[Json]()
        for each in fitted:
            rng = np.random.default_rng(seed)
            images_MD, texts_CD = each.ridge.images(features_MF), each.texts(tokens_CT)
            found = retrieval(_unit(images_MD), _unit(texts_CD), image_of_text(captioned), rng)
            references.append(
                {
                    **each.facts,
                    "text_to_image": direction_json(found.text_to_image),
                    "image_to_text": direction_json(found.image_to_text),
                    "difference": _differences(found, model, rng),
                }
            )
        return {"references": references, "notes": [], "seen": self.seen(captioned.items)}

    def seen(self, images: Sequence[BenchmarkImage]) -> Json | None:
        """How many different images are byte for byte among the training pairs; None if these cannot be read."""
        try:
            pairs = self._pairs
        except DataError:
            return None
        if isinstance(pairs, str):
            return None
        digests = {item.digest for item in images}
        return {"pictures": len(digests & pairs.digests), "of": len(digests), "pairs": pairs.number}

    def _why_none(self, captioned: EncodedImages) -> str | None:
        """Why a benchmark has no reference; None where it has one."""
        if len(captioned.items) > MAX_GALLERY:
            return f"more than {MAX_GALLERY:,} images"
        if isinstance(pairs := self._pairs, str):
            return pairs
        if pairs.number < MIN_PAIRS:
            return f"only {pairs.number} training pairs, {MIN_PAIRS} needed"
        if self._label is None:
            return "the run has no committed label stage"
        if len(pairs.features) != pairs.number:
            return "the teacher's features no longer lie beside the labels"
        return None if any(map(_has_words, pairs.captions)) else "no training caption has a word"

    def _regressions(self, dimension: int) -> list[FittedRegression]:
        """Those for a model of a dimension, fitted for the first benchmark and kept for the others."""
        if dimension not in self._fitted:
            train = self._context.run.spec.train
            words = None if train is None else train.words
            self._fitted[dimension] = [self._on_tokens(dimension)]
            if words is not None:
                vectors_VE = token_vectors(self._context.storage, words, _tokenizer().encoder)
                self._fitted[dimension].append(self._on_words(dimension, vectors_VE))
        return self._fitted[dimension]

    def _on_tokens(self, dimension: int) -> FittedRegression:
        ridge = self._ridge(dimension, None)
        facts = {"name": "tokens", "pairs": ridge.pairs, "words": len(ridge.tokens_V), "alpha": PENALTY}
        return FittedRegression({**facts, "dimension": len(ridge.projection_DF)}, ridge, ridge.texts)

    def _on_words(self, dimension: int, vectors_VE: NDArray[np.float32]) -> FittedRegression:
        ridge, (tokens_NT, features_NF) = self._ridge(dimension, vectors_VE), self._fit_data
        known = slice(0, MAX_CAPTIONS)
        tokens_NT, embeddings_ND = with_classes(
            tokens_NT[known],
            ridge.images(features_NF[known]),
            features_NF[known],
            ridge.projection_DF,
            self._classes,
        )
        pairs = min(ridge.pairs, MAX_CAPTIONS)
        kernel = fit_kernel_regression(tokens_NT, embeddings_ND, vectors_VE, pairs=pairs)
        facts = {"name": "words", "pairs": pairs, "words": int(vectors_VE.any(axis=1).sum()), "alpha": KERNEL_PENALTY}
        return FittedRegression({**facts, "dimension": len(ridge.projection_DF)}, ridge, kernel.embeddings)

    def _ridge(self, dimension: int, vectors_VE: NDArray[np.float32] | None) -> TokenRidge:
        tokens_NT, features_NF = self._fit_data
        found = fit_ridge(
            tokens_NT,
            features_NF,
            _tokenizer().vocab_size,
            min(dimension, features_NF.shape[1]),
            bias=True,
            classes=self._classes,
            vectors=vectors_VE,
        )
        assert found is not None, "this process solves it"
        return found

    @cached_property
    def _fit_data(self) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Tokens and features of the training pairs."""
        pairs = self._pairs
        assert not isinstance(pairs, str), "there is a reference"
        return _tokens(pairs.captions), np.stack(pairs.features)

    @cached_property
    def _classes(self) -> ClassCaptions | None:
        """The names and weights of the teacher's classes."""
        classes = class_captions(self._teacher.classifier)
        return None if classes is None else (_tokens(classes[0]), classes[1])

    @cached_property
    def _teacher(self) -> TeacherNetwork:
        """The teacher of the label stage."""
        from diht_k8s.stages.label.teacher import device, load_teacher
        from diht_k8s.stages.label.teacher_weights import weights_uri

        label = self._context.run.spec.label
        assert label is not None, "a committed label stage is in the run document"
        return load_teacher(label.teacher, self._context.storage, weights_uri(label.teacher), device())

    def _features(self, captioned: EncodedImages) -> NDArray[np.float32]:
        """[M, D] teacher features of the benchmark's images."""
        from diht_k8s.stages.label.features import extract

        context, by_shard, places = self._context, dict[str, set[str]](), list[tuple[str, str]]()
        for item in captioned.items:  # another shard may give the same uids to other images
            by_shard.setdefault(item.uri, set()).add(item.uid)
        context.progress.start("reference: teacher", sum(map(len, by_shard.values())))

        def wanted() -> Iterator[Sample]:
            for uri, left in by_shard.items():
                for sample in until_damage(read_samples(context.storage, uri, check=context.stop.raise_if_requested)):
                    if sample.uid in left:
                        left.remove(sample.uid)
                        places.append((uri, sample.uid))
                        yield replace(sample, problem=None)  # its captions are those of the benchmark

        found = extract(self._teacher, wanted(), "the benchmark", context.progress.update, self._decoder)
        rows = dict(zip(places, found.features_ND.float().numpy(), strict=True))
        return np.stack([rows[item.uri, item.uid] for item in captioned.items])

    @cached_property
    def _pairs(self) -> TrainingPairs | str:
        """The first pairs of the run, or the reason why there are none.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        context, pairs = self._context, TrainingPairs()
        try:
            shards = self._shards()
        except UserError as error:
            return str(error)
        if not shards:
            return "the run names no training pairs"
        context.progress.start("reference: training pairs", min(sum(shard.samples or 0 for shard in shards), MAX_PAIRS))
        bad_shards = BadShards(context.run.spec.data.max_bad_shards, len(shards))
        for shard in shards:
            context.stop.raise_if_requested()
            stored = self._stored(shard)
            samples = read_pairs(context.storage, shard, check=context.stop.raise_if_requested)
            for row, sample in enumerate(bad_shards.salvage(shard.name, samples)):
                if pairs.number == MAX_PAIRS:
                    break
                if sample.problem is not None or (stored is not None and not stored.usable_N[row]):
                    continue
                pairs.number += 1
                pairs.digests.add(hashlib.sha256(sample.image).hexdigest())
                if stored is not None:
                    pairs.captions.append(sample.caption)
                    pairs.features.append(stored.features_ND[row].numpy())
            context.progress.update(pairs.number)
            if pairs.number == MAX_PAIRS:
                break
        return pairs

    def _shards(self) -> list[Shard]:
        """The shards that the model was trained on, in the training's order."""
        context, spec = self._context, self._context.run.spec
        if spec.train is not None and spec.train.shards:
            (own,) = known_sources(context.storage, spec.data.output, [spec.train.shards])
            return training_shards(own)
        return kept_shards(spec, context.storage, context.layout)

    def _stored(self, shard: Shard) -> TeacherFeatures | None:
        """The teacher's features of a shard's pairs; None where nobody needs them or the label stage has kept none."""
        if self._label is None or not self._retrieval:
            return None
        from diht_k8s.stages.label.features import read_teacher_features

        uri = self._context.layout.features(shard.name)
        if not self._context.storage.exists(uri):
            return None
        return read_teacher_features(self._context.storage, uri, self._label.config_sha256)


def _has_words(caption: str) -> bool:
    """Whether a caption has a word of two signs or more."""
    return re.search(r"\b\w\w+\b", caption) is not None


@cache
def _tokenizer() -> SimpleTokenizer:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def _tokens(captions: Sequence[str]) -> NDArray[np.int64]:
    return _tokenizer()(list(captions)).numpy()


def _unit(values_MD: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows of unit length; zeros stay."""
    return values_MD / np.maximum(np.linalg.norm(values_MD, axis=1, keepdims=True), 1e-12)


def _differences(reference: Retrieval, model: PerImage, rng: np.random.Generator) -> Json:
    """R@5 of the model minus that of the reference, on the same images; corrected for the two directions."""
    sides = {
        "text_to_image": ("caption to image, R@5", reference.text_to_image),
        "image_to_text": ("image to caption, R@5", reference.image_to_text),
    }
    row = CUTOFFS.index(5)
    ours_FN, weights_FN = (np.stack([model.figures[name][part] for name, _ in sides.values()]) for part in (0, 1))
    theirs_FN = np.stack([direction.hits_KN[row] for _, direction in sides.values()])
    found = paired_differences(theirs_FN[:, None], ours_FN[:, None], weights_FN, rng)
    adjusted = holm([difference.p for difference in found])
    return {
        key: {"value": each.value, "interval": [each.low, each.high], "verdict": verdict(each.value, p)}
        for key, each, p in zip(sides, found, adjusted, strict=True)
    }
