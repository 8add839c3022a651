"""The operator at scale: the real program and API server, fake nodes and pods (kwok).

All runs are created at once; the operator restarts; runs log progress, then nothing new; specs are edited; some runs go
through all stages.

Kubernetes 1.37.2, all on two cores; the restart was measured later (`--seconds 5 --ending 1 --edits 1`),
finished runs with `--pods 2 --seconds 10 --ending 1`. Weak: half of 1,000 runs created at once get their first status
after 79 s. Not measured: 10,000 pods beside finished runs, 100,000 finished runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from benchmarks._arguments import make_parser
from benchmarks._figures import Request, delays_s, histogram_quantile, quantile, requests, run_of, writes_per_stage
from benchmarks._load import ENTRIES, HISTORY, Loader, all_pods_ready, document, is_complete, names, say_progress
from benchmarks._plane import LOADER, OPERATOR, PODS_PER_NODE, Plane, control_plane, programs
from benchmarks._process import Controller, controller
from diht_k8s.api.run import Stage

LOOK_EVERY_S: Final = 5.0
SPEAK_EVERY_S: Final = 10.0
EDIT_EVERY_S: Final = 0.5
SETTLE_S: Final = 10.0
LOG_LATE_S: Final = 1.0
"""The audit log tells of a request after its answer."""
BURST_TIMEOUT_S: Final = 1200.0
MS: Final = 1000
TARGETS: Final = {
    "reconcile_cpu_p50_ms": 10,
    "reconcile_cpu_p99_ms": 100,
    "change_to_action_p99_s": 1,
    "memory_peak_mib": 250,
    "restart_s": 5,
    "writes_per_stage": 10,
    "idle_writes": 0,
}
"""At most so much, with 1,000 active runs and 10,000 pods."""
WITH_HISTORY: Final = {"memory_peak_mib": 300, "restart_s": 20}
"""The same with 20,000 finished runs beside them."""

Figures = dict[str, Any]


class Bench:
    """The phases, in the order in which `main` calls them."""

    def __init__(self, plane: Plane, options: argparse.Namespace) -> None:
        self._plane, self._options, self._loader = plane, options, Loader(plane)
        self._done = 0
        self.figures: Figures = {"runs": options.runs, "pods": options.runs * options.pods}

    def history(self) -> None:
        """Put finished runs there, as one that went through all stages has left its document and status."""
        with controller(self._plane) as operator:
            operator.wait(operator.is_ready, "the controller")
            [name] = names("history", 1)
            self._loader.create([document(name, self._options.pods, ends=True)])
            self._until_all(operator, is_complete, 1)
            status = self._loader.statuses()[name]
            self._loader.delete(name)
        began, count = time.time(), self._options.finished
        self._plane.kubectl("create", "namespace", HISTORY)
        self._loader.create_finished((document(each, 1) for each in names("history", count)), status)
        self.figures["history"] = {
            "finished": count,
            "status_bytes": len(json.dumps(status, separators=(",", ":"))),
            "created_in_s": round(time.time() - began),
        }
        self._say(f"{self.figures['history']}")

    def start(self, operator: Controller) -> None:
        """The program with nothing to do."""
        operator.wait(operator.is_ready, "the controller")
        time.sleep(SETTLE_S)  # its watch of runs starts a moment after the lists
        self.figures["memory_without_runs_mib"] = round(operator.memory_mib())

    def burst(self, operator: Controller) -> None:
        """Create all runs at once; until each has a status."""
        before, cpu, began = operator.metrics(), operator.cpu_s(), time.time()
        runs = names("run", self._options.runs)
        self._say("creating runs")
        self._loader.create(document(name, self._options.pods, gang=index % 2 == 1) for index, name in enumerate(runs))
        created_s = time.time() - began
        self._until_all(operator, bool, len(runs))
        log = self._log(began)
        waits = delays_s(_made(log, LOADER, "create", "dihtruns"), _made(log, OPERATOR, "patch", "dihtruns/status"))
        self.figures["burst"] = {
            "created_in_s": round(created_s, 1),
            "event_to_status_p50_s": _short(quantile(waits, 0.5)),
            "event_to_status_p99_s": _short(quantile(waits, 0.99)),
            **self._work(operator, before, cpu, began),
        }

    def fill(self, operator: Controller) -> None:
        """Until all pods are ready, and the status says so."""
        before, cpu, began = operator.metrics(), operator.cpu_s(), time.time()
        self._until_all(operator, all_pods_ready, self._options.runs)
        self.figures["fill"] = self._work(operator, before, cpu, began)

    def speaking(self, operator: Controller) -> None:
        """All runs make progress."""
        before, cpu, began = operator.metrics(), operator.cpu_s(), time.time()
        while time.time() < began + self._options.seconds:
            self._speak()
            time.sleep(min(SPEAK_EVERY_S, self._options.seconds))
        self.figures["speaking"] = self._work(operator, before, cpu, began)

    def idle(self, operator: Controller) -> None:
        """Nothing new happens: after everything said has been read, nothing may be written."""
        time.sleep(max(SETTLE_S, 0.05 * self._options.runs) + SETTLE_S)
        before, cpu, began = operator.metrics(), operator.cpu_s(), time.time()
        time.sleep(self._options.seconds)
        writes = [request for request in self._log(began) if request.user == OPERATOR and request.is_write]
        self.figures["idle"] = {**self._work(operator, before, cpu, began), "writes": len(writes)}

    def edits(self, operator: Controller) -> None:
        """Suspend runs one after the other, then resume them.

        Taken from the answer to the user: to the first call, which says it in the status, and to the one that deletes
        or makes the Job.
        """
        before, cpu, began = operator.metrics(), operator.cpu_s(), time.time()
        chosen = names("run", self._options.runs)[: self._options.edits]
        self._loader.edit(chosen, {"suspend": True}, each_s=EDIT_EVERY_S)
        time.sleep(SETTLE_S)
        resumed = time.time()
        self._loader.edit(chosen, {"suspend": False}, each_s=EDIT_EVERY_S)
        self._until_all(operator, all_pods_ready, self._options.runs)
        log = self._log(began)
        edits = _made(log, LOADER, "patch", "dihtruns")
        waits = delays_s([edit for edit in edits if edit.ended < resumed], _made(log, OPERATOR, "delete", "jobs"))
        waits += delays_s([edit for edit in edits if edit.ended >= resumed], _made(log, OPERATOR, "create", "jobs"))
        first = delays_s(edits, _made(log, OPERATOR, "patch", "dihtruns/status"))
        self.figures["edits"] = {
            "edits": len(waits),
            "change_to_action_p50_s": _short(quantile(first, 0.5)),
            "change_to_action_p99_s": _short(quantile(first, 0.99)),
            "change_to_job_p50_s": _short(quantile(waits, 0.5)),
            "change_to_job_p99_s": _short(quantile(waits, 0.99)),
            **self._work(operator, before, cpu, began),
        }

    def warm(self) -> None:
        """Read all runs once: an API server that has just started decodes each of them for its cache (3 ms of CPU
        time).
        """
        began = time.time()
        self._plane.kubectl("get", "dihtruns", "--all-namespaces", "--output", "name")
        self._say(f"read all runs in {time.time() - began:.0f} s")

    def restart(self, operator: Controller) -> None:
        """Until a new process has listed everything and has reconciled every run."""
        runs, began = self._options.runs, time.time()
        operator.wait(operator.is_ready, "the lists")
        ready_s = operator.since_start_s()
        operator.wait(lambda: operator.has_reconciled(runs, self._options.finished), "a reconciliation of each run")
        writes = [request for request in self._log(began) if request.user == OPERATOR and request.is_write]
        self.figures["restart"] = {
            "listed_after_s": round(ready_s, 2),
            "all_reconciled_after_s": round(operator.since_start_s(), 2),
            "cpu_s": round(operator.cpu_s(), 2),
            "memory_mib": round(operator.memory_mib()),
            "writes": len(writes),
        }

    def ending(self, operator: Controller) -> None:
        """Some runs go through all stages."""
        began, runs = time.time(), names("ending", self._options.ending)
        self._loader.create(document(name, self._options.pods, ends=True) for name in runs)
        self._until_all(operator, is_complete, len(runs))
        mine = [each for each in self._log(began) if each.user == OPERATOR and run_of(each.name) in runs]
        self.figures["ending"] = {
            "stages": ENTRIES * len(runs),
            "all_complete_after_s": round(time.time() - began, 1),
            **writes_per_stage(mine, ENTRIES * len(runs)),
        }

    def finish(self, peak_mib: float) -> None:
        """Compare the figures with the targets."""
        figures = self.figures
        quiet = figures["speaking"]
        figures["targets"] = {
            "reconcile_cpu_p50_ms": quiet["reconcile_cpu_p50_ms"],
            "reconcile_cpu_p99_ms": quiet["reconcile_cpu_p99_ms"],
            "change_to_action_p99_s": figures["edits"]["change_to_action_p99_s"],
            "memory_peak_mib": round(peak_mib),
            "restart_s": figures["restart"]["all_reconciled_after_s"],
            "writes_per_stage": figures["ending"]["writes_per_stage"],
            "idle_writes": figures["idle"]["writes"],
        }
        targets = {**TARGETS, **(WITH_HISTORY if self._options.finished else {})}
        figures["missed"] = [name for name, most in targets.items() if not figures["targets"][name] <= most]

    def _work(self, operator: Controller, before: dict[str, float], cpu: float, began: float) -> Figures:
        """What the controller did since then, and its cost."""
        after, seconds = operator.metrics(), time.time() - began
        count = after["diht_operator_reconcile_seconds_count"] - before.get("diht_operator_reconcile_seconds_count", 0)
        used = operator.cpu_s() - cpu
        writes = after.get("diht_operator_api_writes_total", 0) - before.get("diht_operator_api_writes_total", 0)
        found = {
            "seconds": round(seconds, 1),
            "reconciliations": int(count),
            "writes": int(writes),
            "cpu_s": round(used, 1),
            "cpu_percent_of_a_core": round(100 * used / seconds),
            "machine_percent": round(psutil.cpu_percent()),
            "memory_mib": round(operator.memory_mib()),
        }
        for name in ("reconcile", "reconcile_cpu"):
            for share, word in ((0.5, "p50"), (0.99, "p99")):
                value = histogram_quantile(before, after, f"diht_operator_{name}_seconds", share)
                found[f"{name}_{word}_ms"] = _short(MS * value)
        self._say(f"{found}")
        return found

    def _until_all(self, operator: Controller, wanted: Any, count: int) -> None:
        """Until `count` runs have a status as wanted."""

        def reached() -> bool:
            found = sum(map(wanted, self._loader.statuses().values()))
            self._say(f"{found} of {count}")
            if found < count:
                time.sleep(min(LOOK_EVERY_S, count / 50))
            return found >= count

        operator.wait(reached, "the runs", BURST_TIMEOUT_S)

    def _speak(self) -> None:
        self._done += 1000
        say_progress(self._plane.log_file, self._done)

    def _log(self, since: float) -> list[Request]:
        time.sleep(LOG_LATE_S)
        with self._plane.audit_log.open() as lines:
            return [request for request in requests(lines) if request.ended >= since]

    def _say(self, what: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


def _made(log: list[Request], user: str, verb: str, what: str) -> list[Request]:
    return [each for each in log if (each.user, each.verb, each.what) == (user, verb, what) and 200 <= each.code < 300]


def _short(value: float) -> float:
    return value if math.isnan(value) or math.isinf(value) else round(value, 3 if value < 1 else 2)


def main() -> None:
    """Run all phases and print the line."""
    parser = make_parser("controller", __doc__)
    parser.add_argument("--runs", type=int, default=1000, help="active runs (1000)")
    parser.add_argument("--finished", type=int, default=0, help="runs that have ended before (0)")
    parser.add_argument("--pods", type=int, default=10, help="pods of each (10)")
    parser.add_argument("--edits", type=int, default=50, help="runs that are suspended and resumed (50)")
    parser.add_argument("--ending", type=int, default=10, help="runs that go through all stages (10)")
    parser.add_argument("--seconds", type=float, default=60, help="length of the phases with nothing but time (60)")
    parser.add_argument(
        "--save",
        type=Path,
        help="only create the runs, and keep the cluster's data in this folder; with --load until all pods run",
    )
    parser.add_argument("--load", type=Path, help="resume from data that --save has kept; the folder stays as it is")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started ends, too
    with contextlib.ExitStack() as stack:
        folder = options.save or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="controller-")))
        if options.load:
            _copy(options.load, folder)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, options)
    sys.stdout.write(json.dumps({"benchmark": "controller", "cores": psutil.cpu_count(), **figures}) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> Figures:
    """All figures."""
    nodes = math.ceil(2 * options.pods * (options.runs + options.ending) / PODS_PER_NODE)
    containers = tuple(stage.value for stage in Stage)
    with control_plane(folder, programs(), nodes=nodes, containers=containers) as plane:
        install(plane)
        bench, peaks_mib = Bench(plane, options), []
        if options.finished and not options.load:
            bench.history()
        if options.save or not options.load:
            with controller(plane) as process:
                for phase in (bench.fill,) if options.load else (bench.start, bench.burst, bench.fill):
                    phase(process)
                peaks_mib.append(process.peak_mib)
        if not options.save:
            if options.load:
                bench.warm()
            with controller(plane) as process:
                for phase in (bench.restart, bench.speaking, bench.idle, bench.edits, bench.ending):
                    phase(process)
                peaks_mib.append(process.peak_mib)
            bench.finish(max(peaks_mib))
        return bench.figures


def _copy(saved: Path, folder: Path) -> None:
    """What makes the cluster of one folder come up again in another."""
    for name in ("ports.json", "tls.crt", "tls.key"):
        shutil.copy(saved / name, folder / name)
    shutil.copytree(saved / "etcd", folder / "etcd")


def install(plane: Plane) -> None:
    """The CRD and the operator's rights as the manifests have them, for a user in place of the service account."""
    root = Path(__file__).resolve().parent.parent / "manifests"
    plane.kubectl("apply", "--server-side", "-f", str(root / "crd" / "diht.dev_dihtruns.yaml"))
    role = next(
        each for each in yaml.safe_load_all((root / "base" / "rbac.yaml").read_text()) if each["kind"] == "ClusterRole"
    )
    plane.kubectl("apply", "-f", "-", text=yaml.safe_dump(role))
    binding = ["clusterrolebinding", "under-test", "--clusterrole", "diht-operator", "--user", OPERATOR]
    plane.kubectl("apply", "-f", "-", text=plane.kubectl("create", *binding, "--dry-run=client", "-o", "yaml"))
    plane.kubectl("wait", "--for=condition=Established", "crd/dihtruns.diht.dev", "--timeout=30s")


if __name__ == "__main__":
    main()
