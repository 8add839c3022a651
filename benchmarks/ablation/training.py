"""One training of one arm by the recipe's model, losses and schedule.

Shapes: B pairs of a batch, N development images, D features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.ablation.arms import BATCH, Arm
from benchmarks.ablation.batches import Course, Tokens, make_course, test_images
from benchmarks.ablation.pools import Gallery, Material
from benchmarks.ablation.probes import ACCURACY, probe
from diht_k8s.api.train import Optimizer, Schedule
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.evaluate.classification import classification
from diht_k8s.stages.evaluate.prompts import ensemble_prompts, prompts
from diht_k8s.stages.evaluate.retrieval import Retrieval, retrieval
from diht_k8s.stages.train.data.rng import generator
from diht_k8s.stages.train.loss.losses import hn_nce_loss, soft_label_loss
from diht_k8s.stages.train.model.attention import attention_in_fp32
from diht_k8s.stages.train.model.student import Features, Student
from diht_k8s.stages.train.optimizer import learning_rate, parameter_groups

CUTOFFS: Final = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all arms share."""

    samples: int = 7_168
    batch_size: int = BATCH
    image_size: int = 32
    width: int = 16
    """of the ModifiedResNet, one block a stage."""
    text_layers: int = 1
    text_width: int = 64
    context_length: int = 16
    lr: float = 1.5e-3
    weight_decay: float = 0.5
    concept_weight: float = 2.0
    """of both heads' cross-entropies, as in the demo."""
    head_lr_scale: float = 10.0
    head_weight_decay_scale: float = 0.01


