"""The operator beside users who create anything, on a real API server.

`--objects 10000 --tenants 60 --per-second 100 --seconds 30`, seeds 1 and 2. Weak: later changes of others' runs wait 9
s (p99), ended runs up to 100 s. Left out: objects with the name of a run's Job, which block that run (`NameConflict`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil
from kubernetes import client, config

from benchmarks._arguments import make_parser
from benchmarks._figures import Request, delays_s, histogram_quantile, quantile, requests
from benchmarks._fuzzed_objects import Fuzzed, fuzzed_objects
from benchmarks._load import NAMESPACE, Loader, document, is_complete, names
from benchmarks._plane import LOADER, OPERATOR, Plane, control_plane, programs
from benchmarks._process import Controller, controller
from benchmarks.controller import install
from diht_k8s.api.run import Stage
from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION

FUZZED: Final = "fuzzed"
"""Namespace of most fuzzed objects."""
STREAMS: Final = 8
TENANT_PODS: Final = 2
SETTLE_S: Final = 60.0
LOG_LATE_S: Final = 1.0
END_TIMEOUT_S: Final = 900.0
MOST_WORST: Final = 5
TARGETS: Final = {"event_to_status_p99_s": 2.0, "writes_at_rest": 0, "tenants_not_complete": 0}
PARTS_OF_A_WAIT: Final = ("queue_wait", "reconcile", "reconcile_cpu")
"""Whether a slow status is the queue's, the API server's or our own computing; of all runs, the fuzzed ones too."""
_MERGE: Final = "application/merge-patch+json"

Figures = dict[str, Any]


class FuzzedLoad:
    """Creates fuzzed objects and counts the API server's answers."""

    def __init__(self, plane: Plane) -> None:
        self._settings = client.Configuration()
        config.load_kube_config(str(plane.kubeconfig("admin")), client_configuration=self._settings)
        self._settings.connection_pool_maxsize = STREAMS
        self._token = self._settings.get_api_key_with_prefix("BearerToken") or ""
        self._pool = client.ApiClient(self._settings).rest_client.pool_manager
        self._lock = threading.Lock()
        self.answers: Counter[str] = Counter()
        """kind, what was asked for and the code of the answer -> number."""

    def create(self, objects: Iterable[Fuzzed], *, per_second: float) -> None:
        """Create objects, set their statuses and delete some, at a steady pace."""
        began, pending = time.monotonic(), deque[Future[None]]()
        with ThreadPoolExecutor(STREAMS) as threads:
            for number, each in enumerate(objects):
                time.sleep(max(0.0, began + number / per_second - time.monotonic()))
                pending.append(threads.submit(self._one, each))
                while len(pending) > 4 * STREAMS:  # no faster than the API server answers
                    pending.popleft().result()
            for future in pending:
                future.result()

    def _one(self, each: Fuzzed) -> None:
        place = _path(each)
        if self._call("create", each.kind, "POST", place, each.document) >= 300:
            return
        mine = f"{place}/{each.name}"
        if each.status is not None:
            self._call("status", each.kind, "PATCH", f"{mine}/status", {"status": each.status})
        if each.deleted:
            self._call("delete", each.kind, "DELETE", mine, None)

    def _call(self, what: str, kind: str, verb: str, path: str, body: Any) -> int:
        form = _MERGE if verb == "PATCH" else "application/json"
        headers = {"Content-Type": form, "Authorization": self._token}
        text = None if body is None else json.dumps(body)
        code = self._pool.request(verb, self._settings.host + path, headers=headers, body=text).status
        with self._lock:
            self.answers[f"{kind} {what} {'accepted' if code < 300 else 'refused'}"] += 1
        return code


def _path(each: Fuzzed) -> str:
    if each.kind == "DihtRun":
        return f"/apis/{GROUP}/{VERSION}/namespaces/{each.namespace}/{PLURAL}"
    group = "/apis/batch/v1" if each.kind == "Job" else "/api/v1"
    return f"{group}/namespaces/{each.namespace}/{each.kind.lower()}s"


