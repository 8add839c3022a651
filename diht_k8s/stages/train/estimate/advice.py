"""Warnings about a run document: a card that is too small, CPUs that cannot feed it. One line for each problem.

Speeds of the loader are measured (`benchmarks/run loader`), those of cards are their makers'.
"""

from __future__ import annotations

import math
from typing import Final

from diht_k8s.api.kubernetes_types.quantities import number_of
from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun
from diht_k8s.stages.train.estimate.estimate import Estimate, estimate, on_fewest_nodes
from diht_k8s.stages.train.estimate.gpus import gpu_of, selected_gpu

IMAGES_PER_CORE: Final = {"512x384": 568, "512x512": 511, "mix": 408, "1024x768": 297}
"""Images a second that one core reads, decodes and crops to 224 px, by the size of the stored image (`benchmarks/run loader`)."""
GIB: Final = 2**30


def advice(run: DihtRun, gpu: str | None) -> list[str]:
    """Why the training will not fit or not be fed.

    Args:
        run: the run document.
        gpu: a name of `gpus.GPUS`; None takes the one of the node selector, and without one says nothing.

    Raises:
        UserError: an unknown card, or a batch that the ranks cannot share.
    """
    gpu = selected_gpu(run) if gpu is None else gpu_of(gpu).name
    if gpu is None or run.spec.train is None:
        return []
    made = estimate(run, gpu, largest=False)
    found = [] if made.fits else [does_not_fit(estimate(run, gpu))]
    resources = merged(run.spec.pods, run.spec.train.pods).resources
    if (fewest := on_fewest_nodes(run, made)) is not None:
        memory = resources.get("memory")
        found += fewest_do_not_fit(fewest, None if memory is None else number_of(memory))
    cpu = resources.get("cpu")
    return [*found, *starved(made, None if cpu is None else number_of(cpu), run.spec.train.loader_workers)]


def does_not_fit(made: Estimate) -> str:
    """The lack of memory and its remedy, in one line."""
    needs = f"the training needs {made.used / GIB:.1f} GiB of a {made.gpu}'s {made.gpu_memory / GIB:.1f}"
    if made.largest_micro_batch is not None:
        return f"{needs}: set train.microBatchSize to {made.largest_micro_batch} or less"
    return f"{needs}, and no micro-batch fits: raise train.zeroStage, set offload, or take more nodes or a larger GPU"


def fewest_do_not_fit(made: Estimate, memory: float | None) -> list[str]:
    """What an elastic training lacks on its fewest nodes, where each has more of it: a line for GPU and pod each.

    Args:
        made: its estimate on them.
        memory: bytes of a pod; None: it asks for none.
    """
    where, needs = f"shrunk to {made.nodes} (train.minNodes),", sum(made.host_memory.values())
    lines = [] if made.fits else [f"{where} {does_not_fit(made)}"]
    if memory is not None and needs > memory:
        lines.append(
            f"{where} a pod needs {needs / GIB:.1f} GiB of host memory and asks for {memory / GIB:.1f}: raise memory, lower "
            "train.order.window, or raise minNodes"
        )
    return lines


def cpus_needed(made: Estimate, size: str = "mix") -> int:
    """CPUs of a pod that feed its cards: one for each rank, and workers for the images that they take a second.

    Args:
        made: the estimate at the share of the peak that is hoped for.
        size: of the stored images, as in `IMAGES_PER_CORE`.
    """
    ranks = made.processes_per_node
    images = made.pace.samples_per_second / made.nodes
    return ranks * (1 + math.ceil(images / ranks / IMAGES_PER_CORE[size]))


def starved(made: Estimate, cpus: float | None, workers: int | None) -> list[str]:
    """Whether a pod's CPUs cannot keep up with its cards: a line, or none.

    Args:
        made: the estimate at the share of the peak that is hoped for.
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
        f"{has} of a pod feeds {ranks} x {made.gpu} about {feeds} of {made.pace.samples_per_second / made.nodes:,.0f} images/s "
        f"(at {made.utilisation:.0%} of the peak): ask for cpu {needed} ({least} for images of 512x384, {most} for 1024x768) "
        f"and {needed // ranks - 1} loaderWorkers, or store smaller images"
    ]
