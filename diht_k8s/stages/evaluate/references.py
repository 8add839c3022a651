"""The ridge references of a retrieval benchmark: closed-form models, fitted on the run's training pairs.

One regresses from 12 x 12 raw pixels to words. If the label stage kept its teacher's features, two regress to these: from
words, and from CLIP's tokens to them whitened. The training images are also compared with the benchmark's by digest.

Shapes: N training pairs, M test images, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.images import DECODERS, Decoder, images_of
from diht_k8s.data.shards.samples import Sample, read_samples, until_damage
from diht_k8s.report.paired_bootstrap import holm, paired_differences, verdict
from diht_k8s.report.per_image import PerImage
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.retrieval import CUTOFFS, direction_json, gallery, image_of_text
from diht_k8s.stages.evaluate.ridge import MIN_PAIRS, ImageRidge, RidgeReference, has_words, raw_pixels, ridge_to_words
from diht_k8s.stages.evaluate.text_ridge import TextRidge, ridge_from_tokens, ridge_from_words
from diht_k8s.stages.evaluate.training_pairs import TrainingPairs, read_training_pairs
from diht_k8s.stages.label.teacher_classes import class_captions

if TYPE_CHECKING:
    from diht_k8s.stages.label.teacher import TeacherNetwork

MAX_GALLERY: Final = 10_000
"""Benchmarks of more images get no reference."""

Json = dict[str, Any]


class References:
    """The references of a run: the training pairs are read for the first benchmark and kept for the others."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ridges: dict[str, ImageRidge | TextRidge] = {}
        evaluate = context.run.spec.evaluate
        assert evaluate is not None, "run_stage checks that the stage is there"
        self._retrieval = any(benchmark.type == "Retrieval" for benchmark in evaluate.chosen)
        self._label = find_committed(context.storage, context.layout, Stage.LABEL) if context.run.spec.label else None

    @cached_property
    def _pairs(self) -> TrainingPairs | str:
        """The pairs, or the reason why there are none."""
        return read_training_pairs(self._context, self._label, decoded=self._retrieval)

    @cached_property
    def _teacher(self) -> TeacherNetwork:
        """The teacher of the label stage."""
        from diht_k8s.stages.label.teacher import device, load_teacher
        from diht_k8s.stages.label.teacher_weights import weights_uri

        label = self._context.run.spec.label
        assert label is not None, "a committed label stage is in the run document"
        return load_teacher(label.teacher, self._context.storage, weights_uri(label.teacher), device())

    def compare(self, images: EncodedImages, seed: list[int], model: PerImage) -> Json:
        """References of a retrieval benchmark, each with its difference to the model, and a note for each missing one."""
        captioned = gallery(images)
        if len(captioned.items) > MAX_GALLERY:
            many = f"no references: more than {MAX_GALLERY:,} images"
            return {"references": [], "notes": [many], "seen": self.seen(captioned.items)}
        pairs = self._pairs
        if isinstance(pairs, str):
            return {"references": [], "notes": [f"no references: {pairs}"], "seen": None}
        if pairs.number < MIN_PAIRS:
            few = f"no references: only {pairs.number} training pairs, {MIN_PAIRS} needed"
            return {"references": [], "notes": [few], "seen": self.seen(captioned.items)}
        if not any(map(has_words, pairs.captions)):
            wordless = "no references: no training caption has a word"
            return {"references": [], "notes": [wordless], "seen": self.seen(captioned.items)}
        notes: list[str] = []
        tests: dict[str, NDArray[np.floating]] = {"pixels": _raw_pixels(self._context, captioned)}
        if self._label is None:
            notes.append("no reference from the teacher's features: the run has no committed label stage")
        elif len(pairs.teacher) != len(pairs.captions):
            notes.append("no reference from the teacher's features: they no longer lie beside the labels")
        else:
            tests |= dict.fromkeys(("words", "tokens"), _teacher_features(self._context, self._teacher, captioned))
        found = [
            _reference(name, self._fitted(name, pairs), test_MD, captioned, seed, model)
            for name, test_MD in tests.items()
        ]
        return {"references": found, "notes": notes, "seen": self.seen(captioned.items)}

    def _fitted(self, name: str, pairs: TrainingPairs) -> ImageRidge | TextRidge:
        """A reference, fitted for the first benchmark and kept for the others."""
        if name not in self._ridges:
            self._ridges[name] = self._fit(name, pairs)
        return self._ridges[name]

    def _fit(self, name: str, pairs: TrainingPairs) -> ImageRidge | TextRidge:
        if name == "pixels":
            return ridge_to_words(
                np.stack(pairs.pixels), pairs.captions, np.random.default_rng(self._context.run.spec.seed)
            )
        if name == "words":
            return ridge_from_words(np.stack(pairs.teacher), pairs.captions)
        return ridge_from_tokens(np.stack(pairs.teacher), pairs.captions, class_captions(self._teacher.classifier))

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


