"""How the ranks meet: process group, flight recorder, and the preflight of the fabric."""

from __future__ import annotations

import os
import socket

from diht_k8s.api.reports import ROUNDS_VARIABLE, Rounds
from diht_k8s.api.train import Train
from diht_k8s.recipe.runtime.preflight import check_reduce
from diht_k8s.recipe.train.bandwidth import check_bandwidth
from diht_k8s.recipe.train.distributed import control_group, init_distributed, this_device
from diht_k8s.recipe.train.flight_recorder import FlightRecorder


def meet(settings: Train, *, rank: int, world: int) -> float | None:
    """Meet the other ranks, and check the fabric between them (collectives).

    Returns:
        The bus bandwidth in GB/s; None for one rank, and in rounds after the first, whose pods are the same.

    Raises:
        RetryableError: a sum over the ranks fails, or the fabric is slower than `train.minBusBandwidth`.
    """
    init_distributed(settings.collective_timeout_seconds)
    FlightRecorder(rank, world)
    check_reduce(rank, world, str(this_device()), control_group())
    if not _first_round():
        return None
    return check_bandwidth(rank, world, this_device(), settings.min_bus_bandwidth, node=socket.gethostname())


def _first_round() -> bool:
    rounds = os.environ.get(ROUNDS_VARIABLE)
    return rounds is None or Rounds.model_validate_json(rounds).round == 1
