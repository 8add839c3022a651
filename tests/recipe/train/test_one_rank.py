"""The training of one process beside the same training written down in plain torch: losses, norms, weights, figures."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

from diht_k8s.data.shards.images import decode_pixels
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.shard_index import index_of
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.data.batch import Batch, HeadTargets
from diht_k8s.stages.train.data.collate import ImageSizes
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.loader import Loader
from diht_k8s.stages.train.data.normalisation import normalised
from diht_k8s.stages.train.data.sampler import sampler_over
from diht_k8s.stages.train.model.student import Features, Student
from tests.folders import flat
from tests.recipe.train.small_run import (
    ATTRIBUTES,
    OBJECTS,
    SHARDS,
    VIT,
    Indexed,
    Job,
    Table,
    document,
    lines,
    make_data,
    train_in_ranks,
)

EMBEDDINGS = {"weight": 0.6, "temperature": 0.2}
STEPS, BATCH, WARM_UP, FINITE = 8, 16, 3, 2
LR, MIN_LR, DECAY, HEAD_LR, HEAD_DECAY, WEIGHT, EMA, CLIP = 2e-3, 1e-4, 0.1, 5.0, 0.5, 0.7, 0.7, 0.8
TRAIN: dict[str, Any] = {
    "samples": STEPS * BATCH - 5,
    "loss": {"alpha": 1.0, "beta": 0.0},
    "distillation": {
        "weight": WEIGHT,
        "headLrScale": HEAD_LR,
        "headWeightDecayScale": HEAD_DECAY,
        "embeddings": EMBEDDINGS,
    },
    "optimizer": {"lr": LR, "weightDecay": DECAY, "gradientClipNorm": CLIP, "eps": 1e-6},
    "schedule": {"warmupSamples": WARM_UP * BATCH, "minLr": MIN_LR},
    "ema": EMA,
    "checkpoint": {"everySamples": 3 * BATCH, "keep": 2},
}
KINDS: Table = {
    "zero 0": {},
    "zero 2, micro-batches": {"microBatchSize": 4, "zeroStage": 2},
    "zero 3": {"zeroStage": 3},
}
NOT_FINITE = {"zero 0": {}, "zero 1": {"zeroStage": 1}}
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@dataclass
class Expected:
    """What plain torch finds."""

    losses: list[list[float]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    uids: list[list[str]] = field(default_factory=list)
    held_out: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("one-rank")
    make_data(place / "data")
    return place


def job(
    place: Path,
    name: str,
    *,
    finite_steps: int | None = None,
    **train: Any,
) -> Job:
    held = {"shards": [f"{place}/data/made/filter/kept/drawn-1.tar"], "everySamples": 3 * BATCH}
    run = document(place / name, data=place / "data", **{**TRAIN, "validation": held, **train})
    return Job(run, finite_steps=finite_steps)


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    jobs = {name: job(place, name, **train) for name, train in KINDS.items()}
    for name, train in NOT_FINITE.items():
        jobs[f"{name}, not finite"] = job(place, f"{name}, not finite", finite_steps=FINITE, **train)
    return train_in_ranks(1, jobs, place / "ranks")


@pytest.fixture(scope="module")
def expected(place: Path) -> Expected:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Student(VIT, num_objects=OBJECTS, num_attributes=ATTRIBUTES)
    named = dict(model.named_parameters())
    groups = []
    for heads, decays in itertools.product((False, True), (False, True)):
        chosen = [p for name, p in named.items() if ("head" in name) == heads and (p.ndim > 1) == decays]
        decay = (DECAY * HEAD_DECAY if heads else DECAY) if decays else 0.0
        groups.append({"params": chosen, "weight_decay": decay, "scale": HEAD_LR if heads else 1.0})
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    found = Expected(average={name: parameter.detach().clone() for name, parameter in named.items()})
    for step, batch in enumerate(batches(place)):
        lr = rate(step)
        for group in adamw.param_groups:
            group["lr"] = lr * group["scale"]
        features = model(batch.images_BCHW, batch.tokens_BT, 100.0)
        parts = losses(features, batch, teacher_of(place, batch.uids))
        adamw.zero_grad()
        parts[0].backward()
        found.norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        adamw.step()
        kept = min(EMA, (2 + step) / (11 + step))
        for name, parameter in named.items():
            found.average[name] = kept * found.average[name] + (1 - kept) * parameter.detach()
        found.losses.append([float(part.detach()) for part in parts])
        found.lrs.append(lr)
        found.scales.append(float(features.logit_scale.detach()))
        found.uids.append(batch.uids)
    found.held_out = held_out(model.eval(), place)
    found.weights = {name: parameter.detach() for name, parameter in named.items()}
    return found


def batches(place: Path) -> list[Batch]:
    layout = flat(f"{place}/data/made")
    shards = [Shard(f"drawn-{i}", layout.kept(f"drawn-{i}"), "drawn", samples=n) for i, n in enumerate(SHARDS)]
    indexes = Indexed({shard.name: index_of(Storage(), shard.uri) for shard in shards})
    reads = ShardDataset(Storage(), shards, [layout.labels(shard.name) for shard in shards], indexes=indexes)
    order = sampler_over(SHARDS, BATCH, 0)
    loader = Loader(
        reads,
        order,
        batch_size=BATCH,
        image_sizes=ImageSizes(32),
        context_length=12,
        seed=0,
        rank=0,
        world=1,
        workers=0,
    )
    made = loader.batches(0)
    try:
        return list(itertools.islice(made, STEPS))
    finally:
        made.close()


def rate(step: int) -> float:
    seen, warm_up, samples = step * BATCH, WARM_UP * BATCH, STEPS * BATCH - 5
    if seen < warm_up:
        return LR * (seen + 1) / (warm_up + 1)
    return MIN_LR + (LR - MIN_LR) * 0.5 * (1 + math.cos(math.pi * (seen - warm_up) / (samples - warm_up)))


def contrastive(features: Features) -> Tensor:
    logits_BB = features.logit_scale * features.image_BD @ features.text_BD.T
    own = torch.arange(len(logits_BB))
    return (cross_entropy(logits_BB, own) + cross_entropy(logits_BB.T, own)) / 2


def teacher_of(place: Path, uids: list[str]) -> Tensor:
    """The teacher's embeddings of some pairs, B x 2 x E, of which every seventh has none."""
    layout = flat(f"{place}/data/made")
    stored = [load_file(layout.embeddings(f"drawn-{i}"))["features"] for i in range(len(SHARDS))]
    rows = [stored[shard][index] for shard, index in (map(int, uid.split("-")) for uid in uids)]
    return torch.stack(rows).view(len(rows), 2, -1).float()


