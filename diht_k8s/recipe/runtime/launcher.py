"""The launcher: process 1 of a training pod. Starts the ranks by torch's elastic agent and passes on how they ended.

torchrun hides the exit codes of its workers behind its own 1; this launcher runs the same agent in-process, takes the
first failure and raises it with its exit code and message. No ssh, no hostfile, no MPI: ranks rendezvous at the address
of rank 0, once DNS knows all nodes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError, ExitCode, RetryableError, StopRequested
from diht_k8s.api.pods import RENDEZVOUS_PORT
from diht_k8s.recipe.runtime.parent_death import named_parent
from diht_k8s.recipe.runtime.preflight import peer_hosts, wait_for_hosts
from diht_k8s.recipe.runtime.signals import StopFlag
from diht_k8s.recipe.runtime.watchdog import Limits, Watchdog, noting_folder

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
"""Has glibc keep the memory of large tensors for the next step: on a CPU, allocating it again takes an eighth of a step
(page faults)."""

RECORDER = {"TORCH_FR_BUFFER_SIZE": "2000"}
"""Collectives of each rank that torch's flight recorder keeps; unset, it keeps none of gloo's."""

LOST_PEER = "lost contact to another rank"
"""First words of the error of a rank that lost another rank."""


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


def launch(gang: Gang, module: str, arguments: Sequence[str], *, run_id: str, stop: StopFlag | None = None) -> None:
    """Run `python -m module arguments` as every rank of this node and wait for all of them.

    `stop` is checked until the agent handles the signals.

    Raises:
        DihtError: the first rank that failed, with its exit code and message.
        RetryableError: a node of the gang did not appear, or the ranks hung.
    """
    stop = stop or StopFlag()
    wait_for_hosts(gang.hosts, stop=stop)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    single = gang.nodes == 1
    config = LaunchConfig(
        min_nodes=gang.nodes,
        max_nodes=gang.nodes,
        nproc_per_node=gang.processes,
        run_id=run_id,
        rdzv_backend="c10d" if single else "static",
        rdzv_endpoint="localhost:0" if single else f"{gang.master}:{gang.port}",
        rdzv_configs={} if single else {"rank": gang.node_rank, "timeout": 300},
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
        local_addr="localhost" if single else None,
    )
    stop.raise_if_requested()
    for name, value in (MALLOC | RECORDER).items():
        os.environ.setdefault(name, value)
    with noting_folder() as folder:
        watchdog = Watchdog(folder, Limits.from_environment(), say=_to_stderr)
        try:
            with watchdog, named_parent():
                elastic_launch(config, sys.executable)("-m", module, *arguments)
        except ChildFailedError as error:
            failed = RetryableError(watchdog.verdict) if watchdog.verdict else cause_of(error.failures)
            failed.details = watchdog.details()
            raise failed from error
        except SignalException as error:
            stopped = StopRequested("stopped on request; the last checkpoint is kept: start again to resume")
            stopped.details = watchdog.details()
            raise stopped from error


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cause_of(failures: Mapping[int, Any]) -> DihtError:
    """The error to end with, of torch's records of the ranks that failed.

    A rank that fails takes the others with it, within the second that torch's records resolve: so causes go before
    consequences, and of those that end alike, who has something of its own to say before who lost another.
    """
    consequences = (ExitCode.STOPPED, ExitCode.RETRYABLE, -signal.SIGTERM)

    def order(item: tuple[int, Any]) -> tuple[int, bool, int]:
        code = item[1].exitcode
        place = 1 + consequences.index(code) if code in consequences else 0
        return place, _text_of(item[1].error_file_data).startswith(LOST_PEER), item[1].timestamp

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
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return DihtError(f"rank {rank} {how}" + (f": {text}" if text else ": see its log"))


def rank_main(work: Callable[[], object]) -> int:
    """Run a rank's work; its exit code. The message goes where the launcher finds it."""
    try:
        work()
    except DihtError as error:
        return _record(int(error.exit_code), str(error))
    except Exception as error:
        traceback.print_exc()
        return _record(int(ExitCode.UNEXPECTED), f"{type(error).__name__}: {error}")
    finally:
        # The agent stops the other ranks when one has ended; what is on its way out must keep its exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return int(ExitCode.DONE)


def _record(code: int, message: str) -> int:
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        record = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(path).write_text(json.dumps(record))
    return code
