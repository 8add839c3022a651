"""Memory of a rank by part, from a trace and the settings. Pure.

The trace gives what activations and gradients hold over a micro-batch. The rest is arithmetic over what DeepSpeed and
the engine allocate: partitions of weights and optimiser state, buckets, the batch, the loss's tiles. The formulas
follow DeepSpeed 0.19 and are compared with measured peaks by `benchmarks/run estimate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diht_k8s.stages.train.deepspeed_engine import bucket_elements
from diht_k8s.stages.train.loss.hn_nce import CHUNK_SIZE
from diht_k8s.stages.train.precision import DTYPES

FP32: Final = 4
"""bytes."""
LIVE_ELEMENTS: Final = 1_000_000_000
"""Gathered elements that ZeRO 3 keeps at most (`stage3_max_live_parameters`): most models stay gathered."""
PREFETCHED_ELEMENTS: Final = 50_000_000
"""`stage3_prefetch_bucket_size`."""
GIB: Final = 2**30


@dataclass(frozen=True)
class Sizes:
    """Numbers that the arithmetic needs of a model."""

    parameters: int
    """of the student, without a locked image tower."""
    trained_sizes: tuple[int, ...]
    """elements of each parameter with a gradient, in the model's order."""
    groups: tuple[tuple[int, ...], ...]
    """the same by group of the optimiser."""
    buffer_bytes: int
    image_side: int
    context_length: int
    embed_dim: int
    classes: int
    """of both heads together."""
    locked: int = 0
    """elements of a locked image tower, which every rank holds whole on its device."""
    feature_width: int = 0
    """numbers of an image's stored features, which come in place of pixels; 0 without them."""

    @property
    def trained(self) -> int:
        """Elements of all parameters with a gradient."""
        return sum(self.trained_sizes)

    @property
    def largest(self) -> int:
        """Elements of the largest trained parameter."""
        return max(self.trained_sizes, default=0)


@dataclass(frozen=True)
class Moment:
    """Bytes that a rank holds at one moment, besides weights, optimiser state and batch."""

    activations: int
    """activations and temporary tensors."""
    gradients: int
    """all that are finished."""


@dataclass(frozen=True)
class Trace:
    """Bytes of a micro-batch on its way through the model."""

    micro_batch: int
    forward: int
    """bytes at the end of the forward pass."""
    backward: tuple[Moment, ...]
    """of the backward pass: the largest activations since each finished gradient, which grow in number."""
    locked_forward: int = 0
    """most bytes of the forward pass where a locked image tower, which keeps none of its activations, is in it."""


@dataclass(frozen=True)
class Placement:
    """The division of a training over ranks and micro-batches."""

    world: int
    """ranks."""
    local: int
    """rows of a rank."""
    micro: int
    """rows of a rank that pass through the model at once, at most."""
    zero_stage: int
    precision: str
    offload: str
    ema: bool
    reduction: str = "fp32"
    """dtype in which gradients are summed over the ranks."""
    batches: int = 2
    """batches on the device at a time: a GPU fetches one while another trains."""

    @property
    def in_parts(self) -> bool:
        """Whether a batch runs by gradient caching."""
        return self.micro < self.local

    @property
    def shards(self) -> int:
        """Ranks among which optimiser state is divided."""
        return self.world if self.zero_stage else 1


@dataclass(frozen=True)
class RankMemory:
    """Bytes of a rank at its peak, and in host memory."""

    device: Mapping[str, int]
    """by part; the sum is the peak of the tensors."""
    offloaded: int
    """bytes in host memory by `train.offload`."""
    phase: str
    """when the peak is reached."""

    @property
    def total(self) -> int:
        """The peak of tensors on the device."""
        return sum(self.device.values())


def rank_memory(sizes: Sizes, trace: Trace, placement: Placement) -> RankMemory:
    """The largest phase of a step.

    Args:
        sizes: of the model.
        trace: of a micro-batch of `placement.micro` pairs.
        placement: how the training is divided.
    """
    held, offloaded = _held(sizes, placement)
    phases = {
        "locked image tower": {"activations": trace.locked_forward},
        "loss": _loss_phase(sizes, trace, placement),
        "backward": _backward_phase(sizes, trace, placement),
        "optimiser step": _step_phase(sizes, placement),
    }
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    return RankMemory({name: size for name, size in {**held, **phases[phase]}.items() if size}, offloaded, phase)


def loss_bytes(local: int, world: int, width: int) -> int:
    """Bytes of the contrastive loss at most, in its backward pass: three tiles, gradients, vectors, gathered texts.

    The fused kernels hold about as much: no tiles, but all features once more, as 16-bit halves.
    """
    pairs = local * world
    tiles = 3 * min(CHUNK_SIZE, local) * pairs
    gathered = pairs * width if world > 1 else 0
    return FP32 * (tiles + (pairs + local) * width + gathered + 24 * pairs)


