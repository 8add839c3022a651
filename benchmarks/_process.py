"""The controller under test as a process, observed from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks._figures import samples
from benchmarks._plane import OPERATOR, Plane, free_port, stop, until

ROOT = Path(__file__).resolve().parent.parent
EVERY_S = 0.2


class Controller:
    """`python -m diht_k8s.controller`, with the rights of its manifests."""

    def __init__(self, plane: Plane) -> None:
        self._port = free_port()
        self._started_at = time.monotonic()
        options = ["--address", "127.0.0.1", "--port", str(self._port), "--no-lease"]
        self._log = (plane.folder / "controller.out").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "diht_k8s.controller", *options],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(plane.kubeconfig(OPERATOR))},
            stdout=self._log,
            stderr=self._log,
        )
        self.pid = self._process.pid
        self._seen = psutil.Process(self.pid)
        self.peak_mib = 0.0
        """largest resident set so far."""
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        stop(self._process)
        self._log.close()

    def since_start_s(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self._started_at

    def memory_mib(self) -> float:
        """Resident set now."""
        return self._seen.memory_info().rss / 2**20

    def cpu_s(self) -> float:
        """Processor time so far."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def metrics(self) -> dict[str, float]:
        """Its metrics now."""
        return samples(self._page("/metrics"))

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = 120.0) -> None:
        """Wait for something while it lives."""
        until(condition, what, self.check, timeout_s)

    def is_ready(self) -> bool:
        """Whether Jobs and pods are listed."""
        return self._page("/readyz").startswith("ok")

    def has_reconciled(self, active: int, finished: int = 0) -> bool:
        """Whether it knows this many runs, has reconciled the active ones, and none waits."""
        now = self.metrics()
        count, known = now.get("diht_operator_reconcile_seconds_count", 0), now["diht_operator_runs"]
        return known >= active + finished and count >= active and now["diht_operator_queue_depth"] == 0

    def _page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def check(self) -> None:
        """Raise SystemExit if it has ended."""
        if self._process.poll() is not None:
            raise SystemExit(f"the controller ended with {self._process.returncode}: see controller.out")

    def _watch_memory(self) -> None:
        with contextlib.suppress(psutil.Error):
            while True:
                self.peak_mib = max(self.peak_mib, self.memory_mib())
                time.sleep(EVERY_S)


@contextlib.contextmanager
def controller(plane: Plane) -> Iterator[Controller]:
    """Run it for a while."""
    process = Controller(plane)
    try:
        yield process
    finally:
        process.stop()
