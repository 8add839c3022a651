"""What a pod makes sure of before it trains: each fault is one line that names the pod, with the exit code that it
deserves."""

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

from diht_k8s.api.errors import DihtError, ExitCode, RetryableError, UserError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import preflight
from diht_k8s.runtime.preflight import check_locked_memory, check_node, check_output, check_reduce

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
