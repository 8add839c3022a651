"""Estimate of a run's training on a card: memory, largest micro-batch, operations, time.

Figures for GPUs are computed and were not measured on a GPU; `benchmarks/run estimate` compares the memory of tensors
with what a CPU measures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Label
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.recipe.train.data.loader import PREFETCH_BATCHES, PREFETCH_BYTES
from diht_k8s.recipe.train.data.sampler import held_samples, order_sizes
from diht_k8s.recipe.train.estimate.footprint import FP32, GIB, Placement, RankMemory, Sizes, Trace, rank_memory
from diht_k8s.recipe.train.estimate.gpus import gpu_of
from diht_k8s.recipe.train.estimate.memory_trace import TracedStudent
from diht_k8s.recipe.train.flops import StepFlops, step_flops

CONTEXT_BYTES: Final = GIB
"""CUDA context, kernels and their workspaces. Our assumption, as are the next three."""
NCCL_BYTES: Final = GIB
"""NCCL's channels, with more than one rank."""
FRAGMENTATION: Final = 0.05
"""Share of the tensors' bytes that the caching allocator cannot use."""
PROCESS_BYTES: Final = 3 * GIB
"""Host memory of a rank's program and libraries."""
WORKER_BYTES: Final = GIB // 4
"""Host memory that a loader's worker does not share with its rank."""
IMAGE_CACHE_BYTES: Final = GIB // 2
"""Decoded images that the loader keeps, as `data.collate` sets it."""
SAMPLE_BYTES: Final = 50 << 10
"""An image as it is stored."""
BASE_MICRO_BATCH: Final = 8
"""Smallest micro-batch that is traced to find the largest one."""


@dataclass(frozen=True)
class Pace:
    """Speed and duration of the training."""

    samples_per_second: float
    step_seconds: float
    model_mfu: float
    """share of the peak without recomputation."""
    days: float
    gpu_hours: float


@dataclass(frozen=True)
class Estimate:
    """Memory, operations and time of a training on a card."""

    gpu: str
    nodes: int
    processes_per_node: int
    batch_size: int
    micro_batch: int
    parameters: int
    memory: RankMemory
    overhead: dict[str, int]
    """bytes on the card besides tensors, by part: assumptions of ours."""
    gpu_memory: int
    largest_micro_batch: int | None
    """None: not even one pair fits, or nobody asked."""
    host_memory: dict[str, int]
    """of a pod by part, in bytes."""
    work: StepFlops
    pace: Pace
    utilisation: float
    notes: list[str]

    @property
    def used(self) -> int:
        """Bytes of a card in use at the peak."""
        return self.memory.total + sum(self.overhead.values())

    @property
    def fits(self) -> bool:
        """Whether the training fits on the card."""
        return self.used <= self.gpu_memory

    def document(self) -> dict[str, Any]:
        """All of it for JSON; memory in bytes."""
        made = asdict(replace(self, memory=replace(self.memory, device=dict(self.memory.device))))
        totals = {"used": self.used, "host_memory_total": sum(self.host_memory.values()), "fits": self.fits}
        return {**made, **totals, "flops_per_sample": self.work.model, "executed_flops_per_sample": self.work.executed}


def estimate(
    run: DihtRun, gpu: str, *, nodes: int | None = None, utilisation: float = 0.45, largest: bool = True
) -> Estimate:
    """Estimate a run's training.

    Args:
        run: the run document.
        gpu: a name of `gpus.GPUS`.
        nodes: pods of the gang; None takes the document's.
        utilisation: share of the card's peak at which it computes.
        largest: search for the largest micro-batch, too, which takes three times as long as the rest.

    Raises:
        UserError: no train stage, an unknown card or model, a batch that the ranks cannot divide.
    """
    train, card = run.spec.train, gpu_of(gpu)
    if train is None:
        raise UserError("the run has no train stage: there is nothing to estimate")
    if not 0 < utilisation <= 1:
        raise UserError(f"--mfu {utilisation} must be above 0 and at most 1")
    nodes = train.num_nodes if nodes is None else nodes
    placement = placement_of(train, nodes)
    objects, attributes = num_classes(run)
    student = TracedStudent(train, num_objects=objects, num_attributes=attributes)
    work = step_flops(train, num_objects=objects, num_attributes=attributes, in_parts=placement.in_parts)
    overhead = CONTEXT_BYTES + (NCCL_BYTES if placement.world > 1 else 0)
    memory = rank_memory(student.sizes, student.trace(placement.micro), placement)
    peak, limit = card.peak(train.precision), round((card.memory - overhead) / (1 + FRAGMENTATION))
    return Estimate(
        gpu=gpu,
        nodes=nodes,
        processes_per_node=train.processes_per_node,
        batch_size=train.batch_size,
        micro_batch=placement.micro,
        parameters=student.sizes.parameters + student.sizes.locked,
        memory=memory,
        overhead={"CUDA and NCCL": overhead, "fragmentation": round(FRAGMENTATION * memory.total)},
        gpu_memory=card.memory,
        largest_micro_batch=_largest_micro_batch(student, placement, limit) if largest else None,
        host_memory=_host_memory(train, student.sizes, placement, memory.offloaded),
        work=work,
        pace=pace_of(work, peak=peak, utilisation=utilisation, batch=train.batch_size, ranks=placement.world, samples=train.samples),
        utilisation=utilisation,
        notes=_notes(run, train),
    )  # fmt: skip