def _decoder(context: Context) -> Decoder:
    """The one that the model's images came through: another one may refuse them."""
    evaluate = context.run.spec.evaluate
    assert evaluate is not None, "run_stage checks that the stage is there"
    return DECODERS[evaluate.decode]


def _raw_pixels(context: Context, captioned: EncodedImages) -> NDArray[np.float32]:
    """[M, D] raw pixels of the benchmark's images."""
    pixels = {
        (uri, uid): raw_pixels(image)
        for uri, wanted in _uids_of_shards(captioned).items()
        for uid, image in images_of(until_damage(read_samples(context.storage, uri)), wanted, _decoder(context))
    }
    return np.stack([pixels[item.uri, item.uid] for item in captioned.items])


def _teacher_features(context: Context, teacher: TeacherNetwork, captioned: EncodedImages) -> NDArray[np.float32]:
    """[M, D] features of the benchmark's images by the teacher of the label stage."""
    from diht_k8s.stages.label.features import extract

    by_shard, places = _uids_of_shards(captioned), list[tuple[str, str]]()
    context.progress.start("reference: teacher", sum(map(len, by_shard.values())))

    def wanted() -> Iterator[Sample]:
        for uri, left in by_shard.items():
            for sample in until_damage(read_samples(context.storage, uri, check=context.stop.raise_if_requested)):
                if sample.uid in left:
                    left.remove(sample.uid)
                    places.append((uri, sample.uid))
                    yield replace(sample, problem=None)  # its captions are those of the benchmark

    found = extract(teacher, wanted(), "the benchmark", context.progress.update, _decoder(context))
    features_MD = found.features_ND.float().numpy()
    rows = dict(zip(places, features_MD, strict=True))
    return np.stack([rows[item.uri, item.uid] for item in captioned.items])


def _uids_of_shards(captioned: EncodedImages) -> dict[str, set[str]]:
    """Shard -> the uids of its images, which another shard may give to other ones."""
    found: dict[str, set[str]] = {}
    for item in captioned.items:
        found.setdefault(item.uri, set()).add(item.uid)
    return found


def _reference(
    name: str,
    ridge: ImageRidge | TextRidge,
    test_MD: NDArray[np.floating],
    captioned: EncodedImages,
    seed: list[int],
    model: PerImage,
) -> Json:
    """A reference's figures, and its difference to the model."""
    captions = [caption for item in captioned.items for caption in item.captions]
    rng = np.random.default_rng(seed)
    fitted = ridge.reference(test_MD, captions, image_of_text(captioned), rng)
    return {
        "name": name,
        "pairs": fitted.pairs,
        "words": fitted.words,
        "alpha": fitted.alpha,
        "text_to_image": direction_json(fitted.retrieval.text_to_image),
        "image_to_text": direction_json(fitted.retrieval.image_to_text),
        "difference": _differences(fitted, model, rng),
    }


def _differences(reference: RidgeReference, model: PerImage, rng: np.random.Generator) -> Json:
    """R@5 of the model minus that of the reference, on the same images; corrected for the two directions."""
    sides = {
        "text_to_image": ("caption to image, R@5", reference.retrieval.text_to_image),
        "image_to_text": ("image to caption, R@5", reference.retrieval.image_to_text),
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
