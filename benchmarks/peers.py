"""This operator beside Kubeflow Trainer and JobSet: the same jobs on one control plane with fake nodes, in turn.

A job is the training stage alone, timed from the creation of all jobs until all pods run, and from a pod's failure
until its job's pods are new and run. Peers have default settings and this operator's pods.

Medians of five rounds (`--jobs 100 --failures 10 --rounds 5`); 1,000 jobs once, one gang three times. Ours and Kubeflow
Trainer 2.3.0: all pods run 7.25, 11.2 s; new gang 2.05, 2.33 s; CPU a job 22, 56 ms; memory 70, 150 MiB. JobSet's
slowest new gang is earlier, and it writes one object less.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from benchmarks._arguments import make_parser
from benchmarks._figures import Request, quantile, requests
from benchmarks._load import NAMESPACE, STREAMS, names
from benchmarks._peers import NAMES, PEERS, Peer, Usage, removed, started
from benchmarks._plane import FAKES, LOADER, PODS_PER_NODE, Plane, control_plane, programs
from benchmarks.controller import install
from diht_k8s.kube.client import Cluster, lines
from diht_k8s.kube.connection import Connection

TIMEOUT_S: Final = 1800.0
LOG_LATE_S: Final = 1.0
FAILED: Final = {"terminated": {"exitCode": 75, "reason": "Error", "message": "a fault that was injected"}}
ROWS: Final = {
    "until all pods run, p50 / p99": ("pods_p50_s", "pods_p99_s", "s"),
    "one pod fails: until all pods are new and run, p50 / p99": ("again_p50_s", "again_p99_s", "s"),
    "all jobs deleted: until nothing is left": ("deleted_s", "", "s"),
    "API writes a job, start": ("writes_start", "", ""),
    "API writes a job, failure": ("writes_again", "", ""),
    "CPU time a job, start": ("cpu_start_ms", "", "ms"),
    "memory, peak": ("peak_mib", "", "MiB"),
}


@dataclass
class Pods:
    """The running pods of each job, followed by a watch."""

    label: str
    size: int
    running: dict[str, dict[str, float]] = field(default_factory=dict)
    """job -> UID -> when it was seen running."""
    present: set[str] = field(default_factory=set)
    jobs: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def take(self, event: dict[str, Any], now: float) -> None:
        """One event of the watch."""
        pod, metadata = event["object"], event["object"]["metadata"]
        job = (metadata.get("labels") or {}).get(self.label)
        if event["type"] == "BOOKMARK" or job is None:
            return
        uid, phase = metadata["uid"], (pod.get("status") or {}).get("phase")
        own = self.running.setdefault(job, {})
        if event["type"] == "DELETED" or phase in ("Failed", "Succeeded"):
            own.pop(uid, None)
        elif phase == "Running" and "deletionTimestamp" not in metadata:
            own.setdefault(uid, now)
        (self.present.discard if event["type"] == "DELETED" else self.present.add)(uid)

    def complete_at(self, job: str, *, without: frozenset[str] = frozenset()) -> float | None:
        """When all pods of a job ran, none of them among `without`; None while they do not."""
        times = [at for uid, at in list(self.running.get(job, {}).items()) if uid not in without]
        return max(times) if len(times) >= self.size else None

    def follow(self, listing: Callable[..., Any]) -> None:
        """Watch until `stopped`."""
        version = json.loads(listing(limit=1).data)["metadata"]["resourceVersion"]
        while not self.stopped:
            response = listing(resourceVersion=version, watch=True, timeoutSeconds=20, allowWatchBookmarks=True)
            try:
                for line in lines(response.stream(1 << 16, decode_content=True)):
                    event = json.loads(line)
                    version = event["object"]["metadata"]["resourceVersion"]
                    self.take(event, time.time())
            except HTTPError:
                if not self.stopped:  # else the API server has ended with the benchmark
                    raise


class Bench:
    """One operator after the other."""

    def __init__(self, plane: Plane, options: argparse.Namespace) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(plane.kubeconfig(LOADER)), client_configuration=settings)
        settings.connection_pool_maxsize = STREAMS
        api = client.ApiClient(settings)
        self._plane, self._options = plane, options
        self._custom, self._core, self._cluster = (
            client.CustomObjectsApi(api),
            client.CoreV1Api(api),
            Cluster(Connection(api)),
        )

    def measure(self, peer: Peer) -> dict[str, Any]:
        """All phases of one operator."""
        jobs = names("job", self._options.jobs)
        pods = Pods(peer.label, self._options.pods)
        threading.Thread(target=pods.follow, args=(self._cluster.listing("Pod", NAMESPACE),), daemon=True).start()
        try:
            with started(self._plane, peer) as usage:
                time.sleep(5)  # what it does at its start
                found = self._start(peer, jobs, pods, usage)
                found |= self._again(peer, jobs[: self._options.failures], pods)
                found |= self._delete(peer, jobs, pods)
                found["peak_mib"] = round(usage.peak_mib)
        finally:
            pods.stopped = True
            removed(self._plane, peer)
        return {"title": peer.title, **found}

    def _start(self, peer: Peer, jobs: list[str], pods: Pods, usage: Usage) -> dict[str, Any]:
        began, cpu, created = time.time(), usage.cpu_s(), dict[str, float]()

        def create(name: str) -> None:
            body = peer.document(name, self._options.pods)
            self._custom.create_namespaced_custom_object(peer.group, peer.version, NAMESPACE, peer.plural, body)
            created[name] = time.time()

        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(create, jobs))
        self._until(lambda: [job for job in jobs if pods.complete_at(job) is None], f"{peer.title}: pods")
        waits = [max(0.0, (pods.complete_at(job) or math.inf) - created[job]) for job in jobs]
        time.sleep(5)  # what it writes of it
        seen = self._requests(began)
        return {
            "pods_p50_s": _short(quantile(waits, 0.5)),
            "pods_p99_s": _short(quantile(waits, 0.99)),
            "writes_start": round(sum(each.user in peer.users for each in seen if each.is_write) / len(jobs), 1),
            "cpu_start_ms": round(1000 * (usage.cpu_s() - cpu) / len(jobs)),
            "timeline_s": _timeline(seen, peer, began, list(created.values())),
        }

    def _again(self, peer: Peer, jobs: list[str], pods: Pods) -> dict[str, Any]:
        """Let one pod of some jobs fail, one job after the other."""
        began, waits = time.time(), list[float]()
        for job in jobs:
            old = frozenset(pods.running[job])
            selector = f"{peer.label}={job}"
            pod = self._cluster.items("Pod", NAMESPACE, selector)[0]
            status = {"containerStatuses": [self._failed(pod)], "phase": "Failed"}
            self._core.patch_namespaced_pod_status(pod["metadata"]["name"], NAMESPACE, {"status": status})
            failed = time.time()
            self._until(lambda: [job] if pods.complete_at(job, without=old) is None else [], f"{peer.title}: {job}")  # noqa: B023
            waits.append((pods.complete_at(job, without=old) or math.inf) - failed)
        time.sleep(2)
        return {
            "again_p50_s": _short(quantile(waits, 0.5)),
            "again_p99_s": _short(quantile(waits, 0.99)),
            "writes_again": round(
                sum(each.user in peer.users for each in self._requests(began) if each.is_write) / max(1, len(jobs)), 1
            ),
        }

    @staticmethod
    def _failed(pod: dict[str, Any]) -> dict[str, Any]:
        container = pod["spec"]["containers"][0]
        named = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "x",
            "ready": False,
            "restartCount": 0,
        }
        return {**named, "state": FAILED, "lastState": {}}

    def _delete(self, peer: Peer, jobs: list[str], pods: Pods) -> dict[str, Any]:
        began = time.time()

        def delete(name: str) -> None:
            self._custom.delete_namespaced_custom_object(
                peer.group, peer.version, NAMESPACE, peer.plural, name, propagation_policy="Background"
            )

        with ThreadPoolExecutor(STREAMS) as threads:
            list(threads.map(delete, jobs))
        self._until(lambda: list(pods.present), f"{peer.title}: deletion")
        left = lambda: self._cluster.items("Job", NAMESPACE, "")  # noqa: E731
        self._until(left, f"{peer.title}: Jobs")
        return {"deleted_s": _short(time.time() - began)}

    def _requests(self, since: float) -> list[Request]:
        """What the audit log holds since a time."""
        time.sleep(LOG_LATE_S)
        with self._plane.audit_log.open() as log:
            return [each for each in requests(log) if each.ended >= since]

    @staticmethod
    def _until(missing: Callable[[], list[Any]], what: str) -> None:
        deadline, told = time.monotonic() + TIMEOUT_S, 0.0
        while left := missing():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what}: {len(left)} still missing after {TIMEOUT_S:.0f} s")
            if time.monotonic() > told + 10:
                told = time.monotonic()
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}: {len(left)} to go\n")
            time.sleep(0.1)


def _timeline(seen: list[Request], peer: Peer, began: float, created: list[float]) -> dict[str, list[float]]:
    """When half of the objects, and nine tenths, had come how far, in seconds since the first was asked for."""
    running: dict[str, float] = {}
    for each in seen:
        if each.user == FAKES and each.what == "pods/status":
            running.setdefault(each.name, each.ended)
    times = {
        "asked for": created,
        "Job created": [
            each.ended for each in seen if each.user in peer.users and (each.verb, each.what) == ("create", "jobs")
        ],
        "pod created": [each.ended for each in seen if (each.verb, each.what) == ("create", "pods")],
        "pod bound": [each.ended for each in seen if each.what == "pods/binding"],
        "pod runs": list(running.values()),
    }
    return {name: [_short(quantile(found, share) - began) for share in (0.5, 0.9)] for name, found in times.items()}


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure, and the timeline of the last round."""
    numbers = {
        key: [each[key] for each in rounds] for key, value in rounds[0].items() if isinstance(value, int | float)
    }
    return {**rounds[-1], **{key: _short(statistics.median(values)) for key, values in numbers.items()}}