def divergence(features: Features, teacher_B2E: Tensor) -> Tensor:
    used_B = teacher_B2E[:, 0].any(dim=1)
    z = features.logit_scale * features.image_BD[used_B] @ features.text_BD[used_B].T
    t = teacher_B2E[used_B, 0] @ teacher_B2E[used_B, 1].T / EMBEDDINGS["temperature"]
    both = [
        kl_div(a.log_softmax(1), b.log_softmax(1), reduction="batchmean", log_target=True)
        for a, b in ((z, t), (z.T, t.T))
    ]
    return (both[0] + both[1]) / 2


def losses(features: Features, batch: Batch, teacher_B2E: Tensor) -> list[Tensor]:
    assert batch.targets is not None
    mask_B = batch.targets.mask_B

    def distilled(logits_BC: Tensor | None, targets: HeadTargets) -> Tensor:
        assert logits_BC is not None
        chosen_BK = logits_BC.log_softmax(1).gather(1, targets.ids_BK.long())
        return -(targets.probabilities_BK * chosen_BK).sum(1)[mask_B].mean()

    objects = distilled(features.object_logits_BC, batch.targets.objects)
    attributes = distilled(features.attribute_logits_BC, batch.targets.attributes)
    plain, embedding = contrastive(features), divergence(features, teacher_B2E)
    total = plain + WEIGHT * (objects + attributes) + EMBEDDINGS["weight"] * embedding
    return [total, plain, objects, attributes, embedding]


