"""The shape of a gang of ranks, and its checks before it trains: devices, memory, output, names of the nodes, a sum
over all.

What is wrong here would fail later, after minutes of loading, and in words of torch's or NCCL's. Each check ends in one
line that names the pod: with 64 where the run document is wrong, with 75 where another attempt or another node may do
better. What a pod's checks have measured goes to its ranks, which exchange it once they have met (`train.rendezvous`).

The number of usable CPUs is that of the process's affinity and of the quotas of its control groups (versions 1 and 2):
in a pod with `limits.cpu` the kernel shows all CPUs of the node, and throttles a pod that uses more than its quota.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from diht_k8s.api.base import create_condition
from diht_k8s.api.errors import RetryableError, UserError
from diht_k8s.api.gangs import DECISION_VARIABLE
from diht_k8s.api.layout import join
from diht_k8s.api.pods import NODE_VARIABLE, RENDEZVOUS_PORT
from diht_k8s.api.reports import NodeResult
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.signals import StopFlag

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor

import contextlib
from pathlib import PurePosixPath

RESULT_VARIABLE: Final = "DIHT_PREFLIGHT"
"""In the environment of ranks: what the checks of their pod found, as JSON."""
DNS_TIMEOUT_S: Final = 60.0
"""A pod with a node soon has an address, and then a name; one that has none after a minute is not coming soon."""
DNS_INTERVAL_S: Final = 0.5
REDUCE_TIMEOUT_S: Final = 60.0
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 (a mount, no file of ours)
RDMA: Final = ("rdma/", "vpc.amazonaws.com/efa")
"""Names of resources that are RDMA devices begin so."""
IPC_LOCK: Final = 14
"""Number of the capability in Linux."""
SHARED_BYTES_PER_RANK: Final = 64 << 20
"""What NCCL and torch want at least; container runtimes give that much to a whole container (our choice)."""


def this_node() -> NodeResult:
    """The names of this pod and of its node; nothing is checked yet."""
    host = socket.gethostname()
    return NodeResult(node=os.environ.get(NODE_VARIABLE) or host, pod=host)


def exported_result() -> NodeResult:
    """The result of this pod's checks, as the launcher exported it."""
    text = os.environ.get(RESULT_VARIABLE)
    return this_node() if text is None else NodeResult.model_validate_json(text)


def resolves(host: str) -> bool:
    """Whether DNS knows a host."""
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return True