def measure(folder: Path, options: argparse.Namespace) -> Figures:
    """All figures."""
    containers = tuple(stage.value for stage in Stage)
    with control_plane(folder, programs(), nodes=5 + options.objects // 500, containers=containers) as plane:
        install(plane)
        plane.kubectl("create", "namespace", FUZZED)
        with controller(plane) as operator:
            operator.wait(operator.is_ready, "the controller")
            return _measure(plane, operator, options)


def _measure(plane: Plane, operator: Controller, options: argparse.Namespace) -> Figures:
    tenants, load, began = names("tenant", options.tenants), FuzzedLoad(plane), time.time()
    seconds = options.objects / options.per_second
    run = document("fuzz", TENANT_PODS)
    objects = fuzzed_objects(options.seed, options.objects, namespace=FUZZED, tenants=(NAMESPACE, tenants), run=run)
    with _meanwhile(lambda: _create_tenants(Loader(plane), tenants, seconds)):
        load.create(objects, per_second=options.per_second)
    loaded_s = time.time() - began
    _say(f"{options.objects} objects in {loaded_s:.0f} s")
    unfinished = _until_complete(plane, operator, tenants)
    _say(f"unfinished: {unfinished}")
    time.sleep(SETTLE_S)
    before, rest = operator.cpu_s(), time.time()
    time.sleep(options.seconds)
    time.sleep(LOG_LATE_S)
    log = list(_log(plane, began))
    created = [each for each in log if (each.user, each.verb, each.what) == (LOADER, "create", "dihtruns")]
    written = [
        each
        for each in log
        if (each.user, each.verb, each.what, each.code) == (OPERATOR, "patch", "dihtruns/status", 200)
    ]
    waits = delays_s(created, written)
    writes = [each for each in log if each.user == OPERATOR and each.is_write]
    at_rest = [each for each in writes if each.began >= rest and each.code < 300]
    refused = Counter(each.name for each in writes if each.began >= rest and each.code >= 300)
    metrics = operator.metrics()
    figures: Figures = {
        "objects": options.objects,
        "seed": options.seed,
        "tenants": len(tenants),
        "loaded_in_s": round(loaded_s, 1),
        "answers": dict(sorted(load.answers.items())),
        "event_to_status_p50_s": round(quantile(waits, 0.5), 3),
        "event_to_status_p99_s": round(quantile(waits, 0.99), 3),
        "event_to_status_most_s": round(max(waits), 3),
        **{
            f"{name}_p99_s": histogram_quantile({}, metrics, f"diht_operator_{name}_seconds", 0.99)
            for name in PARTS_OF_A_WAIT
        },
        "tenants_not_complete": len(unfinished),
        "skipped": int(metrics["diht_operator_skipped_objects_total"]),
        "errors": int(metrics.get("diht_operator_reconcile_errors_total", 0)),
        "writes": len(writes),
        "writes_at_rest": len(at_rest),
        "refused_at_rest": sum(refused.values()),
        "refused_at_rest_most_a_minute": round(60 * max(refused.values(), default=0) / options.seconds, 1),
        "most_writes_to_one_object": _most(writes),
        "at_rest": [f"{name} x {count}" for name, count in _counts(at_rest).most_common(MOST_WORST)],
        "cpu_percent_at_rest": round(100 * (operator.cpu_s() - before) / options.seconds, 1),
        "memory_peak_mib": round(operator.peak_mib),
    }
    figures["missed"] = [name for name, most in TARGETS.items() if not figures[name] <= most]
    return figures


@contextlib.contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(work)
        yield
        future.result()


def _create_tenants(loader: Loader, tenants: list[str], seconds: float) -> None:
    """One run after the other, spread over the time of the load."""
    began = time.monotonic()
    for number, name in enumerate(tenants):
        time.sleep(max(0.0, began + seconds * number / len(tenants) - time.monotonic()))
        loader.create([document(name, TENANT_PODS, ends=True)])


def _until_complete(plane: Plane, operator: Controller, tenants: list[str]) -> list[str]:
    """Wait for the tenants' runs; returns those that have not ended well in time."""
    loader, deadline = Loader(plane), time.monotonic() + END_TIMEOUT_S
    while True:
        statuses = loader.statuses()
        left = [name for name in tenants if not is_complete(statuses.get(name, {}))]
        if not left or time.monotonic() > deadline:
            return left
        operator.check()
        time.sleep(2.0)


def _log(plane: Plane, since: float) -> Iterator[Request]:
    with plane.audit_log.open() as lines:
        yield from (request for request in requests(lines) if request.ended >= since)


def _counts(writes: Iterable[Request]) -> Counter[str]:
    return Counter(f"{each.verb} {each.what} {each.name} {each.code}" for each in writes)


def _most(writes: Iterable[Request]) -> str:
    found = Counter(f"{each.verb} {each.what} {each.name}" for each in writes if each.what != "events")
    return " x ".join(map(str, found.most_common(1)[0])) if found else ""


def _say(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


def main() -> None:
    """Print the line."""
    parser = make_parser("fuzzed_objects", __doc__)
    parser.add_argument("--objects", type=int, default=10_000, help="fuzzed objects (10000)")
    parser.add_argument("--tenants", type=int, default=100, help="sound runs of others, meanwhile (100)")
    parser.add_argument("--per-second", type=float, default=50, help="fuzzed objects a second (50)")
    parser.add_argument("--seconds", type=float, default=60, help="length of the rest afterwards (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzed objects (0)")
    parser.add_argument("--folder", type=Path, help="keep logs and data of operator and control plane here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started ends, too
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzzed-")))
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, options)
    sys.stdout.write(json.dumps({"benchmark": "fuzzed_objects", "cores": psutil.cpu_count(), **figures}) + "\n")


if __name__ == "__main__":
    main()
