"""A gang of ranks: its shape, and which of several failures is the cause of the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError, ExitCode, RetryableError, StopRequested
from diht_k8s.api.pods import RENDEZVOUS_PORT
from diht_k8s.recipe.runtime.preflight import peer_hosts

LOST_PEER = "lost contact to another rank"
"""First words of the error of a rank that lost another rank."""
STOPPED = "stopped on request; the last checkpoint is kept: start again to resume"


@dataclass(frozen=True)
class Gang:
    """The shape of a gang and this node's place in it."""

    nodes: int = 1
    processes: int = 1
    node_rank: int = 0
    master: str = ""
    """host name of node 0; empty on a single node."""
    port: int = RENDEZVOUS_PORT
    hosts: tuple[str, ...] = ()
    """host names of all nodes, where a cluster gives them names."""

    @staticmethod
    def from_environment(processes: int) -> Gang:
        """The gang that DIHT_NUM_NODES, DIHT_NODE_RANK and DIHT_MASTER describe; one node without them."""
        nodes = int(os.environ.get("DIHT_NUM_NODES", "1"))
        return Gang(
            nodes=nodes,
            processes=int(os.environ.get("DIHT_PROCESSES", str(processes))),
            node_rank=int(os.environ.get("DIHT_NODE_RANK", "0")),
            master=os.environ.get("DIHT_MASTER", ""),
            port=int(os.environ.get("DIHT_MASTER_PORT", str(RENDEZVOUS_PORT))),
            hosts=tuple(peer_hosts(os.environ.get("DIHT_PEER_HOSTS", ""), nodes)),
        )


def cause_of(failures: Mapping[int, Any]) -> DihtError:
    """The error to end with, of torch's records of the ranks that failed.

    A rank that fails takes the others with it, within the second that torch's records resolve: so causes go before
    consequences, and of those that end alike, who has something of its own to say before who lost another. NCCL aborts
    the process of a rank that lost another, before Python can say so.
    """

    def order(item: tuple[int, Any]) -> tuple[int, int]:
        code, lost = item[1].exitcode, _text_of(item[1].error_file_data).startswith(LOST_PEER)
        consequences = (
            (ExitCode.STOPPED, False),
            (ExitCode.RETRYABLE, False),
            (-signal.SIGABRT, False),
            (ExitCode.RETRYABLE, True),
            (-signal.SIGTERM, False),
        )
        place = 1 + consequences.index((code, lost)) if (code, lost) in consequences else 0
        return place, item[1].timestamp

    rank, failure = min(failures.items(), key=order)
    return _error_of(int(failure.exitcode), rank, failure.error_file_data)


def _text_of(data: Any) -> str:
    """The line that a rank left for the launcher, "" without one."""
    message = data.get("message") if isinstance(data, dict) else None
    return message.get("message", "") if isinstance(message, dict) else ""  # torch's placeholder is not a dict


def _error_of(exit_code: int, rank: int, data: Any) -> DihtError:
    text = _text_of(data)
    if exit_code in BY_EXIT_CODE:
        return BY_EXIT_CODE[exit_code](text or f"rank {rank} ended with exit code {exit_code}: see its log")
    if exit_code == -signal.SIGTERM:
        return StopRequested(
            f"rank {rank} was stopped before it could save: start again to resume from the last checkpoint"
        )
    if exit_code == -signal.SIGABRT:
        return RetryableError(
            f"{LOST_PEER}, or its own device (rank {rank} was aborted, which NCCL does to a rank then): see its log"
        )
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return DihtError(f"rank {rank} {how}" + (f": {text}" if text else ": see its log"))
