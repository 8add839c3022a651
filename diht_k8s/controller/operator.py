"""The operator process: kopf's watch of runs, our watches of Jobs and pods, the queue, workers, lease and health.

It makes no decisions (see `reconcile` and `pipeline.plan`): it only connects the parts.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import kopf

from diht_k8s.api.redaction import literals, redacted_text
from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION
from diht_k8s.controller import metrics
from diht_k8s.controller.health import missed_change, stuck_watch
from diht_k8s.controller.informer import READ_S, WATCH_S, Informer
from diht_k8s.controller.lease import Lease
from diht_k8s.controller.queue import KeyedQueue
from diht_k8s.controller.reconcile import InternalError, Reconciler
from diht_k8s.controller.runs import Key, Runs, known_run
from diht_k8s.kube.client import Cluster, ClusterError, connect
from diht_k8s.kube.summaries import JobSummary, PodSummary, job_summary, pod_summary

logger = logging.getLogger(__name__)

RESYNC_S: Final = 600.0
GATHER_S: Final = 0.2
"""Changes of Jobs and pods are gathered for this time before their runs are queued."""
RESTART_S: Final = 5.0
COMPARE_S: Final = 60.0
"""How often the list of runs is compared with what kopf's watch has reported."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one operator runs."""

    namespace: str | None = None
    """the only namespace that it serves; None serves all."""
    workers: int = 8
    """runs reconciled at the same time."""
    address: str = ""
    """address of the pages below; empty for all."""
    port: int = 8080
    """port of /healthz, /readyz and /metrics; 0 serves none."""
    lease_namespace: str | None = None
    """namespace of the Lease; None takes part in no election and acts at once."""
    lease_name: str = "diht-operator"
    identity: str = f"{socket.gethostname()}-{os.getpid()}"
    """name in the Lease."""


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        api = connect()
        self._lease = (
            None
            if settings.lease_namespace is None
            else Lease(api, settings.lease_namespace, settings.lease_name, settings.identity)
        )
        self._cluster = Cluster(api, before_write=self._before_write)
        self._loop = asyncio.get_running_loop()
        self._queue: KeyedQueue[Key] = KeyedQueue(self._loop.time)
        self._runs = Runs()
        listing = functools.partial(self._cluster.listing, namespace=settings.namespace)
        self._jobs: Informer[JobSummary] = Informer("Job", listing("Job"), job_summary, self._changed)
        self._pods: Informer[PodSummary] = Informer("Pod", listing("Pod"), pod_summary, self._changed)
        self._reconciler = Reconciler(self._cluster, self._runs, self._jobs, self._pods, enqueue=self._enqueue)
        self._leads = asyncio.Event()
        self._missed: dict[Key, float] = {}
        self._lock, self._changed_keys = threading.Lock(), set[Key]()
        self._threads = ThreadPoolExecutor(settings.workers + 2, thread_name_prefix="worker")

    async def run(self) -> None:
        """Run until a signal ends it."""
        if self._settings.port:
            metrics.serve(self._settings.address, self._settings.port, self.unhealthy, self.unready, self.role)
        self._jobs.start()
        self._pods.start()
        self._stand_for_election()
        tasks = [asyncio.create_task(self._watch_runs()), asyncio.create_task(self._resync())]
        tasks += [asyncio.create_task(self._compare())]
        tasks += [asyncio.create_task(self._work()) for _ in range(self._settings.workers)]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await self._step_down()
        for task in done:
            task.result()

    async def _step_down(self) -> None:
        """Write nothing more; once no reconciliation is under way, the next replica may lead at once."""
        if self._lease is None:
            return
        self._lease.close()
        quiet = functools.partial(self._threads.shutdown, wait=True, cancel_futures=True)
        await self._loop.run_in_executor(None, quiet)
        await self._loop.run_in_executor(None, self._lease.release)

    def unhealthy(self) -> str:
        """Why only a restart helps; empty if healthy."""
        now = time.monotonic()
        alive_at = {"Jobs": self._jobs.alive_at, "pods": self._pods.alive_at}
        return stuck_watch(alive_at, now) or missed_change(dict(self._missed), now)

    def unready(self) -> str:
        """Why it cannot reconcile yet; empty if ready."""
        if not (self._jobs.synced.is_set() and self._pods.synced.is_set()):
            return "Jobs and pods are not listed yet"
        return ""

    def role(self) -> str:
        """Whether this replica leads or stands by, and for whom."""
        if self._leads.is_set():
            return "ok: acts"
        holder = self._lease.holder if self._lease is not None else ""
        return f"ok: stands by, {holder or 'nobody'} acts"

    def _changed(self, namespace: str, run: str) -> None:
        """Called from an informer's thread: changes within a moment (of ten pods, say) make one reconciliation."""
        with self._lock:
            first = not self._changed_keys
            self._changed_keys.add((namespace, run))
        if first:
            self._loop.call_soon_threadsafe(self._loop.call_later, GATHER_S, self._enqueue_changed)

    def _enqueue_changed(self) -> None:
        with self._lock:
            keys, self._changed_keys = self._changed_keys, set()
        for key in keys:
            self._queue.add(key)

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._loop.call_soon_threadsafe(self._queue.add, key)

    def _stand_for_election(self) -> None:
        if self._lease is None:
            self._lead()
            return

        def lost() -> None:
            logger.error("the lease is lost: this replica stops")
            os._exit(1)  # at once: another may lead already

        def won() -> None:
            self._loop.call_soon_threadsafe(self._lead)

        self._lease.stand(won, lost)

    def _before_write(self, call: str) -> None:
        if self._lease is not None and not self._lease.held():
            raise ClusterError(0, "NotLeading", "the lease is not held any more: nothing is written")
        metrics.WRITES.labels(call).inc()

    def _lead(self) -> None:
        metrics.LEADER.set(1)
        self._leads.set()
        logger.info("this replica acts")

    async def _watch_runs(self) -> None:
        """Run kopf until a signal ends it; restart it after an error (an API server that is away for long)."""
        while True:
            try:
                return await self._run_kopf()
            except Exception:  # whatever it is, runs are still reconciled: their list is compared all the time
                logger.exception("the watch of runs broke off, starting again in %.0f s", RESTART_S)
            await asyncio.sleep(RESTART_S)

    async def _run_kopf(self) -> None:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(kopf.login_via_client)  # type: ignore[arg-type]
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._on_run)
        await kopf.operator(
            registry=registry,
            settings=kopf_settings(),
            standalone=True,
            clusterwide=self._settings.namespace is None,
            namespaces=[self._settings.namespace] if self._settings.namespace is not None else [],
        )

    async def _on_run(self, event: Any, **_: Any) -> None:
        run = known_run(event["object"])
        if event["type"] == "DELETED":
            self._forget(run.key, run.uid)
        elif self._runs.put(run):
            self._queue.add(run.key)
        self._missed.pop(run.key, None)

    def _forget(self, key: Key, uid: str) -> None:
        gone = self._runs.remove(key, uid)
        if gone is not None:
            self._queue.add(key)
            self._enqueue([other.key for other in self._runs.sharing_output(gone)])

    async def _work(self) -> None:
        await self._leads.wait()
        for informer in (self._jobs, self._pods):
            await self._loop.run_in_executor(None, informer.synced.wait)
        while True:
            key, since = await self._queue.get()
            metrics.WAIT.observe(self._loop.time() - since)
            metrics.DEPTH.set(len(self._queue))
            await self._reconcile_key(key)

    async def _reconcile_key(self, key: Key) -> None:
        failed, wait_s, started = False, None, time.monotonic()
        try:
            wait_s = await self._loop.run_in_executor(self._threads, self._reconcile, key)
        except ClusterError as error:
            failed = True
            metrics.ERRORS.labels(error.reason or "Unreachable").inc()
            log = logger.info if error.is_conflict else logger.warning
            known = self._runs.get(key)
            text = redacted_text(str(error), literals(known.document) if known is not None else ())
            log("%s/%s: %s %s", *key, error.status, text, extra={"run": key[1], "namespace": key[0]})
        except InternalError:  # logged and in the run's status; it comes back with a growing wait
            failed = True
            metrics.ERRORS.labels("InternalError").inc()
        except Exception:  # one run must not take the others down
            failed = True
            metrics.ERRORS.labels("InternalError").inc()
            logger.exception("%s/%s: unexpected error", *key, extra={"run": key[1], "namespace": key[0]})
        took_s = time.monotonic() - started
        logger.debug("reconciled %s/%s in %.3f s, again in %s s", *key, took_s, wait_s)
        metrics.RECONCILE.observe(took_s)
        metrics.RUNS.set(len(self._runs))
        metrics.ACTIVE.set(self._reconciler.active_runs)
        self._queue.done(key, failed=failed)
        if wait_s is not None:
            self._queue.add_after(key, wait_s)

    def _reconcile(self, key: Key) -> float | None:
        """One reconciliation, in a worker's thread."""
        began = time.thread_time()
        try:
            return self._reconciler.reconcile(key)
        finally:
            metrics.RECONCILE_CPU.observe(time.thread_time() - began)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_S)
            for key in self._runs.keys():  # noqa: SIM118 (no mapping)
                self._queue.add(key)

    async def _compare(self) -> None:
        """Compare the list of runs with what kopf's watch has reported: it can die without an error."""
        while True:
            await asyncio.sleep(COMPARE_S)
            await self._compare_once()

    async def _compare_once(self) -> None:
        before = set(self._runs.keys())
        try:
            listed = await self._loop.run_in_executor(self._threads, self._listed)
        except ClusterError as error:
            logger.warning("cannot list the runs: %s", error)
            return
        for key in before - listed.keys():
            self._forget(key, self._uid(key))
        for key, version in listed.items():
            await self._check(key, version)

    def _listed(self) -> dict[Key, int]:
        found = self._cluster.runs_metadata(self._settings.namespace)
        return {(each["namespace"], each["name"]): int(each["resourceVersion"]) for each in found}

    def _uid(self, key: Key) -> str:
        known = self._runs.get(key)
        return known.uid if known is not None else ""

    async def _check(self, key: Key, version: int) -> None:
        """Read a change that the watch has missed, and record it as a sign that the watch is dead."""
        known = self._runs.get(key)
        if known is not None and int(known.version) >= version:
            return
        self._missed.setdefault(key, time.monotonic())
        try:
            document = await self._loop.run_in_executor(self._threads, self._cluster.get_run, *key)
        except ClusterError as error:
            logger.warning("cannot read %s/%s: %s", *key, error)
            return
        if self._runs.put(known_run(document)):
            self._queue.add(key)


def kopf_settings() -> kopf.OperatorSettings:
    """Settings for kopf as a watch only: it writes nothing, and its connections end before they can go stale."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_S
    settings.watching.client_timeout = READ_S
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    return settings
