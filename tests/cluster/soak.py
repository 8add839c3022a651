"""Runs with random faults on the two-node cluster, for as long as it is told, and a score of what `diht status` says of
each.

`python -m tests.cluster.soak --minutes 60 --seed 1 [--json FILE]`, where a cluster can be started (see README.md). Two
runs at a time have a fault each; meanwhile the operator is killed, the API server goes away, answers 429, or its
watches stall. A run without a fault runs beside them from the beginning to the end and must not restart.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_proxy import ApiProxy
from tests.cluster.api_proxy import Fault as Refusal
from tests.cluster.operators import World, stages, why, world
from tests.cluster.soak_faults import FAULTS, Fault, Victim, restore
from tests.cluster.tools import CLUSTER, Kubectl, KubectlError, Parts, recipe_image, script, wait_until

AWAY = (
    "refused",
    "EOF",
    "reset by peer",
    "connect",
    "TLS handshake",
    "Unavailable",
    "timed out",
    "Timeout",
    "etcd",
    "429",
)
NO_ANSWER = "no answer from the API server"
PATIENCE_S = 90.0
WORKERS = 2
BYSTANDER = "bystander"


class PatientKubectl(Kubectl):
    """kubectl that tries again while the API server is away."""

    def __call__(self, *arguments: str, **options: Any) -> str:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return super().__call__(*arguments, **options)
            except (KubectlError, subprocess.TimeoutExpired) as error:
                if not any(word in str(error) for word in AWAY) or time.monotonic() > until:
                    raise
                time.sleep(2)


@dataclass(frozen=True)
class Result:
    """One fault and what `why` said."""

    fault: str
    run: str
    told: bool
    seconds: float
    why: str
    disturbances: tuple[str, ...]
    """what happened to operator and API server meanwhile"""


@dataclass
class Soak:
    """One soak."""

    place: World
    proxy: ApiProxy
    seed: int
    until: float
    """seconds, monotonic"""
    results: list[Result] = field(default_factory=list)
    disturbances: list[tuple[float, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    twins: set[str] = field(default_factory=set)
    parts: Any = field(default_factory=threading.Lock)
    """held by what stops parts of the cluster"""

    def over(self) -> bool:
        return time.monotonic() >= self.until

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]
        threads += [threading.Thread(target=self._disturb), threading.Thread(target=self._look_for_twins)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> None:
        choose = random.Random(f"{self.seed} worker {number}")
        count = 0
        while not self.over():
            count += 1
            [name] = choose.choices(list(FAULTS), [fault.weight for fault in FAULTS.values()])
            hit = FAULTS[name].stages
            stage = hit[0] if len(hit) == 1 or choose.random() < 0.6 else hit[1]
            self._try(f"run-{number}-{count}", name, stage)

    def _try(self, run: str, name: str, stage: str) -> None:
        fault, victim, began = FAULTS[name], Victim(self.place.runs, run, stage), time.monotonic()
        stops_parts = name == "node lost"
        if stops_parts:
            self.parts.acquire()
        try:
            text, told = self._one(victim, fault)
        except (Exception, pytest.fail.Exception) as error:  # a fault that had no effect in time counts as not told
            text, told = f"{type(error).__name__}: {error}", False
        finally:
            if stops_parts:
                restore()
                self.parts.release()
        meanwhile = tuple(what for at, what in self.disturbances if at >= began)
        result = Result(f"{name}, {stage}", run, told, round(time.monotonic() - began, 1), text, meanwhile)
        self.results.append(result)
        print(
            f"{'told    ' if told else 'NOT TOLD'} {result.fault:24} {result.seconds:6.1f} s {run} {list(meanwhile)}",
            flush=True,
        )
        if not told:
            print(f"    {text[:1500]}", flush=True)
        with self._noting():
            self.place.kubectl("delete", "dihtrun", run, "-n", self.place.namespace, "--wait=false")

    def _one(self, victim: Victim, fault: Fault) -> tuple[str, bool]:
        """Bring one fault about; returns what `why` says in the end, and whether it names it."""
        runs = victim.runs
        document = fault.document(runs, victim.name, victim.stage)
        runs.kubectl.create(document, runs.namespace)
        if fault.waits:
            wait_until(victim.runs_on, "the program", 120)
        found = fault.act(victim)
        wait_until(lambda: fault.shown(runs.status(victim.name)), "the status", fault.timeout_s)
        until = time.monotonic() + PATIENCE_S
        text, tries = "", 0
        while tries < 3 and time.monotonic() < until:  # its last line may be written a moment later
            text = why(runs, victim.name)
            if fault.is_told(text, found):
                return text, True
            tries += NO_ANSWER not in text
            time.sleep(3)
        return text, False

    def _disturb(self) -> None:
        choose = random.Random(f"{self.seed} disturbances")
        kinds: dict[str, Callable[[], None]] = {
            "operator killed": self._kill_operator,
            "API server away": self._kill_api_server,
            "watches stalled": self.proxy.stall_watches,
            "429": self._overload,
        }
        while not self.over():
            time.sleep(min(choose.uniform(30, 75), max(0.0, self.until - time.monotonic())))
            name = choose.choice(list(kinds))
            with self.parts, self._noting():
                self.disturbances.append((time.monotonic(), name))
                print(f"         {name}", flush=True)
                kinds[name]()
                wait_until(lambda: self.place.operator.get("/readyz")[0] == 200, "the operator", 90)

    def _kill_operator(self) -> None:
        self.place.operator.kill()
        self.place.operator.start()

    def _kill_api_server(self) -> None:
        Parts().kill("kube-apiserver")
        time.sleep(15)
        script("up")

    def _overload(self) -> None:
        self.proxy.fault = lambda request: Refusal(429, retry_after=3)
        time.sleep(15)
        self.proxy.fault = lambda request: None

    def _look_for_twins(self) -> None:
        while not self.over():
            time.sleep(5)
            with self._noting():
                attempts: dict[str, set[str]] = {}
                pods = self.place.kubectl.json("get", "pods", "-n", self.place.namespace, "-l", "diht.dev/run")["items"]
                for pod in pods:
                    labels, states = pod["metadata"]["labels"], pod["status"].get("containerStatuses", [])
                    ready = any(
                        c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])
                    )
                    if ready and any("running" in each["state"] for each in states):
                        attempts.setdefault(labels["diht.dev/run"], set()).add(labels["diht.dev/attempt"])
                self.twins |= {run for run, found in attempts.items() if len(found) > 1}

    def _noting(self) -> ExitStack:
        """An error here ends no thread; it is reported."""
        stack = ExitStack()

        def note(kind: Any, error: Any, trace: Any) -> bool:
            if error is not None:
                self.errors.append("".join(traceback.format_exception_only(error)).strip()[:300])
            return True

        stack.push(note)
        return stack

    def summary(self, minutes: float) -> dict[str, Any]:
        """All counts."""
        by_fault: dict[str, list[int]] = {}
        for result in self.results:
            counts = by_fault.setdefault(result.fault, [0, 0])
            counts[0] += result.told
            counts[1] += 1
        status = self.place.runs.status(BYSTANDER)
        return {
            "minutes": round(minutes, 1),
            "seed": self.seed,
            "faults": len(self.results),
            "told": sum(result.told for result in self.results),
            "disturbances": len(self.disturbances),
            "twins": sorted(self.twins),
            "bystander_restarts": sum(stage.get("restarts", 0) for stage in stages(status).values()),
            "by_fault": by_fault,
            "errors": self.errors,
            "results": [asdict(result) for result in self.results],
        }


def main() -> int:
    """Soak; returns 0 if each cause was told, nothing ran twice and the run without a fault did not restart."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="how long faults are begun (15)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults and their times (1)")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    ran_before = subprocess.run([CLUSTER_SCRIPTS / "up", "--check"]).returncode == 0
    script("up")
    kubectl = PatientKubectl(str(CLUSTER / "bin/kubectl"), CLUSTER / "kubeconfig")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = stack.enter_context(world(kubectl, recipe_image(), folder, start=False))
        proxy = stack.enter_context(ApiProxy(place.operator.kubeconfig, folder).serving())
        operator = replace(place.operator, kubeconfig=proxy.kubeconfig, options=("--no-lease", "--watch-timeout", "20"))
        stack.callback(operator.stop)
        place = replace(place, operator=operator.start())
        bystander = FAULTS["killed"].document(place.runs, BYSTANDER, "filter")
        kubectl.create(bystander, place.namespace)
        wait_until(lambda: place.runs.status(BYSTANDER).get("progress"), "the run without a fault", 300)
        began = time.monotonic()
        soak = Soak(place, proxy, options.seed, began + 60 * options.minutes)
        soak.run()
        found = soak.summary((time.monotonic() - began) / 60)
    if not ran_before:
        script("down")
    return report(found, options.json)


def report(found: dict[str, Any], file: Path | None) -> int:
    """Print the table and the counts; write the JSON."""
    print(f"\n{'fault':28}  told  of")
    for name, (told, count) in sorted(found["by_fault"].items()):
        print(f"{name:28}  {told:4}  {count:2}")
    if file is not None:
        file.write_text(json.dumps(found, indent=1))
    print(json.dumps({key: value for key, value in found.items() if key not in ("results", "by_fault")}))
    right = found["told"] == found["faults"] and not found["twins"] and not found["bystander_restarts"]
    return 0 if right else 1


CLUSTER_SCRIPTS = Path(__file__).parent

if __name__ == "__main__":
    sys.exit(main())
