"""The operator process: the watches of runs, Jobs and pods, the queue, workers, lease and health.

It makes no decisions (see `reconcile` and `pipeline.plan`): it only connects the parts.

Only a watch that has died without an error fails /healthz. An API server that does not answer does not: the watches see
the errors and try again, and a restart would not bring the server back.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from diht_k8s.api.redaction import literals, redacted_text
from diht_k8s.controller import metrics
from diht_k8s.controller.cache.informer import Informer, PodGroups, WorkloadInformer
from diht_k8s.controller.cache.runs import Key, RunStore, RunWatch
from diht_k8s.controller.cache.watch import WATCH_S, Watch
from diht_k8s.controller.lease import Lease
from diht_k8s.controller.node_health.faults import NodeWatch, WatchedFault
from diht_k8s.controller.observe import is_starting
from diht_k8s.controller.reconcile import InternalError, Reconciler
from diht_k8s.controller.work_queue import PriorityLevel, WorkQueue
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import connect
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.job_summary import JobSummary, job_summary
from diht_k8s.kube.pod_summary import PodSummary, pod_summary
from diht_k8s.kube.workload_summary import workload_summary

logger = logging.getLogger(__name__)

STALE_S: Final = 220.0
"""A watch ends by itself each minute, and its errors count as signs of life: after this time its thread is stuck."""
IDLE_S: Final = 10.0
"""A connection to the probes' port that sends nothing is closed after this time."""
Check = Callable[[], str]
"""What is wrong; empty when nothing is."""


class _Server(ThreadingWSGIServer):
    """Answers each connection from a thread of its own: one that sends nothing delays no probe."""

    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No traceback for a client that went away or sent nothing."""
        logger.debug("a request of %s failed", client_address, exc_info=True)


class _Quiet(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each probe."""