def _held(sizes: Sizes, placement: Placement) -> tuple[dict[str, int], int]:
    """Bytes that stay on the device over the whole step, by part, and those on the host."""
    stage, shards = placement.zero_stage, placement.shards
    share = FP32 * -(-sizes.trained // shards)
    state = 2 * share + (share if stage else 0) + (share if placement.ema else 0)
    weights = FP32 * (-(-sizes.parameters // shards) if stage == 3 else sizes.parameters)
    held = {
        "weights": weights + sizes.buffer_bytes,
        "locked image tower": FP32 * sizes.locked,
        "fp32 master weights": share if stage else 0,
        "optimiser states": 2 * share,
        "EMA": share if placement.ema else 0,
        "batch": _batch_bytes(sizes, placement),
        "features": _feature_bytes(sizes, placement),
    }
    if stage == 3:
        live = min(sizes.parameters, LIVE_ELEMENTS)
        held["gathered weights"] = FP32 * (live + min(live, PREFETCHED_ELEMENTS + sizes.largest))
        held["gradients"] = share
        held["communication buckets"] = _bucket_bytes(sizes, placement)
    if placement.offload == "None":
        return held, 0
    held.update({"fp32 master weights": 0, "optimiser states": 0, "EMA": 0, "offload buffer": FP32 * sizes.largest})
    offloaded = state + share  # the gradients' partition is summed up there, too
    if placement.offload == "Parameters":
        held["weights"] = sizes.buffer_bytes
        offloaded += weights
    return held, offloaded


def _batch_bytes(sizes: Sizes, placement: Placement) -> int:
    """Pixels in uint8 as they come and normalised by micro-batch, or stored features in fp16 and fp32; 8-byte
    tokens.
    """
    rows = placement.batches * placement.local
    tokens = rows * sizes.context_length * 8
    if sizes.feature_width:
        return sizes.feature_width * (2 * rows + FP32 * placement.micro) + tokens
    pixels = 3 * sizes.image_side**2
    return pixels * (rows + DTYPES[placement.precision].itemsize * placement.micro) + tokens


def _feature_bytes(sizes: Sizes, placement: Placement) -> int:
    """Gradient caching holds features and concept logits of all pairs of the rank, and their gradients."""
    return 2 * FP32 * placement.local * (2 * sizes.embed_dim + sizes.classes) if placement.in_parts else 0


def _bucket_bytes(sizes: Sizes, placement: Placement) -> int:
    """DeepSpeed's buckets.

    Stages 1 and 2 keep them in the gradients' own dtype (`setup_buckets`): one, and a second one that fills while ranks
    sum the first (`overlap_comm`). Stage 3 has one for each dtype in which it sums gradients: a second one for the
    layers that autocast computes in bf16, if these are summed in bf16 (`IPGBucketZ3`).
    """
    elements = bucket_elements(sizes.parameters)
    if placement.zero_stage < 3:
        return elements * FP32 * (2 if placement.world > 1 else 1)
    if placement.reduction == "fp32":
        return elements * FP32
    return elements * (2 + (FP32 if placement.precision == "bf16" else 0))


def _loss_phase(sizes: Sizes, trace: Trace, placement: Placement) -> dict[str, int]:
    heads = 3 * FP32 * placement.local * sizes.classes
    return {
        "activations": 0 if placement.in_parts else trace.forward,
        "loss": loss_bytes(placement.local, placement.world, sizes.embed_dim) + heads,
    }


def _backward_phase(sizes: Sizes, trace: Trace, placement: Placement) -> dict[str, int]:
    """The worst moment: activations go as gradients come."""
    held = [(each.activations, *_gradient_bytes(sizes, placement, each.gradients)) for each in trace.backward]
    activations, gradients, copies = max(held, key=sum)
    unsummed = "gradients" if placement.zero_stage < 3 else "unsummed gradients"  # stage 3 holds its own all the time
    parts = {"communication buckets": _bucket_bytes(sizes, placement)} if placement.zero_stage in (1, 2) else {}
    return {"activations": activations, unsummed: gradients, "reduced copies": copies, **parts}


def _gradient_bytes(sizes: Sizes, placement: Placement, finished: int) -> tuple[int, int]:
    """Bytes of gradients that are held when some are finished, beside the buckets, and of their copies in a sum.

    ZeRO 0 holds all of them, and after gradient caching whole ones that micro-batches add to; so does ZeRO 1 where
    nothing is summed as it comes. Else those are held that wait for a bucket to be full, and what it leaves to this
    rank, twice where micro-batches add up. A copy joins the slices of several owners, another one lowers them to bf16.
    """
    bucket = FP32 * bucket_elements(sizes.parameters)
    waiting = max(bucket, FP32 * sizes.largest)
    whole = FP32 * sizes.trained if placement.in_parts else finished
    times = (1.0 if placement.world > 1 else 0.0) + (0.5 if placement.reduction == "bf16" else 0.0)
    if placement.zero_stage == 0:
        return whole, min(2 * waiting, finished) if times else 0
    if placement.zero_stage == 3:
        return min(waiting, finished), min(bucket, finished)
    copies = int(times * min(waiting, finished))
    if placement.zero_stage == 1 and (placement.world == 1 or placement.in_parts):
        return whole, copies
    kept = _kept_bytes(sizes, placement)
    outside = FP32 * sizes.largest if FP32 * sizes.largest > bucket else 0  # stays where it is until it is summed
    return min(outside, finished) + min(kept, finished) + (kept if placement.in_parts else 0), copies


def _kept_bytes(sizes: Sizes, placement: Placement) -> int:
    """Gradients of stage 1 or 2 for this rank's optimiser step: whole ones, of which a part may be others'."""
    if placement.offload != "None":  # they go to the host at once
        return 0
    return FP32 * min(sizes.trained, -(-sizes.trained // placement.shards) + sizes.largest)


def _step_phase(sizes: Sizes, placement: Placement) -> dict[str, int]:
    """Stages 1 and 2 take the norm in fp64, gradient by gradient; then the gradients are joined."""
    kept = _kept_bytes(sizes, placement)
    if placement.zero_stage not in (1, 2) or not kept:
        return {}
    share = -(-sizes.trained // placement.shards)
    return {"gradients": kept, "gradient copies": FP32 * max(2 * min(sizes.largest, share), share)}
