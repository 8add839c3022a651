"""Start of the gang: process groups, flight recorder, and the fabric preflight with its report by node."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from diht_k8s.api.errors import DihtError
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import MAX_PROBLEM, ROUNDS_VARIABLE, NodeResult, PreflightReport, Rounds, worst
from diht_k8s.api.train import Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.hangs.heartbeat import note_preflight
from diht_k8s.runtime.preflight import check_reduce, exported_result
from diht_k8s.stages.train.bandwidth import SlowFabricError, check_bandwidth
from diht_k8s.stages.train.collectives import barrier, gather_objects
from diht_k8s.stages.train.distributed import control_group, init_process_groups, this_device
from diht_k8s.stages.train.flight_recorder import FlightRecorder

REPORT_VERSION: Final = 1


class FabricReport(NamedTuple):
    """Results of the fabric preflight; empty in rounds after the first, whose pods are the same."""

    bus_bandwidth: float | None = None
    """GB/s; None for one rank as well."""
    worst: Sequence[NodeResult] = ()
    """the worst nodes, the worst first."""


def init_distributed(settings: Train, storage: Storage, layout: Layout, *, rank: int, world: int) -> FabricReport:
    """Initialise the process groups, check the fabric, and write the report of each node (collectives).

    Args:
        settings: of the training.
        storage: rank 0 writes `preflight.json` with it.
        layout: of the run.
        rank: of this process.
        world: number of processes.

    Raises:
        RetryableError: a sum over the ranks fails, or the fabric is slower than `train.minBusBandwidth`.
    """
    init_process_groups(settings.collective_timeout_seconds)
    FlightRecorder(rank, world)
    check_reduce(rank, world, str(this_device()), control_group())
    if not _first_round():
        return FabricReport()
    own, speaks = _own_result(), os.environ.get("LOCAL_RANK", "0") == "0"
    nodes = [each for each in gather_objects(own if speaks else None) if each]
    slow: SlowFabricError | None = None
    try:
        bus = check_bandwidth(rank, world, this_device(), settings.min_bus_bandwidth, node=own.label)
    except SlowFabricError as error:
        slow, bus, nodes = error, error.bus, [_compared(each, error) for each in nodes]
    if speaks:  # in each pod: nobody knows whose end is observed
        note_preflight(worst(nodes))
    if rank == 0:
        _write(storage, layout, nodes, bus)
    if slow is not None:
        barrier()  # who fails takes the others along, and rank 0 has to write first
        raise slow
    return FabricReport(bus, worst(nodes))


def _own_result() -> NodeResult:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else None
    return exported_result().model_copy(update={"gpus": gpus})


def _compared(result: NodeResult, error: SlowFabricError) -> NodeResult:
    """The result of a node with its exchange, and its problem if it is the slow one."""
    name, found = result.label, error.culprit
    exchange = found.exchanges.get(name)
    return result.model_copy(
        update={
            "exchange_gb_per_second": None if exchange is None else float(f"{exchange:.4g}"),
            "problem": found.words[:MAX_PROBLEM] if name == found.node else "",
        }
    )


def _write(storage: Storage, layout: Layout, nodes: list[NodeResult], bus: float | None) -> None:
    """Write the results of all nodes to the output; a failed write is logged."""
    bus = None if bus is None else float(f"{bus:.4g}")
    report = PreflightReport(
        schema_version=REPORT_VERSION, time=int(time.time()), bus_bandwidth_gb_per_second=bus, nodes=nodes
    )
    try:
        storage.write_bytes(layout.preflight, report.model_dump_json(exclude_none=True, indent=1).encode())
    except DihtError as error:
        logging.warning("%s not written, training continues: %s", layout.preflight, error)


def _first_round() -> bool:
    rounds = os.environ.get(ROUNDS_VARIABLE)
    return rounds is None or Rounds.model_validate_json(rounds).round == 1