def pace_of(work: StepFlops, *, peak: float, utilisation: float, batch: int, ranks: int, samples: int) -> Pace:
    """Pace of all ranks together.

    Args:
        work: of one pair.
        peak: of a card, operations a second.
        utilisation: share of the peak at which a card computes, recomputation included.
        batch: pairs of the global batch.
        ranks: cards.
        samples: seen in all.
    """
    rate = ranks * utilisation * peak / work.executed
    hours = samples / rate / 3600
    return Pace(rate, batch / rate, utilisation * work.model / work.executed, hours / 24, hours * ranks)


def placement_of(train: Train, nodes: int) -> Placement:
    """The division of the training over nodes.

    Raises:
        UserError: the ranks cannot divide the batch.
    """
    world = nodes * train.processes_per_node
    if nodes < 1 or train.batch_size % world or train.batch_size < 2 * world:
        raise UserError(
            f"train.batchSize {train.batch_size} must be a multiple of the {world} processes, at least 2 pairs for each: change --nodes or batchSize"
        )
    local = train.batch_size // world
    micro = min(train.micro_batch_size or local, local)
    if local % micro:
        raise UserError(f"train.microBatchSize {micro} must divide the {local} pairs of a process")
    return Placement(
        world, local, micro, train.zero_stage, train.precision, train.offload, train.ema > 0, train.gradient_reduction
    )


def num_classes(run: DihtRun) -> tuple[int, int]:
    """Classes of both heads: at most those that the label stage keeps; its defaults where another run labelled."""
    assert run.spec.train is not None
    if run.spec.train.distillation.mode != "Concepts":
        return 0, 0
    vocabulary = (run.spec.label or Label()).vocabulary
    return vocabulary.max_objects, vocabulary.max_attributes


def _largest_micro_batch(student: TracedStudent, placement: Placement, limit: int) -> int | None:
    """The largest divisor of a rank's share that fits; guessed from two traces and then traced itself."""
    sizes, local = student.sizes, placement.local
    divisors = [number for number in range(1, local + 1) if local % number == 0]
    first = max(2, *(number for number in divisors if number <= BASE_MICRO_BATCH))
    small, large = student.trace(first), student.trace(2 * first)

    def fits(micro_batch: int) -> bool:
        try:
            trace = student.trace(micro_batch)
        except UserError:  # one pair through a BatchNorm
            return False
        return rank_memory(sizes, trace, replace(placement, micro=micro_batch)).total <= limit

    # Both traces by gradient caching, as any smaller micro-batch runs.
    slope = max(1.0, (_activations(large) - _activations(small)) / first)
    room = limit - (rank_memory(sizes, small, replace(placement, micro=first)).total)
    guess = first + max(0.0, room) / slope * 1.05 if room > 0 else first
    candidates = [number for number in reversed(divisors) if number <= guess]
    return next((number for number in candidates if fits(number)), None)


def _activations(trace: Trace) -> int:
    return max(moment.activations for moment in trace.backward)


def _host_memory(train: Train, sizes: Sizes, placement: Placement, offloaded: int) -> dict[str, int]:
    """Of a pod, by part."""
    processes = train.processes_per_node
    seen = 2 * sizes.feature_width or 3 * sizes.image_side**2
    batch = placement.local * (seen + 8 * sizes.context_length)
    waiting = max(1, min(PREFETCH_BATCHES, PREFETCH_BYTES // batch))
    # The pairs of an epoch are not known here; a run mostly sees each more than once.
    order = order_sizes(train.samples, train.batch_size, **train.order.model_dump())
    # A checkpoint holds a rank's part of weights, both moments and EMA, and the same once more, encoded.
    saved = 2 * (3 + placement.ema) * FP32 * -(-sizes.parameters // placement.world)
    return {
        "programs": processes * PROCESS_BYTES,
        # Waiting ones, the one in use and the one in the making.
        "batches": processes * (waiting + 2) * batch,
        "image cache": processes * IMAGE_CACHE_BYTES,
        "loader workers": processes * (train.loader_workers or 0) * WORKER_BYTES,
        "samples to come": processes * SAMPLE_BYTES * -(-held_samples(order) // placement.world),
        "checkpoint": processes * saved,
        "offloaded": processes * offloaded,
    }


def _notes(run: DihtRun, train: Train) -> list[str]:
    notes = ["GPU figures are estimates: memory is traced, time follows from --mfu; neither was measured on a GPU"]
    if train.distillation.mode == "Concepts":
        objects, attributes = num_classes(run)
        notes.append(
            f"the heads are taken with {objects:,} objects and {attributes:,} attributes, the most that label keeps"
        )
    if train.compile:
        notes.append("train.compile is not traced: compiled towers usually hold less")
    return notes