@torch.no_grad()
def held_out(model: Student, place: Path) -> float:
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=12)
    samples = list(read_samples(Storage(), f"{place}/data/made/filter/kept/drawn-1.tar"))
    found = []
    for begin in range(0, len(samples) // BATCH * BATCH, BATCH):
        part = samples[begin : begin + BATCH]
        views = [
            resize(decode_pixels(sample.image), [32], interpolation=InterpolationMode.BICUBIC, antialias=True)
            for sample in part
        ]
        pixels_BHWC = torch.stack([center_crop(view, [32]) for view in views]).permute(0, 2, 3, 1)
        features = model(normalised(pixels_BHWC), tokenizer([sample.caption for sample in part]), 100.0)
        found.append(float(contrastive(features)))
    return sum(found) / len(found)


@pytest.mark.parametrize("name", KINDS)
def test_training_when_written_in_plain_torch_then_the_same_losses_norms_and_weights(
    trained: Table, expected: Expected, name: str
) -> None:
    found = trained[name]
    assert found["error"] is None
    assert found["uids"] == expected.uids
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(expected.losses), rtol=0, atol=2e-4)
    assert found["norms"] == pytest.approx(expected.norms, rel=2e-3)
    for key, weight in expected.weights.items():
        torch.testing.assert_close(found["weights"][key], weight, rtol=0, atol=5e-4, msg=lambda t, k=key: f"{k}: {t}")


@pytest.mark.parametrize("name", KINDS)
def test_average_when_written_in_plain_torch_then_the_same_in_the_checkpoint_and_in_the_model(
    trained: Table, expected: Expected, place: Path, name: str
) -> None:
    folder = place / name / "out" / "runs/latest/train"
    state = checkpoint.read(Storage(), f"{folder}/checkpoints/step-{STEPS:09d}").state
    model = load_file(folder / "model" / "open_clip_model.safetensors")
    assert {key.removesuffix("|ema") for key in state if key.endswith("|ema")} == expected.average.keys()
    for key, average in expected.average.items():
        torch.testing.assert_close(state[f"{key}|ema"], average, rtol=0, atol=5e-4, msg=lambda t, k=key: f"{k}: {t}")
        if key.startswith("clip."):
            exported = model[key.removeprefix("clip.")]
            torch.testing.assert_close(exported, state[f"{key}|ema"].reshape(exported.shape), rtol=0, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_metrics_when_trained_then_each_line_tells_its_step(
    trained: Table, expected: Expected, place: Path, name: str
) -> None:
    found = {line["step"]: line for line in lines(place, name)}
    assert {1, 3, 6, STEPS} <= found.keys()
    for step, line in found.items():
        assert line["samples"] == step * BATCH
        assert line["lr"] == pytest.approx(expected.lrs[step - 1], rel=1e-5)
        assert line["logit_scale"] == pytest.approx(expected.scales[step - 1], rel=1e-4)
        assert line["gradient_norm"] == pytest.approx(expected.norms[step - 1], rel=2e-3)
        parts = [line[f"{part}loss"] for part in ("", "contrastive_", "object_", "attribute_", "embedding_")]
        assert parts == pytest.approx(expected.losses[step - 1], abs=2e-4)
    assert [step for step, line in found.items() if "validation_loss" in line] == [3, 6, STEPS]
    assert found[STEPS]["validation_loss"] == pytest.approx(expected.held_out, abs=1e-3)


def test_checkpoints_when_due_by_samples_then_in_that_interval_and_only_the_newest_stay(
    trained: Table, place: Path
) -> None:
    for name in KINDS:
        folder = place / name / "out" / "runs/latest/train"
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
            "step-000000006",
            f"step-{STEPS:09d}",
        ]
        summary = json.loads((folder / "result.json").read_text())["summary"]
        told = {key: summary[key] for key in ("samples", "steps", "shards", "pairs", "processes", "bad")}
        assert told == {
            "samples": STEPS * BATCH,
            "steps": STEPS,
            "shards": len(SHARDS),
            "pairs": sum(SHARDS),
            "processes": 1,
            "bad": {},
        }


@pytest.mark.parametrize("name", NOT_FINITE)
def test_training_when_gradients_stay_not_finite_then_three_steps_are_skipped_and_the_last_pairs_are_named(
    trained: Table, expected: Expected, place: Path, name: str
) -> None:
    found = trained[f"{name}, not finite"]
    assert found["error"].startswith("65 the loss or its gradient was not finite in 3 steps in a row")
    assert len(found["losses"]) == FINITE + 3
    named = json.loads(
        (place / f"{name}, not finite" / "out" / "runs/latest/train" / "not_finite-00000.json").read_text()
    )
    assert named == {"step": FINITE + 3, "uids": expected.uids[FINITE + 2]}
    assert float(found["weights"]["adam_step"]) == FINITE
