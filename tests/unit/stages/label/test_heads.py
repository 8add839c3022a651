"""The heads' loss, folds and training."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from diht_k8s.api.label import Heads
from diht_k8s.data.feature_files import hash64
from diht_k8s.stages.label import heads
from diht_k8s.stages.label.heads import (
    Head,
    Kind,
    TrainingImages,
    fit_head,
    folds_of,
    image_loss,
    soft_target_loss,
)
from diht_k8s.stages.label.targets import Targets, encode
from diht_k8s.stages.label.vocabulary import Concepts

CPU = torch.device("cpu")


def problem(count: int = 200, folds: int = 4) -> tuple[TrainingImages, Targets]:
    """Images whose features say the concept, among other numbers of very different size."""
    generator = torch.Generator().manual_seed(0)
    concept_N = torch.randint(0, 3, (count,), generator=generator)
    features_ND = torch.randn(count, 8, generator=generator) * torch.tensor([1, 1, 1, 9, 0.01, 1, 1, 0])
    features_ND[torch.arange(count), concept_N] += 3
    fold_N = folds_of(torch.tensor([hash64(str(number)) for number in range(count)]), folds, 0)
    concepts = Concepts(("a", "b", "c"), (1, 1, 1))
    targets = encode([["abc"[number]] for number in concept_N.tolist()], concepts)
    return TrainingImages(features_ND.half(), fold_N, folds), targets


def train(images: TrainingImages, targets: Targets, seed: int = 0, epochs: int = 12, **changed: Any) -> Head:
    config = Heads(epochs=epochs, batch_size=32, **{"lr": 0.05, **changed})
    return fit_head(images, targets, config, seed, CPU, lambda epoch, figures, state: None)


def test_soft_target_loss_when_compared_then_equals_the_definition_in_float64() -> None:
    rng = np.random.default_rng(1)
    logits, folds = rng.normal(size=(6, 4, 5)) * 20, [0, 1, 2, 0, 0, 2]
    present = [[0], [1, 3], [0, 1, 2], [4], [2, 3], [0, 4]]
    target = np.array([[1 / len(row) if c in row else 0 for c in range(5)] for row in present])

    def loss(row: int, head: int) -> float:
        top = max(logits[row, head])
        log_sum = top + math.log(math.fsum(math.exp(value - top) for value in logits[row, head]))
        return math.fsum((log_sum - logits[row, head, c]) / len(present[row]) for c in present[row])

    seen_M = soft_target_loss(torch.tensor(logits), torch.tensor(target), torch.tensor(folds))
    for head in range(4):
        rows = [row for row in range(6) if folds[row] != head]
        assert float(seen_M[head]) == pytest.approx(math.fsum(loss(row, head) for row in rows) / len(rows), rel=1e-12)


def test_image_loss_when_sigmoids_are_compared_then_equals_the_definition_in_float64() -> None:
    logits = np.random.default_rng(2).normal(size=(5, 4)) * 8
    present = [[0], [1, 3], [], [0, 1, 2, 3], [2]]
    target = np.array([[1 / len(row) if c in row else 0 for c in range(4)] for row in present])
    found = image_loss(torch.tensor(logits), torch.tensor(target), "Sigmoid")
    for row, names in enumerate(present):
        signs = [-1 if c in names else 1 for c in range(4)]
        expected = math.fsum(math.log1p(math.exp(sign * value)) for sign, value in zip(signs, logits[row], strict=True))
        assert float(found[row]) == pytest.approx(expected, rel=1e-12)


def test_sigmoids_when_images_show_no_concept_then_nothing_is_likely_and_the_others_are_recognised() -> None:
    images, targets = problem(count=400)
    shown = np.arange(400) < 300  # the rest looks like nothing that a caption names
    images.features_ND[300:, :3] = torch.randn(100, 3, generator=torch.Generator().manual_seed(1)).half()
    names = [["abc"[number]] if has else [] for number, has in zip(targets.class_ids.tolist(), shown, strict=True)]
    head = train(images, encode(names, Concepts(("a", "b", "c"), (1, 1, 1))), kind="Sigmoid", epochs=30)
    probabilities = head.probabilities(images.features_ND, images.fold_N).numpy()
    own = probabilities[np.flatnonzero(shown), targets.class_ids[shown]]
    assert (own > 0.5).mean() > 0.8
    assert (probabilities[~shown].max(axis=1) < 0.5).mean() > 0.7


@pytest.mark.parametrize("kind", ["Softmax", "Sigmoid"])
def test_training_when_calibrated_then_the_temperature_is_in_the_weights_and_lowers_the_held_out_loss(
    kind: Kind,
) -> None:
    images, targets = problem(count=120)
    target_NC = targets.soft(np.arange(120))
    settings = {"kind": kind, "lr": 1.0, "epochs": 1}  # one step far too long: the head is sure of itself
    plain, calibrated = (train(images, targets, calibrate=calibrate, **settings) for calibrate in (False, True))
    assert plain.temperature == 1.0
    assert calibrated.temperature != 1.0
    torch.testing.assert_close(calibrated.weight_MCD * calibrated.temperature, plain.weight_MCD)

    def loss(head: Head) -> float:
        logits = torch.stack(
            [
                head.weight_MCD[f] @ x + head.bias_MC[f]
                for f, x in zip(images.fold_N, images.features_ND.float(), strict=True)
            ]
        )
        return float(image_loss(logits, target_NC, kind).mean())

    assert loss(calibrated) < loss(plain)


def test_fold_head_when_labels_of_its_own_fold_change_then_its_weights_do_not() -> None:
    images, _ = problem(count=120)
    concepts = Concepts(("a", "b", "c"), (1, 1, 1))
    names = [["abc"[number % 3]] for number in range(120)]  # equally frequent: all repeat factors are 1
    fold = int(images.fold_N[0])
    other = next(n for n in range(1, 120) if int(images.fold_N[n]) == fold and names[n] != names[0])
    changed = list(names)
    changed[0], changed[other] = names[other], names[0]
    one, two = (train(images, encode(rows, concepts), epochs=1) for rows in (names, changed))
    assert torch.equal(one.weight_MCD[fold], two.weight_MCD[fold])
    for head in {0, 1, 2, 3, 4} - {fold}:
        assert not torch.equal(one.weight_MCD[head], two.weight_MCD[head])


def test_head_when_applied_to_raw_features_then_gives_the_held_out_loss_of_its_best_epoch() -> None:
    images, targets = problem()
    head = train(images, targets)
    probabilities = head.probabilities(images.features_ND, images.fold_N).double()
    own = probabilities[torch.arange(len(probabilities)), torch.from_numpy(targets.class_ids)]
    assert float(-own.log().mean()) == pytest.approx(head.history[head.best_epoch - 1]["held_out_loss"], rel=1e-4)


def test_training_when_the_held_out_loss_rises_then_stops_and_keeps_the_best_epoch() -> None:
    images, targets = problem(count=40)
    rng = np.random.default_rng(0)
    noise = Targets(rng.integers(0, 3, 40), targets.offsets, 3)
    head = train(images, noise, epochs=60)
    losses = [epoch["held_out_loss"] for epoch in head.history]
    assert len(losses) < 60
    assert head.best_epoch == losses.index(min(losses)) + 1


def test_training_when_there_are_no_folds_then_one_head_serves_all_and_a_slice_says_when_to_stop() -> None:
    images, targets = problem(count=400, folds=1)
    assert 5 < int((images.fold_N == 0).sum()) < 40
    head = train(images, targets, epochs=60)
    assert len(head.weight_MCD) == 1
    probabilities = head.probabilities(images.features_ND, images.fold_N)
    torch.testing.assert_close(probabilities, head.all_data_probabilities(images.features_ND))
    losses = [epoch["held_out_loss"] for epoch in head.history]
    assert len(losses) < 60
    rows = (images.fold_N == 0).numpy()
    own = probabilities[rows].double()[torch.arange(int(rows.sum())), torch.from_numpy(targets.class_ids[rows])]
    assert float(-own.log().mean()) == pytest.approx(min(losses), rel=1e-4)


def test_training_when_no_image_is_held_out_then_the_training_loss_decides() -> None:
    images, targets = problem(count=40, folds=1)
    alone = TrainingImages(images.features_ND, torch.ones(40, dtype=torch.long), 1)
    head = train(alone, targets, epochs=5)
    assert [epoch["held_out_loss"] for epoch in head.history] == [epoch["loss"] for epoch in head.history]


@pytest.mark.parametrize("epochs", [1, 4])
def test_training_when_taken_up_from_its_state_then_equal_to_the_bit(epochs: int) -> None:
    images, targets = problem()
    whole, states = train(images, targets), list[bytes]()

    def stop(epoch: int, figures: dict[str, float], state: Any) -> None:
        if epoch == epochs:
            buffer = io.BytesIO()
            torch.save(state(), buffer)
            states.append(buffer.getvalue())
            raise KeyboardInterrupt

    config = Heads(epochs=12, lr=0.05, batch_size=32)
    with pytest.raises(KeyboardInterrupt):
        fit_head(images, targets, config, 0, CPU, stop)
    state = torch.load(io.BytesIO(states[0]), weights_only=True)
    seen: list[int] = []
    head = fit_head(images, targets, config, 0, CPU, lambda epoch, figures, state: seen.append(epoch), state)
    assert seen[0] == epochs + 1
    assert torch.equal(head.weight_MCD, whole.weight_MCD)
    assert (head.history, head.best_epoch) == (whole.history, whole.best_epoch)


def test_fit_when_taken_up_on_another_device_then_its_best_weights_are_there() -> None:
    images, targets = problem(count=40)
    config, there = Heads(epochs=3, batch_size=32), torch.device("meta")
    saved, fit = heads._Fit(images, targets, config, 0, CPU), heads._Fit(images, targets, config, 0, there)
    saved.epoch()
    fit.restore(saved.state())
    assert [tensor.device for tensor in (fit.weight_MCD, fit.bias_MC, *fit.best)] == [there] * 4


def test_probabilities_when_folds_differ_then_each_image_gets_its_own_head() -> None:
    weight_MCD, bias_MC = torch.randn(3, 4, 5), torch.randn(3, 4)
    features_BD, fold_B = torch.randn(6, 5), torch.tensor([1, 0, 1, 1, 0, 0])
    probabilities = Head(weight_MCD, bias_MC).probabilities(features_BD, fold_B)
    for row, fold in enumerate(fold_B.tolist()):
        expected = (weight_MCD[fold].double() @ features_BD[row].double() + bias_MC[fold].double()).softmax(dim=0)
        torch.testing.assert_close(probabilities[row].double(), expected, atol=1e-6, rtol=0)


def test_folds_when_groups_are_equal_then_folds_are_and_all_folds_are_used() -> None:
    hashes = torch.tensor([hash64(f"group:{number}") for number in range(1000)])
    fold_N = folds_of(hashes, 5, 0)
    assert torch.equal(fold_N, folds_of(hashes.clone(), 5, 0))
    counts = torch.bincount(fold_N, minlength=5)
    assert counts.min() > 150
    assert not torch.equal(fold_N, folds_of(hashes, 5, 1))
