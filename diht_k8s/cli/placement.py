"""This machine, and a run document placed on it: where and how fast it runs changes, its results never."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.base import in_object_store
from diht_k8s.api.errors import UserError
from diht_k8s.api.gangs import shows_batch_statistics, unequal_parts
from diht_k8s.api.layout import join
from diht_k8s.api.pods import Pods
from diht_k8s.api.run import DihtRun, Spec, Stage
from diht_k8s.api.train import Train
from diht_k8s.stages.train.estimate.gpus import name_of_product
from diht_k8s.stages.train.model.configurations import learns_in_timm

CPU_PROCESSES: Final = 2
"""Training processes without a GPU: at the sizes that a CPU can train, more of them only add communication (our
choice).
"""


def place(run: DihtRun, machine: Machine, workdir: str | None) -> tuple[DihtRun, list[str]]:
    """The run as this machine runs it.

    Args:
        run: the run document as written.
        machine: its resources.
        workdir: the folder below which a relative data.output lies; None is the current folder.

    Returns:
        The run, and one line for each field that differs from the document.
    """
    spec = run.spec
    changes: dict[str, Any] = {"pods": Pods(), "suspend": False}
    if workdir is not None and not (
        in_object_store(spec.data.output) or spec.data.output.startswith(("/", "~", "file://"))
    ):
        changes["data"] = spec.data.model_copy(update={"output": join(workdir, spec.data.output)})
    for stage in (Stage.FILTER, Stage.LABEL):
        if (config := getattr(spec, stage.value)) is not None:
            workers = min(config.workers, machine.cores) if "workers" in config.model_fields_set else machine.cores
            changes[stage.value] = config.model_copy(update={"workers": workers, "pods": None})
    if spec.train is not None:
        changes["train"] = spec.train.model_copy(update=_train_shape(spec.train, machine))
    if spec.evaluate is not None:
        changes["evaluate"] = spec.evaluate.model_copy(update={"pods": None})
    placed = spec.model_copy(update=changes)
    return run.model_copy(update={"spec": placed}), _differences(spec, placed)


def _train_shape(train: Train, machine: Machine) -> dict[str, Any]:
    most = machine.gpus or min(CPU_PROCESSES, machine.cores)
    if not machine.gpus and "processes_per_node" in train.model_fields_set:
        most = min(most, train.num_nodes * train.processes_per_node)
    share = -(-train.batch_size // most)
    processes = -(-train.batch_size // share)  # as many as make the share of each no larger
    if unequal_parts(train, processes) is not None and not train.lock_image_tower and has_batch_statistics(train):
        processes = next((number for number in range(processes, 1, -1) if unequal_parts(train, number) is None), 1)
    return {"num_nodes": 1, "min_nodes": None, "processes_per_node": processes, "pods": None}


def has_batch_statistics(train: Train) -> bool:
    """Whether the model of a training takes statistics over a batch; False for one that cannot be made, as its stage
    will say.
    """
    try:
        if not learns_in_timm(train):
            return shows_batch_statistics(train)
    except UserError:
        return False
    from diht_k8s.inspection.model_checks import timm_network  # seconds, which few runs need

    return timm_network(train).batch_statistics


def _differences(before: Spec, after: Spec) -> list[str]:
    fields = (
        "data.output",
        "filter.workers",
        "label.workers",
        "train.num_nodes",
        "train.processes_per_node",
        "suspend",
    )
    lines = [
        f"{_wire(path)}: {old} -> {new}"
        for path in fields
        if (old := _get(before, path)) != (new := _get(after, path)) and new is not None
    ]
    has_pods = before.pods != Pods() or any(_get(before, f"{stage}.pods") is not None for stage in Stage)
    return [*lines, "pods: ignored on this machine"] if has_pods else lines


def _get(spec: Spec, path: str) -> Any:
    value: Any = spec
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def _wire(path: str) -> str:
    first, *others = path.split("_")
    return "spec." + first + "".join(word.capitalize() for word in others)


def threads_per_process(run: DihtRun, stage: Stage, machine: Machine) -> int:
    """Threads of each process of a stage; together they use each core once."""
    config = getattr(run.spec, stage.value)
    processes = config.processes_per_node if stage is Stage.TRAIN else getattr(config, "workers", 1)
    return max(1, machine.cores // processes)


@dataclass(frozen=True)
class Machine:
    """The resources of a machine."""

    cores: int
    memory_gib: float = 0.0
    gpus: int = 0
    gpu: str | None = None
    """the name of the first one in `stages.train.estimate.gpus`; None where that is not known."""


def this_machine() -> Machine:
    """Cores that this process may use, all memory, GPUs that it may see."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names, visible = _listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        len(names) if visible is None else len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    )
    return Machine(
        len(os.sched_getaffinity(0)), memory / 2**30, gpus, name_of_product(names[0]) if gpus and names else None
    )


def _listed() -> list[str]:
    """Names of the GPUs of this machine: `NVIDIA H100 80GB HBM3` of a line `GPU 0: NVIDIA H100 80GB HBM3 (UUID:
    ...)`.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    lines = (line for line in listed.stdout.splitlines() if line.startswith("GPU "))
    return [line.partition(": ")[2].partition(" (UUID")[0] for line in lines]
