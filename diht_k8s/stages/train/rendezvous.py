"""Start of the gang: process groups, flight recorder, and the fabric preflight with its report by node.

The preflight measures the bus bandwidth of an all-reduce over all ranks, and names a slow node. Bus bandwidth is what
nccl-tests reports: bytes / seconds x 2 (n - 1) / n of an all-reduce over n ranks, so that figures of gangs of different
sizes compare with each other and with the link's speed.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
import torch.distributed as dist

from diht_k8s.api.errors import DihtError, RetryableError
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import MAX_PROBLEM, ROUNDS_VARIABLE, NodeResult, PreflightReport, Rounds, worst
from diht_k8s.api.train import Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.hangs.heartbeat import note_preflight
from diht_k8s.runtime.preflight import check_reduce, exported_result
from diht_k8s.stages.train.collectives import barrier, control_group, gather_objects, init_process_groups, this_device
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


MIB: Final = 1 << 20
SIZES: Final = (1 * MIB, 8 * MIB)
GPU_SIZES: Final = (1 * MIB, 32 * MIB, 256 * MIB)
"""Bytes of the all-reduces: small ones show latency, large ones the links (our choice)."""
REPEATS: Final = 4
BUDGET_S: Final = 2.0
"""No larger size follows one that took longer."""
CLEARLY: Final = 0.7
"""A node is called slow below this part of the others' median (our choice)."""


@dataclass(frozen=True)
class Speed:
    """An all-reduce of one size."""

    size: int
    """bytes."""
    bus: float
    """bus bandwidth in GB/s."""


@dataclass(frozen=True)
class SlowNode:
    """The slow node, or the reason why none can be named."""

    words: str
    """for a person."""
    node: str = ""
    """its name; empty where none is slower than the others, or none can be told."""
    exchanges: Mapping[str, float] = field(default_factory=dict[str, float])
    """GB/s of each node with its best neighbour, of its slowest rank where ranks of one node were told apart; empty
    where fewer than three could be compared."""


class SlowFabricError(RetryableError):
    """The fabric is slower than `train.minBusBandwidth`."""

    def __init__(self, message: str, bus: float, culprit: SlowNode) -> None:
        """Make one; `bus` is the bus bandwidth in GB/s."""
        super().__init__(message)
        self.bus, self.culprit = bus, culprit


