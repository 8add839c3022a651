"""Memory of a rank by part, from a trace and the settings. Pure.

The trace gives what activations and gradients hold over a micro-batch. The rest is arithmetic over what DeepSpeed and
the engine allocate: partitions of weights and optimiser state, buckets, the batch, the loss's tiles. The formulas
follow DeepSpeed 0.19 and are compared with measured peaks by `benchmarks/run estimate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FP32: Final = 4
"""bytes."""
LOSS_CHUNK: Final = 256
"""Rows of the loss's tiles, as the engine sets them."""
BUCKET_ELEMENTS: Final = 500_000_000
"""DeepSpeed's buckets at most, as the engine sets them."""
LIVE_ELEMENTS: Final = 1_000_000_000
"""Gathered elements that ZeRO 3 keeps at most (`stage3_max_live_parameters`): most models stay gathered."""
PREFETCHED_ELEMENTS: Final = 50_000_000
"""`stage3_prefetch_bucket_size`."""
GIB: Final = 2**30


@dataclass(frozen=True)
class Sizes:
    """Numbers that the arithmetic needs of a model."""

    parameters: int
    trained: int
    """parameters with a gradient."""
    largest: int
    """elements of the largest trained parameter."""
    head_parameters: int
    """weights of both concept heads."""
    buffer_bytes: int
    image_side: int
    context_length: int
    embed_dim: int
    classes: int
    """of both heads together."""


@dataclass(frozen=True)
class Moment:
    """Bytes that a rank holds at one moment, besides weights, optimiser state and batch."""

    activations: int
    """activations and temporary tensors."""
    gradients: int


@dataclass(frozen=True)
class Trace:
    """What a micro-batch holds on its way through the model."""

    micro_batch: int
    forward: int
    """bytes at the end of the forward pass."""
    backward: tuple[Moment, ...]
    """moments of the backward pass that can be its peak."""


@dataclass(frozen=True)
class Placement:
    """How the training is divided."""

    world: int
    """ranks."""
    local: int
    """pairs of a rank."""
    micro: int
    """pairs of a rank that pass through the model at once; divides `local`."""
    zero_stage: int
    precision: str
    offload: str
    ema: bool
    reduction: str = "fp32"
    """dtype in which gradients are summed over the ranks."""

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
        "loss": _loss_phase(sizes, trace, placement),
        "backward": _backward_phase(sizes, trace, placement),
        "gradient reduction": _reduction_phase(sizes, placement),
    }
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    return RankMemory({name: size for name, size in {**held, **phases[phase]}.items() if size}, offloaded, phase)


def bucket_elements(sizes: Sizes) -> int:
    """Elements of a bucket of DeepSpeed's, as the engine sets it."""
    return min(BUCKET_ELEMENTS, sizes.parameters + sizes.parameters % 2)


def loss_bytes(local: int, world: int, width: int) -> int:
    """What the contrastive loss holds at most, in its backward pass: three tiles, gradients, vectors, gathered texts."""
    pairs = local * world
    tiles = 3 * min(LOSS_CHUNK, local) * pairs
    gathered = pairs * width if world > 1 else 0
    return FP32 * (tiles + (pairs + local) * width + gathered + 24 * pairs)


def _held(sizes: Sizes, placement: Placement) -> tuple[dict[str, int], int]:
    """What stays on the device over the whole step by part, and the bytes on the host."""
    stage, shards = placement.zero_stage, placement.shards
    share = FP32 * -(-sizes.trained // shards)
    state = 2 * share + (share if stage else 0) + (share if placement.ema else 0)
    weights = FP32 * (-(-sizes.parameters // shards) if stage == 3 else sizes.parameters)
    pixels = 3 * sizes.image_side**2
    held = {
        "weights": weights + sizes.buffer_bytes,
        "fp32 master weights": share if stage else 0,
        "optimiser states": 2 * share,
        "EMA": share if placement.ema else 0,
        # uint8 as they come, and fp32 normalised by micro-batch; 8-byte tokens
        "batch": pixels * (placement.local + FP32 * placement.micro) + placement.local * sizes.context_length * 8,
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


def _feature_bytes(sizes: Sizes, placement: Placement) -> int:
    """Gradient caching holds features and concept logits of all pairs of the rank, and their gradients."""
    return 2 * FP32 * placement.local * (2 * sizes.embed_dim + sizes.classes) if placement.in_parts else 0


def _bucket_bytes(sizes: Sizes, placement: Placement) -> int:
    """DeepSpeed's buckets: one for each dtype in which it sums gradients.

    Stages 1 and 2 keep it in the gradients' own dtype (`setup_buckets`). Stage 3 has a second one for the layers that
    autocast computes in bf16, if these are summed in bf16 (`IPGBucketZ3`).
    """
    elements = bucket_elements(sizes)
    if placement.zero_stage < 3 or placement.reduction == "fp32":
        return elements * FP32
    return elements * (2 + (FP32 if placement.precision == "bf16" else 0))


def _loss_phase(sizes: Sizes, trace: Trace, placement: Placement) -> dict[str, int]:
    heads = 3 * FP32 * placement.local * sizes.classes
    return {
        "activations": 0 if placement.in_parts else trace.forward,
        "loss": loss_bytes(placement.local, placement.world, sizes.embed_dim) + heads,
    }


def _backward_phase(sizes: Sizes, trace: Trace, placement: Placement) -> dict[str, int]:
    whole, share = FP32 * sizes.trained, FP32 * -(-sizes.trained // placement.shards)
    if placement.zero_stage >= 2:
        # Finished gradients move into the bucket; what a full bucket leaves is this rank's partition. Micro-batches
        # add to it, for which DeepSpeed takes a second one.
        flushed = sizes.trained > bucket_elements(sizes)
        partitions = 0 if placement.zero_stage == 3 else 2 if placement.in_parts else int(flushed)
        moment, gradients = max(trace.backward, key=lambda each: each.activations), partitions * share
    elif placement.in_parts:
        moment, gradients = max(trace.backward, key=lambda each: each.activations), whole
    else:
        moment = max(trace.backward, key=lambda each: each.activations + each.gradients)
        gradients = moment.gradients
    parts = {"activations": moment.activations}
    if placement.zero_stage in (1, 2):
        parts["communication buckets"] = _bucket_bytes(sizes, placement)
    if placement.zero_stage < 3 and gradients:
        parts["gradients"] = gradients
    return parts


def _reduction_phase(sizes: Sizes, placement: Placement) -> dict[str, int]:
    whole, share = FP32 * sizes.trained, FP32 * -(-sizes.trained // placement.shards)
    bucket = min(sizes.trained, bucket_elements(sizes))
    if placement.zero_stage == 0:
        copied = FP32 * bucket if placement.world > 1 else 0
        return {"gradients": whole, "communication buckets": copied}
    if placement.zero_stage == 3:
        return {"reduced copies": FP32 * bucket}
    # `allreduce_bucket` joins the slices of several owners in a tensor and lowers a copy of it.
    joined = FP32 * bucket if placement.world > 1 else 0
    lowered = 2 * bucket if placement.reduction == "bf16" else 0
    # Stage 1 fills the bucket from gradients that are still whole; `get_flat_partition` copies the rank's own part.
    parts = share + (whole if placement.zero_stage == 1 else 0)
    return {
        "gradients": parts,
        "communication buckets": _bucket_bytes(sizes, placement),
        "reduced copies": max(0, joined + lowered - parts),
    }