class Bench:
    """Trains arms on the same material; what arms of one seed share is kept."""

    def __init__(self, material: Material, sizes: Sizes, class_names: Sequence[str], templates: Sequence[str]) -> None:
        self.material, self.sizes = material, sizes
        """Make a bench.

        Args:
            material: pools and galleries.
            sizes: of model and training.
            class_names: of the main gallery's zero-shot classes; none: it has no classes.
            templates: prompts of the classes.
        """
        self._prompts, self._classes = prompts(class_names, templates) if class_names else [], len(class_names)
        galleries = material.galleries.values()
        captions = [
            caption
            for pairs in (material.raw, material.junk, *(each.pairs for each in galleries))
            for caption in pairs.captions
        ]
        self.tokens = Tokens([*captions, *self._prompts], sizes.context_length)
        self._images = [test_images(each.pairs.images, sizes.image_size) for each in galleries]
        self._prompt_tokens = self.tokens(self._prompts) if self._prompts else None
        self._probed = {
            name: test_images(pairs.images, sizes.image_size) for name, (pairs, _) in material.probes.items()
        }
        self._course_of: tuple[tuple[str, int], Course] | None = None

    def run(self, arm: Arm, seed: int) -> tuple[dict[str, Any], dict[str, PerImage]]:
        """Train and measure: figures in percent, and by gallery each image's part in those that the table compares."""
        course = self._course(arm, seed)
        began = time.process_time()
        model = self._model(arm, seed)
        loss = self._train(arm, model, course, seed)
        spent = {"loss": round(loss, 4), "cpu_s": round(time.process_time() - began, 1)}
        figures, per_image = self._figures(model)
        return {**spent, **figures}, per_image

    def _course(self, arm: Arm, seed: int) -> Course:
        """The images in order; only the newest are kept in memory, since 6,000 steps are 1.2 GB."""
        key = (arm.pool, seed)
        if self._course_of is None or self._course_of[0] != key:
            self._course_of = None
            pairs = self.material.pool(arm.pool, generator(seed, "subset", arm.pool))
            sizes = self.sizes
            course = make_course(pairs, self.tokens, samples=sizes.samples, image_size=sizes.image_size, seed=seed)
            self._course_of = key, course
        return self._course_of[1]

    def _model(self, arm: Arm, seed: int) -> Student:
        """Towers that are equal in all arms of a seed; heads are drawn after them."""
        sizes = self.sizes
        config = {
            "embed_dim": 128,
            "vision_cfg": {"image_size": sizes.image_size, "layers": [1, 1, 1, 1], "width": sizes.width},
            "text_cfg": {
                "context_length": sizes.context_length,
                "vocab_size": self.tokens.size,
                "width": sizes.text_width,
                "heads": sizes.text_width // 32,
                "layers": sizes.text_layers,
            },
        }
        objects, attributes = (0, 0) if arm.labels is None else self._labels(arm).classes
        torch.manual_seed(seed)
        return Student(config, num_objects=objects, num_attributes=attributes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs

    def _labels(self, arm: Arm) -> Any:
        return self.material.labels["teacher" if arm.labels in (None, "shuffled") else arm.labels]

    def _train(self, arm: Arm, model: Student, course: Course, seed: int) -> float:
        sizes = self.sizes
        schedule = Schedule(type="Cosine", warmup_samples=sizes.samples // 8, min_lr=0)
        settings = Optimizer(lr=sizes.lr, weight_decay=sizes.weight_decay)
        groups: list[dict[str, Any]] = parameter_groups(
            model,
            weight_decay=sizes.weight_decay,
            head_lr_scale=sizes.head_lr_scale,
            head_weight_decay_scale=sizes.head_weight_decay_scale,
        )
        optimizer = torch.optim.AdamW(groups, lr=sizes.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
        order = generator(seed, "shuffled labels").permutation(len(self.material.kept))
        model.train()
        value = float("nan")
        for start in range(0, sizes.samples - sizes.batch_size + 1, sizes.batch_size):
            rate = learning_rate(settings, schedule, seen=start, samples=sizes.samples)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            rows_B, images_B3HW, tokens_BT, ids_B = course.batch(start, sizes.batch_size)
            with attention_in_fp32(), torch.autocast("cpu", torch.bfloat16):
                features: Features = model(images_B3HW, tokens_BT, 100.0)
            contrastive = hn_nce_loss(
                features.image_BD, features.text_BD, features.logit_scale, beta=arm.beta, caption_ids_B=ids_B
            )
            loss = contrastive + self._distilled(arm, features, rows_B, order)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            value = float(loss.detach())
        return value

    def _distilled(self, arm: Arm, features: Features, rows_B: np.ndarray, order: np.ndarray) -> Tensor:
        if arm.labels is None:
            return features.image_BD.new_zeros(())
        rows = order[rows_B] if arm.labels == "shuffled" else rows_B
        labels, everyone = self._labels(arm), torch.ones(len(rows), dtype=torch.bool)
        losses = [
            soft_label_loss(
                logits_BC, torch.from_numpy(head.ids_NK[rows]), torch.from_numpy(head.probabilities_NK[rows]), everyone
            )
            for logits_BC, head in (
                (features.object_logits_BC, labels.objects),
                (features.attribute_logits_BC, labels.attributes),
            )
            if logits_BC is not None
        ]
        return self.sizes.concept_weight * torch.stack(losses).sum()

    def _figures(self, model: Student) -> tuple[dict[str, float], dict[str, PerImage]]:
        """Figures of all galleries, those of the main one without its name, and each image's part in them."""
        model.eval()
        figures: dict[str, float] = {}
        kept: dict[str, PerImage] = {}
        for number, (name, gallery) in enumerate(self.material.galleries.items()):
            found, kept[name] = self._measured(model, gallery, self._images[number], zero_shot=number == 0)
            figures |= {key if number == 0 else f"{name} {key}": value for key, value in found.items()}
        for name, images in self._probes(model).items():
            kept[name] = images
            hits_N, weights_N = images.figures[ACCURACY]
            figures[name] = round(float(100 * hits_N.sum() / weights_N.sum()), 3)
        return figures, kept

    @torch.inference_mode()
    def _probes(self, model: Student) -> dict[str, PerImage]:
        """Each image's hits in the probes of the image tower, which see no caption."""
        found: dict[str, PerImage] = {}
        for name, (pairs, classes_N) in self.material.probes.items():
            images: Any = self._probed[name]
            image_ND = functional.normalize(model.clip.encode_image(images).float(), dim=1).numpy()
            blanks = [""] * len(pairs)
            for kind, hits in probe(image_ND, classes_N).items():
                found[f"{name} {kind}"] = PerImage(pairs.uids, blanks, pairs.captions, {ACCURACY: hits})
        return found

    @torch.inference_mode()
    def _measured(
        self, model: Student, gallery: Gallery, images_N3HW: Tensor, *, zero_shot: bool
    ) -> tuple[dict[str, float], PerImage]:
        """R@k, MRR and the mean logarithm of the ranks (finer than R@k), both directions together; balanced zero-shot
        accuracy.
        """
        image_ND = functional.normalize(model.clip.encode_image(images_N3HW).float(), dim=1).numpy()
        text_ND = functional.normalize(model.encode_text(self.tokens(gallery.pairs.captions)), dim=1).numpy()
        found = retrieval(image_ND, text_ND, np.arange(len(text_ND)), np.random.default_rng(0))
        ranks = np.concatenate([found.image_to_text.ranks_Q, found.text_to_image.ranks_Q])
        figures = {
            **_recalls(found),
            "mrr": round(float(100 * (1 / ranks).mean()), 3),
            "log_rank": round(float(np.log(ranks).mean()), 4),
        }
        kept = _retrieved(found)
        if zero_shot and self._prompt_tokens is not None:
            prompt_PD = functional.normalize(model.encode_text(self._prompt_tokens), dim=1).numpy()
            classes_N = gallery.classes_N
            scores_NC = image_ND[classes_N >= 0] @ ensemble_prompts(prompt_PD, self._classes).T
            accuracy = classification(scores_NC, classes_N[classes_N >= 0], np.random.default_rng(0))
            figures["zero_shot"] = round(100 * accuracy.balanced, 3)
            kept["zero_shot"] = _classified(accuracy.hits_2N[0].astype(np.float64), classes_N, self._classes)
        pairs = gallery.pairs
        return figures, PerImage(pairs.uids, [""] * len(pairs), pairs.captions, kept)


def _recalls(found: Retrieval) -> dict[str, float]:
    """R@k in percent, the mean of both directions."""
    return {f"r{k}": round(50 * (found.image_to_text.recall[k] + found.text_to_image.recall[k]), 3) for k in CUTOFFS}


def _retrieved(found: Retrieval) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """[N] hits and weights of R@1, R@5 and MRR, both directions together; every image has one caption."""
    both = (found.image_to_text, found.text_to_image)
    weights_N = np.full(len(both[0].ranks_Q), 2.0)
    parts = {f"r{k}": [each.hits_KN[CUTOFFS.index(k)] for each in both] for k in (1, 5)}
    parts["mrr"] = [1 / each.ranks_Q for each in both]
    return {name: (first_N + second_N, weights_N) for name, (first_N, second_N) in parts.items()}


def _classified(right_L: np.ndarray, classes_N: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] hits and weights of the balanced accuracy: every class counts the same, images without one nothing."""
    labelled = classes_N >= 0
    counts_C = np.bincount(classes_N[labelled], minlength=classes)
    weights_N = np.zeros(len(classes_N))
    weights_N[labelled] = 1 / counts_C[classes_N[labelled]]
    hits_N = np.zeros(len(classes_N))
    hits_N[labelled] = right_L * weights_N[labelled]
    return hits_N, weights_N