def measure(world: int, device: torch.device) -> list[Speed]:
    """Time all-reduces of a few sizes over all ranks (collectives); the same figures on every rank, none for one
    rank.
    """
    found: list[Speed] = []
    for size in _sizes(device) if world > 1 else ():
        values = torch.zeros(size // 4, device=device)
        dist.all_reduce(values)  # connections are made
        barrier()
        seconds = _slowest(_timed(device, lambda values=values: [dist.all_reduce(values) for _ in range(REPEATS)]))
        found.append(Speed(size, size * REPEATS / seconds * 2 * (world - 1) / world / 1e9))
        if seconds > BUDGET_S:
            break
    return found


def described(speeds: Sequence[Speed], world: int) -> str:
    """The line of the log."""
    each = ", ".join(f"{speed.bus:.3g} at {speed.size // MIB} MiB" for speed in speeds)
    return f"all-reduce over {world} ranks: bus bandwidth in GB/s {each}"


def check_bandwidth(rank: int, world: int, device: torch.device, minimum: float | None, *, node: str) -> float | None:
    """Measure the fabric, and say where it is too slow (collectives).

    Args:
        rank: of this process.
        world: number of processes.
        device: this rank's.
        minimum: `train.minBusBandwidth` in GB/s; None only measures.
        node: name of this rank's node.

    Returns:
        The bus bandwidth in GB/s, the best of all sizes; None for one rank.

    Raises:
        SlowFabricError: it is below the minimum; the message names the slowest node, or says why it cannot.
    """
    speeds = measure(world, device)
    if not speeds:
        return None
    best = max(speed.bus for speed in speeds)
    if rank == 0:
        print(f"train: {described(speeds, world)}", flush=True)
    if minimum is not None and best < minimum:
        culprit = _culprit(rank, device, node)
        raise SlowFabricError(
            f"{described(speeds, world)}; train.minBusBandwidth asks for {minimum:g}: {culprit.words}; the gang "
            "starts again",
            best,
            culprit,
        )
    return best


def slowest_node(best: Mapping[str, float]) -> str:
    """The slow node in words, from the best exchange of each with a neighbour in GB/s. Pure."""
    name = min(best, key=best.__getitem__)
    others = _others(best, name)
    if not clearly_slowest(best):
        return (
            f"no node is slower than the others (pairs exchange {best[name]:.3g} to {max(best.values()):.3g} "
            f"GB/s): see the fabric between them"
        )
    return (
        f"{name} is the slowest ({best[name]:.3g} GB/s with its best neighbour, the others {others:.3g}): see "
        f"its network adapter, or cordon it"
    )


def clearly_slowest(best: Mapping[str, float]) -> str:
    """The node that is slower than the others; empty if none is. Pure."""
    name = min(best, key=best.__getitem__)
    return name if best[name] < CLEARLY * _others(best, name) else ""


def _others(best: Mapping[str, float], name: str) -> float:
    return statistics.median(speed for node, speed in best.items() if node != name)


def rounds_of(number: int) -> list[list[tuple[int, int]]]:
    """Pairs of neighbours in a ring of at least 3, so that each is in two pairs, and in one at a time. Pure."""
    ring = [(index, (index + 1) % number) for index in range(number)]
    rounds = [ring[0::2], ring[1::2]]
    return rounds if number % 2 == 0 else [rounds[0][:-1], rounds[1], [ring[-1]]]


def _culprit(rank: int, device: torch.device, node: str) -> SlowNode:
    """The slow node (a collective): neighbours exchange in pairs, and the one that is slow with both is it."""
    nodes = gather_objects(node)
    places = [f"node {name}" for name in nodes]
    if len(set(nodes)) == 1:  # the ranks of one node, told apart among themselves
        places = [f"rank {index} on node {name}" for index, name in enumerate(nodes)]
    units = list(dict.fromkeys(places))
    if len(units) < 3:
        which = f"node {nodes[0]}" if len(set(nodes)) == 1 else f"{' and '.join(units)}"
        return SlowNode(f"which of two is slow cannot be told ({which}): see the network between them")
    leaders = [places.index(unit) for unit in units]
    mine: dict[str, float] = {}
    for pairs in rounds_of(len(leaders)):
        peer = next((b if leaders[a] == rank else a for a, b in pairs if rank in (leaders[a], leaders[b])), None)
        barrier()
        if peer is not None:
            speed = _exchange(leaders[peer], device)
            mine = {places[rank]: max(speed, mine.get(places[rank], 0.0))}
    best = {place: speed for each in gather_objects(mine) for place, speed in each.items()}
    node_of = dict(zip(places, nodes, strict=True))
    exchanges: dict[str, float] = {}
    for place, speed in best.items():
        exchanges[node_of[place]] = min(speed, exchanges.get(node_of[place], speed))
    slow = clearly_slowest(best)
    return SlowNode(slowest_node(best), node_of[slow] if slow else "", exchanges)


def _exchange(peer: int, device: torch.device) -> float:
    """GB/s in each direction of an exchange with another rank."""
    size = _sizes(device)[-1]
    sent, received = torch.zeros(size // 4, device=device), torch.empty(size // 4, device=device)

    def once() -> None:
        requests = [dist.P2POp(dist.isend, sent, peer), dist.P2POp(dist.irecv, received, peer)]
        for work in dist.batch_isend_irecv(requests):
            work.wait()

    once()  # connections are made
    return size / _timed(device, once) / 1e9


def _sizes(device: torch.device) -> tuple[int, ...]:
    return GPU_SIZES if device.type == "cuda" else SIZES


def _timed(device: torch.device, call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return max(time.perf_counter() - began, 1e-9)


def _slowest(seconds: float) -> float:
    """The longest time of all ranks (a collective)."""
    values = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX, group=control_group())
    return float(values)
