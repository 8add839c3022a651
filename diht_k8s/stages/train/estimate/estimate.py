"""Estimate of a run's training on a card: memory, largest micro-batch, operations, time.

Figures for GPUs are computed and were not measured on a GPU; `benchmarks/run estimate` compares the memory of tensors
with what a CPU measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import open_clip

from diht_k8s.api.errors import UserError
from diht_k8s.api.gang_sizes import gang_sizes
from diht_k8s.api.kubernetes_types.quantities import number_of
from diht_k8s.api.label import Label
from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train, few_pairs
from diht_k8s.stages.train.data.loader import PREFETCH_BATCHES, PREFETCH_BYTES
from diht_k8s.stages.train.data.loader_workers import loader_workers
from diht_k8s.stages.train.data.sampler import held_samples, order_sizes
from diht_k8s.stages.train.data.share import BatchShare
from diht_k8s.stages.train.estimate.footprint import FP32, GIB, Placement, RankMemory, Sizes, Trace, rank_memory
from diht_k8s.stages.train.estimate.gpus import Gpu, gpu_of
from diht_k8s.stages.train.estimate.loss_time import contrastive_cost, contrastive_seconds, embedding_seconds
from diht_k8s.stages.train.estimate.memory_trace import TracedStudent
from diht_k8s.stages.train.flops import PairFlops, StepWork
from diht_k8s.stages.train.model.batch_norm import require_equal_parts

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
ASSUMED_CPUS: Final = 16
"""CPUs of a process whose pod asks for none; our assumption."""
GPU: Final = "cuda"
"""Type of the device, as torch names it."""
BASE_MICRO_BATCH: Final = 8
"""Smallest micro-batch that is traced to find the largest one."""


@dataclass(frozen=True)
class Pace:
    """Speed and duration of the training."""

    samples_per_second: float
    step_seconds: float
    loss_seconds: float
    """of a step, in the losses."""
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
    work: PairFlops
    pace: Pace
    utilisation: float
    """share of the peak at which the layers compute."""
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
        utilisation: share of the card's peak at which it computes the layers.
        largest: search for the largest micro-batch, too, which takes three times as long as the rest.

    Raises:
        UserError: no train stage, an unknown card or model, fewer pairs than ranks, unequal parts of a batch for a model with
            batch statistics.
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
    if student.has_batch_statistics:
        require_equal_parts(train, placement.world)
    account, teacher = StepWork(train, num_objects=objects, num_attributes=attributes), teacher_width(run)
    work = account.of_mean_pair(account.context_length, teacher_width=teacher or 0, in_parts=placement.in_parts)
    overhead = CONTEXT_BYTES + (NCCL_BYTES if placement.world > 1 else 0)
    memory = rank_memory(student.sizes, student.trace(placement.micro), placement)
    peak, limit = card.peak(train.precision), round((card.memory - overhead) / (1 + FRAGMENTATION))
    loss_seconds = losses_seconds(card, placement.local, train.batch_size, student.sizes.embed_dim, teacher or 0)
    cpus, assumed = cpus_of(run)
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
        host_memory=_host_memory(train, student.sizes, placement, memory.offloaded, cpus),
        work=work,
        pace=pace_of(
            work,
            loss_seconds,
            peak=peak,
            utilisation=utilisation,
            batch=train.batch_size,
            ranks=placement.world,
            samples=train.samples,
        ),
        utilisation=utilisation,
        notes=[*_notes(run, train, placement), *assumed],
    )


def on_fewest_nodes(run: DihtRun, made: Estimate) -> Estimate | None:
    """The estimate of an elastic training on the fewest nodes with which it goes on; None if it is that already.

    Args:
        run: the run document.
        made: its estimate on more of them.
    """
    assert run.spec.train is not None
    nodes = gang_sizes(run.spec.train)[0]
    if nodes >= made.nodes:
        return None
    fewest = estimate(run, made.gpu, nodes=nodes, utilisation=made.utilisation, largest=False)
    return fewest if fewest.fits else estimate(run, made.gpu, nodes=nodes, utilisation=made.utilisation)


def pace_of(
    work: PairFlops, loss_seconds: float, *, peak: float, utilisation: float, batch: int, ranks: int, samples: int
) -> Pace:
    """Pace of all ranks together.

    Args:
        work: of one pair.
        loss_seconds: of a step, in the losses.
        peak: of a card, operations a second.
        utilisation: share of the peak at which a card computes the layers, recomputation included.
        batch: pairs of the global batch.
        ranks: cards.
        samples: seen in all.
    """
    rows = BatchShare(batch, 0, ranks).rows  # those that hold no pair pass through the layers, too
    step = rows * work.layers / (utilisation * peak) + loss_seconds
    hours = samples / batch * step / 3600
    return Pace(batch / step, step, loss_seconds, batch * work.model / (ranks * peak * step), hours / 24, hours * ranks)


def losses_seconds(card: Gpu, pairs: int, columns: int, width: int, teacher_width: int) -> float:
    """Time of the losses of a step.

    Args:
        card: which.
        pairs: of a rank.
        columns: pairs of the global batch.
        width: of the embeddings.
        teacher_width: of a teacher's embeddings; 0: none are distilled.
    """
    contrastive = contrastive_seconds(card, contrastive_cost(card, pairs, columns, width))
    return contrastive + (embedding_seconds(card, pairs, columns, width, teacher_width) if teacher_width else 0.0)


def teacher_width(run: DihtRun) -> int | None:
    """Width of the embeddings that are distilled; None where it is not known here, as of another run's labels."""
    assert run.spec.train is not None
    if run.spec.train.distillation.embeddings is None:
        return 0
    name = "" if run.spec.label is None else run.spec.label.teacher.model
    config = open_clip.get_model_config(name.removeprefix("open_clip/"))
    return None if config is None else config["embed_dim"]


