"""Waiting for the names of a gang's pods, with a clock of the test's."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from diht_k8s.api.errors import DihtError, ExitCode, RetryableError, StopRequested, UserError
from diht_k8s.api.train import Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import preflight
from diht_k8s.runtime.preflight import (
    Gang,
    check_locked_memory,
    check_node,
    check_output,
    check_reduce,
    resolves,
    usable_cpus,
    wait_for_hosts,
)
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.train.data.loader import MAX_WORKERS, loader_workers

HOSTS = ["job-0.svc", "job-1.svc", "job-2.svc"]


class Dns:
    """Hosts become known at their time; sleeping lets time pass."""

    def __init__(self, **appears_s: float) -> None:
        self.now, self.appears = 0.0, appears_s

    def known(self, host: str) -> bool:
        return self.now >= self.appears.get(host.partition(".")[0].replace("-", "_"), 0)

    def wait(self, stop: StopFlag | None = None) -> None:
        wait_for_hosts(HOSTS, stop=stop or StopFlag(), known=self.known, clock=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("appears", "waited_s"), [({}, 0), ({"job_1": 3.2, "job_2": 7.0}, 7.0), ({"job_0": 59.9}, 60)])
def test_gang_starts_as_soon_as_the_last_name_is_known(appears: dict[str, float], waited_s: float) -> None:
    dns = Dns(**appears)
    dns.wait()
    assert dns.now == waited_s


@pytest.mark.parametrize(
    ("appears", "words"),
    [
        ({"job_1": 100}, "no address for pod job-1 after 60 s (job-1.svc)"),
        ({"job_1": 100, "job_2": 100}, "no address for pod job-1 and 1 more after 60 s (job-1.svc)"),
    ],
)
def test_pod_without_a_name_after_a_minute_is_retryable_and_named(appears: dict[str, float], words: str) -> None:
    dns = Dns(**appears)
    with pytest.raises(RetryableError) as raised:
        dns.wait()
    assert dns.now == 60
    assert words in str(raised.value)
    assert raised.value.exit_code == 75


def test_stop_ends_the_waiting() -> None:
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(StopRequested):
        Dns(job_0=100).wait(stop)


@pytest.mark.parametrize(
    ("pattern", "nodes", "hosts"),
    [("job-*.svc", 2, ["job-0.svc", "job-1.svc"]), ("", 2, []), ("job-*.svc", 1, ["job-0.svc"])],
)
def test_hosts_come_from_the_pattern_that_the_scheduler_gives(
    pattern: str, nodes: int, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_PEER_HOSTS", pattern)
    monkeypatch.setenv("DIHT_NUM_NODES", str(nodes))
    assert Gang.from_environment(1).hosts == tuple(hosts)


@pytest.mark.parametrize(("host", "known"), [("localhost", True), ("no-such-host.invalid", False)])
def test_name_is_looked_up_in_dns(host: str, known: bool) -> None:
    assert resolves(host) == known


MIB = 1 << 20


@pytest.mark.parametrize(
    ("processes", "gpus", "seen", "shared_mib", "code", "words"),
    [
        (8, 8, 8, 512, None, ""),
        (2, 0, 4, 128, None, ""),
        (8, 8, 7, 512, ExitCode.RETRYABLE, "pod p-1 sees 7 GPUs where it asked for 8: see its node's driver"),
        (1, 2, 0, 512, ExitCode.RETRYABLE, "pod p-1 sees 0 GPUs where it asked for 2"),
        (4, 2, 2, 512, ExitCode.USER_ERROR, "train.processesPerNode 4 is more than the 2 GPUs of a pod"),
        (8, 8, 8, 64, ExitCode.USER_ERROR, "/dev/shm of pod p-1 has 64 MiB, its 8 ranks need 512: raise pods.shmSize"),
    ],
)
def test_node_has_what_its_ranks_need_or_says_what_is_missing(
    processes: int, gpus: int, seen: int, shared_mib: int, code: ExitCode | None, words: str
) -> None:
    def check() -> None:
        check_node(processes, gpus, host="p-1", shared=lambda: shared_mib * MIB, visible=lambda: seen)

    if code is None:
        check()
        return
    with pytest.raises(DihtError, match=words) as raised:
        check()
    assert raised.value.exit_code is code
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("devices", "allowed", "device"),
    [
        (["cpu", "nvidia.com/gpu"], False, ""),
        (["cpu", "rdma/hca"], True, ""),
        (["cpu", "rdma/hca_shared"], False, "rdma/hca_shared"),
        (["vpc.amazonaws.com/efa"], False, "vpc.amazonaws.com/efa"),
    ],
)
def test_rdma_device_without_the_right_to_lock_memory_is_refused(
    devices: list[str], allowed: bool, device: str
) -> None:
    def check() -> None:
        check_locked_memory(devices, host="p-1", allowed=lambda: allowed)

    if not device:
        check()
        return
    with pytest.raises(
        UserError, match=f"pod p-1 has {device}, whose memory must be locked.*capabilities.add IPC_LOCK"
    ):
        check()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="drops root's capabilities")
def test_limited_program_without_the_capability_may_not_lock_memory() -> None:
    code = (
        "import resource\nfrom diht_k8s.runtime.preflight import may_lock_memory\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\nprint(may_lock_memory())"
    )
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_program_without_a_limit_may_lock_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(preflight, "Path", None)  # its capabilities are not looked at
    assert preflight.may_lock_memory()


def test_size_of_the_shared_memory_is_that_of_its_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    monkeypatch.setattr(preflight, "SHARED_MEMORY", str(tmp_path))
    assert preflight.shared_bytes() == found.f_frsize * found.f_blocks


def test_output_that_takes_files_is_left_as_it_was(tmp_path: Path) -> None:
    check_output(Storage(), str(tmp_path), host="p-1")
    assert list(tmp_path.iterdir()) == []


def test_file_that_a_killed_check_left_behind_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "preflight-p-1").write_text("half")
    check_output(Storage(), str(tmp_path), host="p-1")
    assert list(tmp_path.iterdir()) == []


class Careless(Storage):
    """Overwrites whatever the condition says."""

    def create(self, uri: str, data: bytes) -> bool:
        self.write_bytes(uri, data)
        return True


class Forgetful(Storage):
    def read_bytes(self, uri: str) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("storage", "error", "words"),
    [
        (Careless(), UserError, "overwrites in spite of If-None-Match"),
        (Forgetful(), RetryableError, "was read back otherwise than written"),
    ],
)
def test_storage_that_checkpoints_could_not_rely_on_is_refused(
    storage: Storage, error: type[DihtError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        check_output(storage, str(tmp_path), host="p-1")
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*preflight-p-1"):
        check_output(Storage(), str(tmp_path / "file"), host="p-1")


def test_single_rank_has_nothing_to_add_up() -> None:
    check_reduce(0, 1, "cpu")


class Work:
    def wait(self, timeout: object) -> None:
        raise RuntimeError("Timed out waiting 60000ms\nat line 5")


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        (
            lambda ones, group, async_op: Work(),
            r"the sum over 2 ranks failed or took more than 60 s \(Timed out waiting 60000ms\)",
        ),
        (lambda ones, group, async_op: Sum(), r"a sum over 2 ranks gave \[1.0\]: see its device"),
    ],
)
def test_sum_over_the_ranks_that_fails_names_rank_and_pod(
    reduce: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "all_reduce", reduce)
    with pytest.raises(RetryableError, match=words) as raised:
        check_reduce(1, 2, "cpu")
    assert f"rank 1 (pod {socket.gethostname()})" in str(raised.value)


class Sum:
    """Adds nothing."""

    def wait(self, timeout: object) -> None:
        pass


@pytest.mark.parametrize(
    ("own", "files", "affinity", "cpus"),
    [
        ("0::/", {}, 16, 16),
        ("0::/", {"cpu.max": "max 100000"}, 16, 16),
        ("0::/", {"cpu.max": "250000 100000"}, 16, 2.5),
        ("0::/", {"cpu.max": "3200000 100000"}, 16, 16),
        ("0::/pods/one", {"pods/cpu.max": "200000 100000", "pods/one/cpu.max": "400000 100000"}, 16, 2),
        (
            "4:cpu,cpuacct:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            16,
            3,
        ),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 16, 0.5),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16, 16),
        ("7:memory:/m", {"cpu.max": "damaged"}, 4, 4),
    ],
)
def test_cpus_when_limited_then_the_least_counts(
    tmp_path: Path, own: str, files: dict[str, str], affinity: int, cpus: float
) -> None:
    (tmp_path / "own").write_text(own + "\n")
    for name, content in files.items():
        place = tmp_path / "groups" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content + "\n")
    assert usable_cpus(own=tmp_path / "own", root=tmp_path / "groups", affinity=affinity) == cpus


@pytest.mark.parametrize(
    ("asked", "cpus", "ranks", "device", "workers"),
    [
        (None, 2.0, 1, "cpu", 0),
        (None, 64.0, 8, "cuda", 7),
        (None, 8.0, 8, "cuda", 1),
        (None, 0.5, 1, "cuda", 1),
        (None, 500.0, 1, "cuda", MAX_WORKERS),
        (0, 64.0, 8, "cuda", 0),
        (3, 64.0, 8, "cpu", 3),
    ],
)
def test_workers_when_not_asked_for_then_those_that_the_pods_cpus_leave(
    asked: int | None, cpus: float, ranks: int, device: str, workers: int
) -> None:
    train = Train(model="ViT-B-32", samples=1, loader_workers=asked, processes_per_node=ranks)
    assert loader_workers(train, cpus, device) == workers
