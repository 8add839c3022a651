"""How many worker processes make the batches of a rank. Pure."""

from __future__ import annotations

from typing import Final

from diht_k8s.api.train import Train

MAX_WORKERS: Final = 64
"""Loader workers of a rank that are chosen without being asked for."""


def loader_workers(train: Train, cpus: float, device: str) -> int:
    """Workers of a rank: `train.loaderWorkers`, else those that the pod's CPUs leave beside the ranks themselves.

    Where a CPU trains, its cores are busy with that: a thread decodes. One reads stored features, too, of which there is
    nothing to decode. The number changes no batch (see `Loader`).

    Args:
        train: the settings.
        cpus: of the pod.
        device: type of the device that trains.
    """
    if train.loader_workers is not None:
        return train.loader_workers
    return (
        0
        if device == "cpu" or train.features == "Stored"
        else min(MAX_WORKERS, max(1, int(cpus / train.processes_per_node) - 1))
    )