def cpus_of(run: DihtRun) -> tuple[float, list[str]]:
    """CPUs of a pod of the training, and what had to be assumed."""
    train = run.spec.train
    assert train is not None
    asked = merged(run.spec.pods, train.pods).resources.get("cpu")
    if asked is not None:
        return number_of(asked), []
    assumed = float(ASSUMED_CPUS * train.processes_per_node)
    if loader_workers(train, 0.0, GPU) == loader_workers(train, assumed, GPU):  # they do not depend on CPUs
        return assumed, []
    return assumed, [
        f"pods.resources names no cpu: {ASSUMED_CPUS} for each process are assumed, which its loader workers follow"
    ]


def placement_of(train: Train, nodes: int) -> Placement:
    """The division of the training over nodes.

    Raises:
        UserError: there are no nodes, or fewer pairs than ranks.
    """
    world = nodes * train.processes_per_node
    if nodes < 1:
        raise UserError(f"--nodes {nodes} must be at least 1")
    if (problem := few_pairs(train.batch_size, world)) is not None:
        raise UserError(problem)
    local = BatchShare(train.batch_size, 0, world).rows
    micro = min(train.micro_batch_size or local, local)
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
    """The largest one that fits, to a thirtieth; guessed from two traces and then traced itself.

    Of a model with batch statistics it is a divisor of the rank's share.
    """
    sizes, local = student.sizes, placement.local
    first = max(2, min(BASE_MICRO_BATCH, local))
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
    guess = min(local, int(first + max(0.0, room) / slope * 1.05))
    return next((number for number in _below(guess, local, student.has_batch_statistics) if fits(number)), None)


def _below(guess: int, local: int, divisors: bool) -> Iterator[int]:
    """Micro-batches from a guess down, in steps of a thirtieth; or the divisors of a rank's share among them."""
    number = guess
    while number:
        if not divisors or local % number == 0:
            yield number
        number -= 1 if divisors else max(1, number // 30)


def _activations(trace: Trace) -> int:
    return max(moment.activations for moment in trace.backward)


def _host_memory(train: Train, sizes: Sizes, placement: Placement, offloaded: int, cpus: float) -> dict[str, int]:
    """Of a pod with these CPUs, by part."""
    processes = train.processes_per_node
    workers = min(loader_workers(train, cpus, GPU), placement.local)
    seen = placement.local * (2 * sizes.feature_width or 3 * sizes.image_side**2)
    batch = seen + placement.local * 8 * sizes.context_length
    waiting = max(1, min(PREFETCH_BATCHES, PREFETCH_BYTES // seen))
    # The pairs of an epoch are not known here; a run mostly sees each more than once.
    order = order_sizes(train.samples, train.batch_size, **train.order.model_dump())
    # A checkpoint holds a rank's part of weights, both moments and EMA, and the same once more, encoded.
    saved = 2 * (3 + placement.ema) * FP32 * -(-sizes.parameters // placement.world)
    return {
        "programs": processes * PROCESS_BYTES,
        # What workers have made ahead, and what the one in the making is joined of; then that one itself.
        "batches in the making": processes * batch * ((waiting + 1 if workers else 0) + 1),
        # Waiting ones, the one that would wait and the one on its way to the device. torch rounds page-locked memory up.
        "page-locked batches": processes * (waiting + 2) * _power_of_two(seen),
        "image cache": processes * IMAGE_CACHE_BYTES,
        "loader workers": processes * workers * WORKER_BYTES,
        "samples to come": processes * SAMPLE_BYTES * -(-held_samples(order) // placement.world),
        "checkpoint": processes * saved,
        "offloaded": processes * offloaded,
    }


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _notes(run: DihtRun, train: Train, placement: Placement) -> list[str]:
    notes = ["GPU figures are estimates: memory is traced, time follows from --mfu; neither was measured on a GPU"]
    rows = placement.local * placement.world
    if surplus := rows - train.batch_size:
        notes.append(
            f"{placement.world:,} processes take {placement.local:,} rows each, {rows:,} for a batch of {train.batch_size:,}: "
            f"{surplus / rows:.1%} of them hold no pair"
        )
    if train.stages:
        notes.append(
            "operations and time are means over train.stages, memory is that of the last, at the largest images"
        )
    if train.lock_image_tower:
        stored = (
            "each image passes it once before the first step, which is not counted: the image tower above is what learns "
            "behind it"
        )
        notes.append(
            f"locked image tower: {stored if train.features == 'Stored' else 'its forward pass alone is counted'}"
        )
    if train.distillation.mode == "Concepts":
        objects, attributes = num_classes(run)
        notes.append(
            f"the heads are taken with {objects:,} objects and {attributes:,} attributes, the most that label keeps"
        )
    if teacher_width(run) is None:
        notes.append(
            "the teacher's embeddings are not known here: their loss is left out (label.teacher.model open_clip/NAME)"
        )
    if train.compile:
        notes.append("train.compile is not traced: compiled towers usually hold less")
    return notes
