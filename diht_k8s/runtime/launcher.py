"""The launcher: process 1 of a training pod. Starts the ranks by torch's elastic agent and passes on how they ended.

torchrun hides the exit codes of its workers behind its own 1; this launcher runs the same agent in-process, takes the
first failure and raises it with its exit code and message. No ssh, no hostfile, no MPI: ranks rendezvous at the address
of rank 0, once DNS knows all nodes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from diht_k8s.api.errors import RetryableError, StopRequested
from diht_k8s.runtime.hangs.heartbeat import notes_folder
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.in_place.launcher import launch_in_place
from diht_k8s.runtime.in_place.rank_processes import Standbys
from diht_k8s.runtime.preflight import DNS_TIMEOUT_S, Gang, wait_for_hosts
from diht_k8s.runtime.progress import STARTING, TimeAccount, exported
from diht_k8s.runtime.signals import STOPPED, StopFlag, cause_of, named_parent

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}
"""Has glibc keep the memory of large tensors for the next step: on a CPU, allocating it again takes an eighth of a step
(page faults)."""

FLIGHT_RECORDER = {"TORCH_FR_BUFFER_SIZE": "2000"}
"""Collectives of each rank that torch's flight recorder keeps; unset, it keeps none of gloo's."""

LAUNCH_ORDER = {"NCCL_LAUNCH_ORDER_IMPLICIT": "1"}
"""Has NCCL begin the kernels of different communicators in the order in which the host issues them, which is one on all
ranks (since 2.26). A step uses two, the world's and DeepSpeed's, on streams of their own: without an order each rank
may begin with another one, and kernels that fill the card then wait for each other."""

MAX_VARIABLE_BYTES = 16 << 10
"""Longer texts for the ranks go by file: Linux takes at most 128 KiB for one variable, and a configuration may name
every shard."""
FILE_MARK = "@"
"""Begins a variable that names a file; neither YAML nor JSON begins with it."""


def export_env(variable: str, text: str) -> None:
    """Set a variable of the environment for the ranks; a file that it takes is removed when this process ends."""
    if len(text.encode()) <= MAX_VARIABLE_BYTES:
        os.environ[variable] = text
        return
    handle, name = tempfile.mkstemp(prefix=f"{variable.lower()}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    atexit.register(Path(name).unlink, missing_ok=True)
    os.environ[variable] = FILE_MARK + name


def read_env(variable: str) -> str:
    """The text that `export_env` has passed on to a rank."""
    text = os.environ[variable]
    return Path(text[1:]).read_text(encoding="utf-8") if text.startswith(FILE_MARK) else text


def launch(
    gang: Gang,
    module: str,
    *,
    run_id: str,
    stop: StopFlag | None = None,
    in_place: bool = False,
    account: TimeAccount | None = None,
    peers_s: float = DNS_TIMEOUT_S,
) -> None:
    """Run `python -m module` as every rank of this node and wait for all of them.

    Args:
        gang: shape of the gang and this node's place in it.
        module: to run.
        run_id: name of the run.
        stop: is checked until the agent handles the signals; with `in_place` all the time.
        in_place: start the ranks again in this process when one fails (see `in_place`), instead of ending.
        account: of this program's wall time, which rank 0 goes on with.
        peers_s: seconds to wait for the names of the other nodes.

    Raises:
        DihtError: the first rank that failed, with its exit code and message.
        RetryableError: a node of the gang did not appear, or the ranks hung.
    """
    stop, account = stop or StopFlag(), account or TimeAccount()
    for name, value in (MALLOC | FLIGHT_RECORDER | LAUNCH_ORDER).items():
        os.environ.setdefault(name, value)
    command = [sys.executable, "-m", module]
    with contextlib.closing(Standbys(command, gang.processes)) as standbys:
        if in_place:
            standbys.fill()  # they import while this program waits and imports
        account.enter(STARTING, "rendezvous")
        # An elastic gang may go on without any node but the first.
        wait_for_hosts(gang.hosts if gang.decision is None else gang.hosts[:1], stop=stop, timeout_s=peers_s)
        account.enter(STARTING, "imports")
        with exported(account):
            if in_place:
                return launch_in_place(gang, command, run_id=run_id, stop=stop, say=_to_stderr, standbys=standbys)
            return _launch_elastic(gang, module, run_id, stop)


def _launch_elastic(gang: Gang, module: str, run_id: str, stop: StopFlag) -> None:
    """The ranks below torch's elastic agent, without restarts."""
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
    with notes_folder() as folder:
        watchdog = Watchdog(folder, HangLimits.from_environment(), say=_to_stderr)
        try:
            with watchdog, named_parent():
                elastic_launch(config, sys.executable)("-m", module)
        except ChildFailedError as error:
            failed = RetryableError(watchdog.verdict) if watchdog.verdict else cause_of(error.failures)
            failed.details = watchdog.details()
            raise failed from error
        except SignalException as error:
            stopped = StopRequested(STOPPED)
            stopped.details = watchdog.details()
            raise stopped from error


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
