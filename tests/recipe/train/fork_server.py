"""Processes that begin with torch, DeepSpeed and open_clip imported: forks of a server that imports and does nothing
else.

To import them takes 6 CPU seconds, and tests start ranks by the hundred. A server runs no operation of torch, so it has
no threads that a fork would lack. A program that is forked is as one that is started, but for what an interpreter and
glibc read before `main`.

Usage of a server: fork_server.py SOCKET MODULE..., the number of an inherited socket and what to import.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from diht_k8s.runtime.signals import leave

TORCH = ("torch.distributed",)
TRAINING = ("tests.recipe.train.imports",)
"""What a training imports; its server begins as a fork of that of torch, as those of other modules do."""
SERVER = "tests.recipe.train.fork_server"
_NUMBER = struct.Struct("<q")
_END = struct.Struct("<qd")
"""exit code and CPU seconds."""
_REQUEST_BYTES = 1 << 17
_SERVER_ENDED = "the fork server has ended: see its output"
_spent: list[float] = []


def cpu_seconds() -> float:
    """Of the processes whose end this process has seen, with those that they waited for."""
    return sum(_spent)


class Forked:
    """A process of the server; as much of `Popen` as is used here."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.pid = self._number()
        self.returncode: int | None = None

    def _number(self) -> int:
        data = os.read(self._status, _NUMBER.size)
        if len(data) < _NUMBER.size:
            raise RuntimeError(_SERVER_ENDED)
        return _NUMBER.unpack(data)[0]

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            data = os.read(self._status, _END.size)
            if len(data) < _END.size:
                raise RuntimeError(_SERVER_ENDED)
            self.returncode, cpu_s = _END.unpack(data)
            _spent.append(cpu_s)
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    program: str,
    *arguments: str,
    variables: Mapping[str, str],
    modules: Sequence[str] = TRAINING,
    torch: bool = True,
    stdout: int | IO[Any] = 1,
    stderr: int | IO[Any] = 2,
) -> Forked:
    """Start a program: `python -m program arguments`, in effect.

    Args:
        program: a module whose `main` takes the command line's arguments.
        arguments: of the program.
        variables: its environment.
        modules: what the server imports that forks it; each set has a server of its own.
        torch: whether that server begins as a fork of torch's.
        stdout: file of its output; else this process's own.
        stderr: the same.
    """
    files = [stream if isinstance(stream, int) else stream.fileno() for stream in (stdout, stderr)]
    return _ask(_server(os.getpid(), tuple(modules), torch), [program, *arguments], variables, files)


def _ask(server: socket.socket, command: Sequence[str], variables: Mapping[str, str], files: Sequence[int]) -> Forked:
    """Have a server fork a program; `files` become 1, 2, ... there."""
    status, end = os.pipe()
    request = json.dumps({"command": list(command), "variables": dict(variables)}).encode()
    socket.send_fds(server, [request], [end, *files])
    os.close(end)
    return Forked(status)


@functools.cache
def _server(pid: int, modules: tuple[str, ...], torch: bool) -> socket.socket:
    """The socket of this process's server, which ends when the socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _REQUEST_BYTES)
    # whether a GPU is there shall be asked without its driver, which no fork can use
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    variables["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    with theirs:
        if not torch:
            command = [sys.executable, __file__, str(theirs.fileno()), *modules]
            process = subprocess.Popen(command, env=variables, pass_fds=[theirs.fileno()])
        else:
            process = _ask(_server(pid, TORCH, False), [SERVER, "3", *modules], variables, [1, 2, theirs.fileno()])
    atexit.register(_end, pid, ours, process)
    return ours


def _end(pid: int, control: socket.socket, process: subprocess.Popen[bytes] | Forked) -> None:
    control.close()
    if pid == os.getpid():  # not a fork that has inherited this
        process.wait()


def run(command: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Be a program, in a fork that has just begun: MODULE or MODULE:FUNCTION, and arguments of `main` or of that."""
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)]
    sys.argv, code = list(command), None
    module, _, function = command[0].partition(":")
    try:
        code = getattr(importlib.import_module(module), function or "main")(*command[1:])
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    leave(code if isinstance(code, int) else int(code is not None))


def _serve(control: socket.socket) -> None:
    running: dict[int, tuple[int, int]] = {}
    """descriptor of a process -> its id and the pipe that waits for its exit code."""
    while True:
        waiting: list[socket.socket | int] = [control, *running]
        for ready in select.select(waiting, [], [])[0]:
            if isinstance(ready, int):
                pid, status = running.pop(ready)
                _, end, usage = os.wait4(pid, 0)
                with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    os.write(status, _END.pack(os.waitstatus_to_exitcode(end), usage.ru_utime + usage.ru_stime))
                os.close(status)
                os.close(ready)
                continue
            request, received, *_ = socket.recv_fds(control, _REQUEST_BYTES, 4)
            if not request:
                return
            status, *files = received
            pid = os.fork()
            if pid == 0:
                control.close()
                for number in [status, *running, *(each for _, each in running.values())]:
                    os.close(number)
                _move(files)
                run(**json.loads(request))
            os.write(status, _NUMBER.pack(pid))
            running[os.pidfd_open(pid)] = pid, status
            for file in files:
                os.close(file)


def _move(files: Sequence[int]) -> None:
    """Make descriptors 1, 2, ... of others, which are closed."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 64) for file in files]
    for file in files:
        os.close(file)
    for number, file in enumerate(high, 1):
        os.dup2(file, number)
        os.close(file)


def main(descriptor: str, *modules: str) -> None:
    """Import, then fork on request until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to all
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is imported stays: collections of a fork need not go through it
    gc.set_threshold(100_000)  # a twelfth of a training's time went to collections that found little
    with socket.socket(fileno=int(descriptor)) as control:
        _serve(control)


if __name__ == "__main__":
    main(*sys.argv[1:])
