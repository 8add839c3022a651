"""Estimate of a run's training on a card: memory, largest micro-batch, operations, time at a given utilisation.

Figures for GPUs are computed and were not measured on a GPU; `benchmarks/run estimate` compares the memory of tensors
with what a CPU measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import open_clip

from diht_k8s.api.errors import UserError
from diht_k8s.api.kubernetes_types.objects import number_of
from diht_k8s.api.label import Label
from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train, few_pairs
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.estimate.footprint import GIB, Placement, RankMemory, Trace, rank_memory
from diht_k8s.stages.train.estimate.gpus import gpu_of, selected_gpu
from diht_k8s.stages.train.estimate.memory_trace import TracedStudent
from diht_k8s.stages.train.flops import PairFlops, StepWork
from diht_k8s.stages.train.model.batch_norm import require_equal_parts

CONTEXT_BYTES: Final = GIB
"""CUDA context, kernels and their workspaces. Our assumption, as are the next two."""
NCCL_BYTES: Final = GIB
"""NCCL's channels, with more than one rank."""
FRAGMENTATION: Final = 0.05
"""Share of the tensors' bytes that the caching allocator cannot use."""
BASE_MICRO_BATCH: Final = 8
"""Smallest micro-batch that is traced to find the largest one."""
HOPED_MFU: Final = 0.45
"""Share of the peak at which the CPUs of a pod should still feed its cards."""
IMAGES_PER_CORE: Final = {"512x384": 568, "512x512": 511, "mix": 408, "1024x768": 297}
"""Images a second that one core reads, decodes and crops to 224 px, by the size of the stored image (`benchmarks/run
loader`)."""


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
    work: PairFlops
    mfu: float | None
    """share of the peak at which the cards compute, recomputation included; None: not given."""
    step_seconds: float | None
    """at that share."""
    days: float | None
    """of the whole training at that share."""
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
        flops = {"flops_per_sample": self.work.model, "executed_flops_per_sample": self.work.executed}
        return {**made, "used": self.used, "fits": self.fits, **flops}


def estimate(
    run: DihtRun, gpu: str, *, nodes: int | None = None, mfu: float | None = None, largest: bool = True
) -> Estimate:
    """Estimate a run's training.

    Args:
        run: the run document.
        gpu: a name of `gpus.GPUS`.
        nodes: pods of the gang; None takes the document's.
        mfu: share of the card's peak at which it computes; None: no time is computed.
        largest: search for the largest micro-batch, too, which takes three times as long as the rest.

    Raises:
        UserError: no train stage, an unknown card or model, fewer pairs than ranks, unequal parts of a batch for a
            model with batch statistics.
    """
    train, card = run.spec.train, gpu_of(gpu)
    if train is None:
        raise UserError("the run has no train stage: there is nothing to estimate")
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu} must be above 0 and at most 1")
    peak = card.peak(train.precision)
    nodes = train.num_nodes if nodes is None else nodes
    placement = placement_of(train, nodes)
    objects, attributes = num_classes(run)
    student = TracedStudent(train, num_objects=objects, num_attributes=attributes)
    if student.has_batch_statistics:
        require_equal_parts(train, placement.world)
    account = StepWork(train, num_objects=objects, num_attributes=attributes)
    work = account.of_mean_pair(
        account.context_length, teacher_width=teacher_width(run) or 0, in_parts=placement.in_parts
    )
    overhead = CONTEXT_BYTES + (NCCL_BYTES if placement.world > 1 else 0)
    memory = rank_memory(student.sizes, student.trace(placement.micro), placement)
    limit = round((card.memory - overhead) / (1 + FRAGMENTATION))
    # Rows that hold no pair pass through the layers, too.
    seconds = None if mfu is None else placement.local * work.executed / (mfu * peak)
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
        work=work,
        mfu=mfu,
        step_seconds=seconds,
        days=None if seconds is None else train.samples / train.batch_size * seconds / 86400,
        notes=_notes(run, train, placement),
    )


def teacher_width(run: DihtRun) -> int | None:
    """Width of the embeddings that are distilled; None where it is not known here, as of another run's labels."""
    if run.training.distillation.embeddings is None:
        return 0
    name = "" if run.spec.label is None else run.spec.label.teacher.model
    config = open_clip.get_model_config(name.removeprefix("open_clip/"))
    return None if config is None else config["embed_dim"]


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
    if run.training.distillation.mode != "Concepts":
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