def wait_for_hosts(
    hosts: Sequence[str],
    *,
    stop: StopFlag,
    timeout_s: float = DNS_TIMEOUT_S,
    known: Callable[[str], bool] = resolves,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until DNS knows all hosts.

    Args:
        hosts: names of pods.
        stop: ends the waiting.
        timeout_s: how long to wait for all of them together.
        known: whether DNS knows a host.
        clock: seconds that only grow.
        sleep: waits that many seconds.

    Raises:
        RetryableError: a host is still unknown; the message names it.
        StopRequested: a signal came.
    """
    deadline = clock() + timeout_s
    missing = [host for host in hosts if not known(host)]
    while missing:
        stop.raise_if_requested("nothing had begun")
        if clock() >= deadline:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise RetryableError(
                f"no address for pod {missing[0].partition('.')[0]}{more} after {timeout_s:.0f} s ({missing[0]}): "
                "see whether it was scheduled; the gang starts again"
            )
        sleep(DNS_INTERVAL_S)
        missing = [host for host in missing if not known(host)]


def in_pod() -> bool:
    """Whether this program runs in a Kubernetes pod, whose memory and devices the run document sets."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def visible_gpus() -> int:
    """Number of GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


def shared_bytes() -> int:
    """Size of the shared memory."""
    found = os.statvfs(SHARED_MEMORY)
    return found.f_frsize * found.f_blocks


def check_node(
    processes: int,
    gpus: int,
    *,
    host: str,
    shared: Callable[[], int] = shared_bytes,
    visible: Callable[[], int] = visible_gpus,
) -> None:
    """Compare what a pod has with what its ranks need.

    Args:
        processes: ranks of this pod.
        gpus: GPUs that the run document asks for in each pod.
        host: name of this pod.
        shared: size of the shared memory in bytes.
        visible: number of GPUs that torch sees.

    Raises:
        UserError: too little shared memory, or more ranks than GPUs.
        RetryableError: the node gives another number of GPUs than was asked for.
    """
    if gpus and processes > gpus:
        raise UserError(
            f"train.processesPerNode {processes} is more than the {gpus} GPUs of a pod (pods.resources): lower it"
        )
    if gpus and (seen := visible()) != gpus:
        raise RetryableError(
            f"pod {host} sees {seen} GPUs where it asked for {gpus}: see its node's driver and device plugin; the "
            "gang starts again"
        )
    need, size = processes * SHARED_BYTES_PER_RANK, shared()
    if size < need:
        raise UserError(
            f"{SHARED_MEMORY} of pod {host} has {size >> 20} MiB, its {processes} ranks need {need >> 20}: raise "
            "pods.shmSize, "
            "or pods.resources.memory, of which it is half"
        )


def may_lock_memory() -> bool:
    """Whether this process may lock any amount of memory: root's IPC_LOCK, or no limit."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    status = Path("/proc/self/status").read_text()
    effective = next(line.partition(":")[2] for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(effective, 16) >> IPC_LOCK & 1)


def check_locked_memory(devices: Iterable[str], *, host: str, allowed: Callable[[], bool] = may_lock_memory) -> None:
    """Make sure that the memory which RDMA devices read and write can be locked; NCCL's own error names neither cause.

    Args:
        devices: the resources that a pod asks for.
        host: name of this pod.
        allowed: whether this process may lock any amount of memory.

    Raises:
        UserError: there is such a device, and memory cannot be locked.
    """
    device = next((name for name in devices if name.startswith(RDMA)), None)
    if device is not None and not allowed():
        raise UserError(
            f"pod {host} has {device}, whose memory must be locked, and neither IPC_LOCK nor an unlimited "
            "RLIMIT_MEMLOCK: set "
            ""
            "pods.securityContext (runAsUser: 0, runAsNonRoot: false, capabilities.add IPC_LOCK), or raise the limit "
            "in the "
            "node's container runtime"
        )


def check_output(storage: Storage, folder: str, *, host: str) -> float:
    """Write, read, write conditionally and remove a small file, as checkpoints and fences will be.

    Returns:
        The seconds that it took.

    Raises:
        UserError: rights are missing, or the storage ignores the condition of a conditional write.
        RetryableError: the storage does not answer, or gives back something else.
    """
    uri, content, began = join(folder, f"preflight-{host}"), b"preflight\n", time.monotonic()
    storage.write_bytes(uri, content)
    try:
        if storage.read_bytes(uri) != content:
            raise RetryableError(f"{uri} was read back otherwise than written: see whether two runs share data.output")
        if storage.create(uri, b"again\n"):
            raise UserError(
                f"{uri}: the storage overwrites in spite of {create_condition(uri)}, so that a lost pod could "
                "overwrite its successor's "
                "checkpoints: use a storage with conditional writes"
            )
    finally:
        storage.remove(uri)
    return time.monotonic() - began


def check_reduce(
    rank: int, world: int, device: str, control: dist.ProcessGroup | None = None, *, timeout_s: float = REDUCE_TIMEOUT_S
) -> None:
    """Add up a small tensor over all ranks (a collective), over the fabric of the devices and over the control group.

    Args:
        rank: of this process.
        world: number of processes.
        device: this rank's, to which the world's group is bound.
        control: the gloo group beside NCCL; None: there is only the world's group.
        timeout_s: for each sum.

    Raises:
        RetryableError: it does not end in time, or the sum is wrong.
    """
    import torch

    if world == 1:
        return
    where = f"rank {rank} (pod {socket.gethostname()})"
    _check_sum(where, world, torch.ones(1024, device=device), None, timeout_s)
    if control is not None:
        _check_sum(where, world, torch.ones(1024), control, timeout_s)


def _check_sum(where: str, world: int, ones: Tensor, group: dist.ProcessGroup | None, timeout_s: float) -> None:
    import torch.distributed as dist

    try:
        work = dist.all_reduce(ones, group=group, async_op=True)
        assert work is not None
        work.wait(timedelta(seconds=timeout_s))
    except RuntimeError as error:
        raise RetryableError(
            f"{where}: the sum over {world} ranks failed or took more than {timeout_s:.0f} s "
            f"({str(error).splitlines()[0][:200]}): "
            "see the network between the pods; the gang starts again"
        ) from error
    if (sums := set(ones.tolist())) != {float(world)}:
        raise RetryableError(
            f"{where}: a sum over {world} ranks gave {sorted(sums)[:3]}: see its device; the gang starts again"
        )


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
    decision: Path | None = None
    """file that names the nodes without which the gang goes on in its living pods; None where it cannot."""

    @staticmethod
    def from_environment(processes: int) -> Gang:
        """The gang that DIHT_NUM_NODES, DIHT_NODE_RANK and DIHT_MASTER describe; one node without them."""
        nodes, pattern = int(os.environ.get("DIHT_NUM_NODES", "1")), os.environ.get("DIHT_PEER_HOSTS", "")
        return Gang(
            nodes=nodes,
            processes=int(os.environ.get("DIHT_PROCESSES", str(processes))),
            node_rank=int(os.environ.get("DIHT_NODE_RANK", "0")),
            master=os.environ.get("DIHT_MASTER", ""),
            port=int(os.environ.get("DIHT_MASTER_PORT", str(RENDEZVOUS_PORT))),
            hosts=tuple(pattern.replace("*", str(index)) for index in range(nodes)) if pattern else (),
            decision=Path(decision) if (decision := os.environ.get(DECISION_VARIABLE)) else None,
        )


_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def usable_cpus(*, own: Path = _OWN, root: Path = _ROOT, affinity: int | None = None) -> float:
    """Number of CPUs, which a quota may make fractional; at least a hundredth.

    Args:
        own: lists this process's control groups, as /proc/self/cgroup.
        root: where they are mounted.
        affinity: CPUs on which the process may run; None asks the kernel.
    """
    found = float(len(os.sched_getaffinity(0)) if affinity is None else affinity)
    for folder in _folders(own, root):
        found = min(found, _quota_2(folder / "cpu.max"), _quota_1(folder))
    return max(found, 0.01)


def _folders(own: Path, root: Path) -> list[Path]:
    """Folders of this process's groups and of those above: every quota on the way counts."""
    found = [root, root / "cpu", root / "cpu,cpuacct"]
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            bases = [root / "cpu", root / controllers] if controllers else [root]
            parts = PurePosixPath(path).parts[1:]
            found += [base.joinpath(*parts[:depth]) for base in bases for depth in range(1, len(parts) + 1)]
    return found


def _quota_2(file: Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = file.read_text().split()
        return float(quota) / float(period)  # "max" is no number
    return float("inf")


def _quota_1(folder: Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = float((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            return quota / float((folder / "cpu.cfs_period_us").read_text())
    return float("inf")