def _short(value: float) -> float:
    return value if not math.isfinite(value) else round(value, 2)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a table in Markdown, one column for each operator."""
    rows = ["| | " + " | ".join(each["title"] for each in figures.values()) + " |", "|---" * (len(figures) + 1) + "|"]
    for title, (first, second, unit) in ROWS.items():
        cells = []
        for each in figures.values():
            values = f"{each[first]}" + (f" / {each[second]}" if second else "")
            cells.append(f"{values} {unit}".strip())
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Run all operators and print the line."""
    parser = make_parser("peers", __doc__)
    parser.add_argument("--jobs", type=int, default=200, help="jobs of each operator (200)")
    parser.add_argument("--pods", type=int, default=10, help="pods of each job (10)")
    parser.add_argument("--failures", type=int, default=20, help="jobs of which one pod fails (20)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds, each of all operators; medians are printed (1)")
    parser.add_argument("--only", action="append", choices=NAMES, help="only this operator; may be repeated")
    parser.add_argument("--table", action="store_true", help="print the table after the line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started ends, too
    nodes = math.ceil(2 * options.pods * options.jobs / PODS_PER_NODE)
    with (
        tempfile.TemporaryDirectory(prefix="peers-") as folder,
        control_plane(Path(folder), programs(), nodes=nodes, containers=("train", "node")) as plane,
    ):
        install(plane)
        bench = Bench(plane, options)
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only or NAMES}
        for _ in range(options.rounds):
            for name, found in rounds.items():
                found.append(bench.measure(PEERS[name]))
                sys.stderr.write(f"{json.dumps(found[-1])}\n")
        figures = {name: _medians(found) for name, found in rounds.items()}
    line = {"benchmark": "peers", "cores": psutil.cpu_count(), "jobs": options.jobs, "pods": options.pods, **figures}
    sys.stdout.write(json.dumps(line) + "\n")
    if options.table:
        sys.stdout.write(table(figures) + "\n")


if __name__ == "__main__":
    main()