def _notes(run: DihtRun, train: Train, placement: Placement) -> list[str]:
    notes = ["GPU figures are estimates: memory is traced, time follows from --mfu; neither was measured on a GPU"]
    rows = placement.local * placement.world
    if surplus := rows - train.batch_size:
        notes.append(
            f"{placement.world:,} processes take {placement.local:,} rows each, {rows:,} for a batch of "
            f"{train.batch_size:,}: "
            f"{surplus / rows:.1%} of them hold no pair"
        )
    if train.stages:
        notes.append(
            "operations and time are means over train.stages, memory is that of the last, at the largest images"
        )
    if train.lock_image_tower:
        stored = (
            "each image passes it once before the first step, which is not counted: the image tower above is what "
            "learns "
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


def warnings_of(run: DihtRun, gpu: str | None) -> list[str]:
    """Why the training will not fit on a card or not be fed, one line each.

    Args:
        run: the run document.
        gpu: a name of `gpus.GPUS`; None takes the one of the node selector, and without one says nothing.

    Raises:
        UserError: an unknown card, or a batch that the ranks cannot share.
    """
    gpu = selected_gpu(run) if gpu is None else gpu_of(gpu).name
    if gpu is None or run.spec.train is None:
        return []
    made = estimate(run, gpu, mfu=HOPED_MFU, largest=False)
    found = [] if made.fits else [does_not_fit(estimate(run, gpu))]
    cpu = merged(run.spec.pods, run.spec.train.pods).resources.get("cpu")
    return [*found, *starved(made, None if cpu is None else number_of(cpu), run.spec.train.loader_workers)]


def does_not_fit(made: Estimate) -> str:
    """The lack of memory and its remedy, in one line."""
    needs = f"the training needs {made.used / GIB:.1f} GiB of a {made.gpu}'s {made.gpu_memory / GIB:.1f}"
    if made.largest_micro_batch is not None:
        return f"{needs}: set train.microBatchSize to {made.largest_micro_batch} or less"
    return f"{needs}, and no micro-batch fits: raise train.zeroStage, set offload, or take more nodes or a larger GPU"


def images_per_second(made: Estimate) -> float:
    """Images that a pod's cards take at the estimate's utilisation."""
    assert made.step_seconds is not None
    return made.batch_size / made.step_seconds / made.nodes


def cpus_needed(made: Estimate, size: str = "mix") -> int:
    """CPUs of a pod that feed its cards: one for each rank, and workers for the images that they take a second.

    Args:
        made: the estimate at the utilisation that is hoped for.
        size: of the stored images, as in `IMAGES_PER_CORE`.
    """
    ranks = made.processes_per_node
    return ranks * (1 + math.ceil(images_per_second(made) / ranks / IMAGES_PER_CORE[size]))


def starved(made: Estimate, cpus: float | None, workers: int | None) -> list[str]:
    """Whether a pod's CPUs cannot keep up with its cards: a line, or none.

    Args:
        made: the estimate at the utilisation that is hoped for.
        cpus: of a pod; None: it asks for none, and may have as many as the node spares.
        workers: `train.loaderWorkers`.
    """
    ranks, needed = made.processes_per_node, cpus_needed(made)
    threads = math.inf if cpus is None else max(1, int(cpus / ranks) - 1)
    threads = threads if workers is None else min(threads, max(1, workers))
    if threads >= needed // ranks - 1:
        return []
    feeds = f"{IMAGES_PER_CORE['mix'] * threads * ranks:,.0f}"
    least, most = cpus_needed(made, "512x384"), cpus_needed(made, "1024x768")
    has = (
        f"train.loaderWorkers {workers}"
        if cpus is None or (workers is not None and workers == threads)
        else f"cpu {cpus:g}"
    )
    return [
        f"{has} of a pod feeds {ranks} x {made.gpu} about {feeds} of {images_per_second(made):,.0f} images/s "
        f"(at {made.mfu:.0%} of the peak): ask for cpu {needed} ({least} for images of 512x384, {most} for 1024x768) "
        f"and {needed // ranks - 1} loaderWorkers, or store smaller images"
    ]