def serve(address: str, port: int, healthy: Check, ready: Check, role: Callable[[], str] = lambda: "") -> WSGIServer:
    """Serve /healthz, /readyz and /metrics from threads; `role` says what a healthy replica does."""
    metrics = make_wsgi_app()
    checks = {"/healthz": healthy, "/readyz": ready}

    def application(environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, respond)
        if path not in checks:
            respond("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /healthz, /readyz, /metrics\n"]
        problem = checks[path]()
        respond("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
        return [f"{problem or role() or 'ok'}\n".encode()]

    server = make_server(address, port, application, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


def stuck_watch(alive_at: Mapping[str, float], now: float) -> str:
    """Which of our watches is stuck.

    Args:
        alive_at: kind -> when its thread last got somewhere, seconds, monotonic.
        now: seconds on the same clock.

    Returns:
        One line; empty if none is stuck.
    """
    silent = {kind: now - at for kind, at in alive_at.items() if now > at + STALE_S}
    return next((f"the watch of {kind} has been silent for {since:.0f} s" for kind, since in silent.items()), "")


RESYNC_S: Final = 600.0
GATHER_S: Final = 0.2
"""Changes of Jobs and pods are gathered for this time before their runs are queued."""
STARTING_S: Final = 2.0
"""And for this time while an attempt's pods start one after the other, until all of them run or something goes wrong.
"""
FAILING_AFTER: Final = 5
"""Failed reconciliations in a row, over 15 s at least, that make a run one to tell an administrator of."""
STOPS_WITHIN_S: Final = 1.0
"""How soon a replica that stands by notices that it is to stop."""
SWEEP_S: Final = 10.0
"""How often finished runs are looked through for those that are to be deleted."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one operator runs."""

    namespace: str | None = None
    """the only namespace that it serves; None serves all."""
    workers: int = 2
    """runs reconciled at the same time. More would hand the Job controller and the scheduler the pods of more gangs at
    once, so that all gangs are complete late: with eight, the median of 60 took twice as long, and the last no less.
    """
    address: str = ""
    """address of the pages below; empty for all."""
    port: int = 8080
    """port of /healthz, /readyz and /metrics; 0 serves none."""
    lease_namespace: str | None = None
    """namespace of the Lease; None takes part in no election and acts at once."""
    lease_name: str = "diht-operator"
    job_ttl_s: int | None = None
    """seconds after which Kubernetes removes a finished Job with its pods; None keeps them."""
    run_ttl_s: float | None = None
    """seconds for which a finished run without ttlSecondsAfterFinished stays; None for ever."""
    watch_s: int = WATCH_S
    """seconds after which a watch is renewed; one that stays silent for a fifth longer is given up."""
    history_limit: int | None = None
    """finished runs that a namespace keeps; None keeps all."""
    kueue: bool = True
    """whether stages may have Workloads of Kueue of their own."""
    node_faults: tuple[WatchedFault, ...] = ()
    """faults of nodes that gangs move away from; none: no node is watched."""
    pod_groups: bool = True
    """whether Kubernetes itself may schedule gangs, where the cluster serves PodGroups."""
    identity: str = f"{socket.gethostname()}-{os.getpid()}"
    """name in the Lease."""


class Operator:
    """One operator process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = (
            None
            if settings.lease_namespace is None
            # a connection of its own: it must not inherit one that has died under another call, for it has 10 s in all
            else Lease(connect(wait=False), settings.lease_namespace, settings.lease_name, settings.identity)
        )
        self._cluster = Cluster(connect(wait=False), before_write=self._before_write)
        self._queue: WorkQueue[Key] = WorkQueue(_namespace, self._level)
        self._runs = RunStore(ttl_s=settings.run_ttl_s, history_limit=settings.history_limit)
        listing, every = functools.partial(self._cluster.listing, namespace=settings.namespace), settings.watch_s
        self._jobs: Informer[JobSummary] = Informer("Job", listing("Job"), job_summary, self._changed, every)
        self._pods: Informer[PodSummary] = Informer("Pod", listing("Pod"), pod_summary, self._changed, every)
        workloads = WorkloadInformer("Workload", listing("Workload"), workload_summary, self._changed, every)
        workloads.absent = "" if settings.kueue else "it was started with --kueue=never"
        faults = settings.node_faults
        nodes = NodeWatch(listing("Node"), faults, self._node_changed, every) if faults else None
        self._watches: tuple[Watch, ...] = (
            RunWatch(listing("DihtRun"), self._runs, self._queue.add, every),
            self._jobs,
            self._pods,
            *([workloads] if settings.kueue else ()),
            *([nodes] if nodes is not None else ()),
        )
        self._reconciler = Reconciler(
            self._cluster,
            self._runs,
            self._jobs,
            self._pods,
            workloads,
            pod_groups=PodGroups(self._cluster, allowed=settings.pod_groups),
            nodes=nodes,
            job_ttl_s=settings.job_ttl_s,
        )
        metrics.DEPTH.set_function(lambda: len(self._queue))
        metrics.FAILING.set_function(lambda: self._queue.failing(FAILING_AFTER))
        self._leads, self._stopped = threading.Event(), threading.Event()
        self._quiet_until = time.monotonic()
        """the API server wants to be left alone until then."""
        self._lock, self._changed_keys, self._any_changed = threading.Lock(), set[Key](), threading.Event()
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        """what ended a thread, or None for a signal; a handler may put here, where an Event's lock could be its own
        thread's.
        """

    def run(self) -> None:
        """Run until a signal ends it; to be called from the main thread.

        Raises:
            BaseException: what ended one of its threads.
        """
        if self._settings.port:
            serve(self._settings.address, self._settings.port, self.unhealthy, self.unready, self.role)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.put(None))
        for watch in self._watches:
            watch.start()
        self._stand_for_election()
        self._thread("gather", self._gather).start()
        self._thread("sweep", self._sweep).start()
        workers = [self._thread(f"worker-{number}", self._work) for number in range(self._settings.workers)]
        for worker in workers:
            worker.start()
        error = self._ended.get()
        self._stopped.set()
        self._step_down(workers)
        if error is not None:
            raise error

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        """A thread whose unexpected end ends the process."""

        def run() -> None:
            try:
                target()
            except BaseException as error:
                self._ended.put(error)

        return threading.Thread(target=run, name=name, daemon=True)

    def _step_down(self, workers: Iterable[threading.Thread]) -> None:
        """Write nothing more; once no reconciliation is under way, the next replica may lead at once."""
        if self._lease is not None:
            self._lease.close()
        self._queue.close()
        for worker in workers:
            worker.join()
        if self._lease is not None:
            self._lease.release()

    def unhealthy(self) -> str:
        """Why only a restart helps; empty if healthy."""
        return stuck_watch({f"{watch.kind}s": watch.alive_at for watch in self._watches}, time.monotonic())

    def unready(self) -> str:
        """Why it cannot reconcile yet; empty if ready."""
        return "; ".join(filter(None, (watch.unready() for watch in self._watches)))

    def role(self) -> str:
        """Whether this replica leads or stands by, and for whom."""
        if self._leads.is_set():
            return "ok: acts"
        holder = self._lease.holder if self._lease is not None else ""
        return f"ok: stands by, {holder or 'nobody'} acts"

    def _changed(self, namespace: str, run: str) -> None:
        """Called from an informer's thread: changes within a moment (of ten pods, say) make one reconciliation."""
        with self._lock:
            self._changed_keys.add((namespace, run))
        self._any_changed.set()

    def _node_changed(self, node: str) -> None:
        """Called from the watch of nodes: gangs may have to move."""
        self._enqueue(self._reconciler.node_changed(node))

    def _gather(self) -> None:
        while True:
            self._any_changed.wait()
            time.sleep(GATHER_S)
            self._enqueue_changed()

    def _enqueue_changed(self) -> None:
        self._any_changed.clear()
        with self._lock:
            keys, self._changed_keys = self._changed_keys, set()
        for key in keys:
            if is_starting(self._jobs.of(*key), self._pods.of(*key)):
                self._queue.add_after(key, STARTING_S)
            else:
                self._queue.add(key)

    def _enqueue(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key)

    def _level(self, key: Key) -> PriorityLevel:
        """A run that has ended, or is not listed yet, needs us least; one without any status needs us most."""
        cached = self._runs.get(key)
        if cached is None:
            return PriorityLevel.ENDED
        return PriorityLevel.CHANGED if cached.document["status"] else PriorityLevel.NEW

    def _stand_for_election(self) -> None:
        if self._lease is None:
            self._lead()
            return

        def lost() -> None:
            logger.error("the lease is lost: this replica stops")
            os._exit(1)  # at once: another may lead already

        self._lease.stand(self._lead, lost)

    def _before_write(self, call: str) -> None:
        if self._lease is not None and not self._lease.held():
            raise ClusterError(0, "NotLeading", "the lease is not held any more: nothing is written")
        metrics.WRITES.labels(call).inc()

    def _lead(self) -> None:
        metrics.LEADER.set(1)
        self._leads.set()
        logger.info("this replica acts")

    def _work(self) -> None:
        for event in (self._leads, *(watch.synced for watch in self._watches)):
            while not event.wait(STOPS_WITHIN_S):
                if self._stopped.is_set():
                    return
        while (taken := self._queue.get()) is not None:
            key, since = taken
            self._keep_quiet()
            if self._stopped.is_set():
                return
            metrics.WAIT.observe(time.monotonic() - since)
            self._reconcile_key(key)

    def _keep_quiet(self) -> None:
        """Wait as long as the API server asked; not all workers come back at once."""
        if (quiet_s := self._quiet_until - time.monotonic()) > 0:
            self._stopped.wait(quiet_s + random.random())

    def _reconcile_key(self, key: Key) -> None:
        failed, wait_s, started, began = False, None, time.monotonic(), time.thread_time()
        try:
            wait_s = self._reconciler.reconcile(key)
        except ClusterError as error:
            failed = True
            self._quiet_until = max(self._quiet_until, time.monotonic() + error.retry_after_s)
            metrics.ERRORS.labels(error.reason or "Unreachable").inc()
            log = logger.info if error.is_conflict else logger.warning
            cached = self._runs.get(key)
            text = redacted_text(str(error), literals(cached.document) if cached is not None else ())
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
        metrics.RECONCILE_CPU.observe(time.thread_time() - began)
        metrics.RUNS.set(len(self._runs))
        metrics.ACTIVE.set(self._reconciler.active_runs)
        self._queue.done(key, failed=failed)
        if wait_s is not None:
            self._queue.add_after(key, wait_s)

    def _sweep(self) -> None:
        """Queue finished runs whose time is over, and all runs now and then: one timer for all of them."""
        resync_at = time.monotonic() + RESYNC_S
        while not self._stopped.wait(SWEEP_S):
            self._enqueue(self._runs.due(time.time()))
            if time.monotonic() >= resync_at:
                resync_at = time.monotonic() + RESYNC_S
                self._enqueue(self._runs.keys())


def _namespace(key: Key) -> str:
    return key[0]
