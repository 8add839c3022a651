"""The client of the API server that CLI, TorchX scheduler and controller share: what they ask of it, in plain JSON.

Every call has a time limit, and fails with a `ClusterError` that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import urllib3

from diht_k8s.kube.connection import KINDS, KUEUE, KUEUE_VERSIONS, TIMEOUT_S, Connection
from diht_k8s.kube.errors import ClusterError, unreachable

PAGE: Final = 500
"""Objects in one answer of a list call."""
LOG_TIMEOUT_S: Final = (5.0, 10.0)
"""Connect, read of a log's tail: a kubelet that does not answer must not hold up what matters more than a log."""
LOG_BLOCK_BYTES: Final = 1 << 16
LOG_BYTES_READ: Final = 8 << 20
LOG_BYTES_KEPT: Final = 64 << 10
FIELD_MANAGER: Final = "diht"
STRICT: Final = frozenset({"Job", "Service"})
"""Kinds that carry what a person wrote: the API server refuses a field that it does not know, or would drop it
unseen."""
APPLY: Final = "application/apply-patch+yaml"
JSON_PATCH: Final = "application/json-patch+json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"

Json = dict[str, Any]


def lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream, without their ends, however it is cut into blocks."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


class Cluster:
    """Jobs, Services, pods, logs, events, runs and their like of one cluster. Every method raises `ClusterError`."""

    def __init__(self, connection: Connection, before_write: Callable[[str], None] = lambda call: None) -> None:
        """Make one.

        Args:
            connection: to the API server.
            before_write: called with the name of each write before it is sent; if it raises, nothing is sent.
        """
        self._connection, self._before_write = connection, before_write

    def create(self, document: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create an object of `KINDS`, or have it checked only; returns it as the API server completed it."""
        kind, metadata = document["kind"], document["metadata"]
        namespace = metadata["namespace"]
        if not dry_run:
            self._before_write(f"create_{kind.lower()}")
        query = {"fieldValidation": "Strict"} if kind in STRICT else {}
        what = f"create {kind} {metadata.get('name', '')} in namespace {namespace}"
        return self._connection.json(what, "POST", KINDS[kind].path(namespace), query | _dry(dry_run), document)

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """Read an object of `KINDS`; a namespace of "" reads one that has none."""
        return self._connection.json(f"read {kind} {namespace}/{name}", "GET", KINDS[kind].path(namespace, name))

    def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object of `KINDS` and what it owns; with `uid` only the one of this UID. Programs get their
        usual grace.
        """
        self._delete(kind, namespace, name, _deletion("Background", uid))

    def delete_job(self, namespace: str, name: str, uid: str | None = None, *, policy: str = "Foreground") -> None:
        """Delete a Job and its pods.

        Args:
            namespace: its namespace.
            name: its name.
            uid: deletes only the Job of this UID; None deletes any of the name.
            policy: Foreground keeps the Job until its pods are gone; Background deletes it at once.
        """
        self._delete("Job", namespace, name, _deletion(policy, uid))

    def delete_run(self, namespace: str, name: str, uid: str | None = None, version: str | None = None) -> None:
        """Delete a run, whose Jobs and pods follow; with `uid` and `version` only that run as it was then."""
        self._delete("DihtRun", namespace, name, _deletion("Background", uid, version))

    def items(self, kind: str, namespace: str, selector: str) -> list[Json]:
        """The objects of a label selector."""
        return list(self._pages(kind, namespace, {"labelSelector": selector}))

    def patch_job(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into a Job."""
        self._before_write("patch_job")
        self._patch(f"change Job {namespace}/{name}", KINDS["Job"].path(namespace, name), patch, MERGE)

    def patch_pod_group(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into a PodGroup."""
        self._before_write("patch_podgroup")
        self._patch(f"change PodGroup {namespace}/{name}", KINDS["PodGroup"].path(namespace, name), patch, MERGE)

    def patch_pod_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the status of a pod, its conditions by their type, and into its annotations."""
        self._before_write("patch_pod_status")
        what, path = f"write the status of pod {namespace}/{name}", KINDS["Pod"].path(namespace, name, "status")
        self._patch(what, path, patch, STRATEGIC)

    def patch_workload_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the status of a Workload; its metadata.resourceVersion has to be the newest one."""
        self._before_write("patch_workload_status")
        what = f"write the status of Workload {namespace}/{name}"
        self._patch(what, KINDS["Workload"].path(namespace, name, "status"), patch, MERGE)

    def get_run(self, namespace: str, name: str) -> Json:
        """Read a run."""
        return self._connection.json(f"read run {namespace}/{name}", "GET", KINDS["DihtRun"].path(namespace, name))

    def runs(self, namespace: str, selector: str = "") -> Iterator[Json]:
        """The DihtRuns of a namespace: all, or those of a label selector."""
        return self._pages("DihtRun", namespace, {"labelSelector": selector} if selector else {})

    def apply_run(self, namespace: str, name: str, document: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create a run, or change it to what the document says; an unknown key is an error."""
        self._before_write("apply_run")
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": True, **_dry(dry_run)}
        what, path = f"change run {namespace}/{name}", KINDS["DihtRun"].path(namespace, name)
        return self._patch(what, path, document, APPLY, query)

    def annotate_run(self, namespace: str, name: str, key: str, value: str) -> None:
        """Set an annotation of a run."""
        self._before_write("annotate_run")
        patch = {"metadata": {"annotations": {key: value}}}
        self._patch(f"change run {namespace}/{name}", KINDS["DihtRun"].path(namespace, name), patch, MERGE)

    def write_status(self, namespace: str, name: str, version: str, status: Mapping[str, object]) -> Json:
        """Replace the status of a run if it is still at `version`, its resourceVersion; returns the run."""
        self._before_write("write_status")
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": status},
        ]
        what = f"write the status of run {namespace}/{name}"
        return self._patch(what, KINDS["DihtRun"].path(namespace, name, "status"), patch, JSON_PATCH)

    def write_event(self, namespace: str, document: Json) -> None:
        """Create an Event."""
        self._before_write("create_event")
        self._connection.json(
            f"create an event in namespace {namespace}", "POST", KINDS["Event"].path(namespace), body=document
        )

    def events(self, namespace: str, selector: str) -> Iterator[Json]:
        """The events of a field selector, page by page."""
        return self._pages("Event", namespace, {"fieldSelector": selector})

    def warnings(self, namespace: str) -> Iterator[Json]:
        """The Warning events of a namespace, page by page."""
        return self.events(namespace, "type=Warning")

    def log(
        self,
        namespace: str,
        pod: str,
        *,
        follow: bool = False,
        timeout_s: tuple[float, float] = TIMEOUT_S,
        **query: object,
    ) -> Generator[bytes]:
        """The log of a pod, in blocks as they come.

        Args:
            namespace: namespace of the pod.
            pod: name of the pod.
            follow: wait for more until the container ends, however long that takes.
            timeout_s: limits of connecting and of reading in seconds; a log that is followed has none.
            query: further parameters of Kubernetes' call, such as `container` and `tailLines`.
        """
        what, path = f"read the log of pod {namespace}/{pod}", KINDS["Pod"].path(namespace, pod, "log")
        query = {"follow": True, **query} if follow else query
        limits = None if follow else timeout_s
        with closing(self._connection.request(what, "GET", path, query, timeout_s=limits, stream=True)) as response:
            try:
                yield from response.stream(LOG_BLOCK_BYTES)
            except urllib3.exceptions.HTTPError as error:
                raise unreachable(what, error) from error

    def log_tail(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """The last lines of a container's log, at most their last `LOG_BYTES_KEPT` bytes; it may be unnamed in a pod
        of one.
        """
        kept, read = b"", 0
        query: dict[str, Any] = {"container": container} if container else {}
        with closing(self.log(namespace, pod, tailLines=lines, timeout_s=LOG_TIMEOUT_S, **query)) as blocks:
            for block in blocks:
                read += len(block)
                kept = (kept + block)[-LOG_BYTES_KEPT:]
                if read > LOG_BYTES_READ:
                    break
        return kept.decode(errors="replace")

    def workload_of(self, namespace: str, job_uid: str) -> Json | None:
        """Kueue's Workload of a Job; None if there is none, or no Kueue."""
        what, query = f"list Workloads in namespace {namespace}", {"labelSelector": f"{KUEUE}/job-uid={job_uid}"}
        for version in KUEUE_VERSIONS:
            path = KINDS["Workload"]._replace(version=version).path(namespace)
            try:
                found = self._connection.json(what, "GET", path, query)
            except ClusterError as error:
                if not error.is_not_found:
                    raise
                continue
            return next(iter(found["items"]), None)
        return None

    def serves_kind(self, kind: str) -> bool:
        """Whether the cluster serves a kind of `KINDS`, in its version there."""
        resource = KINDS[kind]
        try:
            found = self._connection.json(f"list the kinds of {resource.group}", "GET", resource.root)
        except ClusterError as error:
            if not error.is_not_found:
                raise
            return False
        return any(item["name"] == resource.plural for item in found["resources"])

    def listing(self, kind: str, namespace: str | None) -> Callable[..., urllib3.BaseHTTPResponse]:
        """The call that lists or watches objects of `KINDS`, in one namespace or in all.

        It takes Kubernetes' parameters by their names, and `timeout_s`; the answer to `watch=True` is a stream.
        """
        what, path = f"list or watch {kind}s", KINDS[kind].path(namespace)

        def ask(timeout_s: tuple[float, float] = TIMEOUT_S, **query: object) -> urllib3.BaseHTTPResponse:
            stream = bool(query.get("watch"))
            return self._connection.request(what, "GET", path, query, timeout_s=timeout_s, stream=stream)

        return ask

    def _pages(self, kind: str, namespace: str, query: Mapping[str, object]) -> Iterator[Json]:
        """The items of a list, page by page."""
        what, path = f"list {kind}s in namespace {namespace}", KINDS[kind].path(namespace)
        token = ""
        while True:
            page = self._connection.json(
                what, "GET", path, {**query, "limit": PAGE, **({"continue": token} if token else {})}
            )
            yield from page["items"] or ()  # null in an empty list of metadata
            token = page["metadata"].get("continue")
            if not token:
                return

    def _delete(self, kind: str, namespace: str, name: str, body: Json) -> None:
        noun = "run" if kind == "DihtRun" else kind
        self._before_write(f"delete_{noun.lower()}")
        self._connection.json(
            f"delete {noun} {namespace}/{name}", "DELETE", KINDS[kind].path(namespace, name), body=body
        )

    def _patch(self, what: str, path: str, patch: object, form: str, query: Mapping[str, object] | None = None) -> Json:
        return self._connection.json(what, "PATCH", path, query, patch, form=form)


def _deletion(policy: str, uid: str | None, version: str | None = None) -> Json:
    given = {"uid": uid, "resourceVersion": version}
    preconditions = {key: value for key, value in given.items() if value is not None}
    return {"propagationPolicy": policy, **({"preconditions": preconditions} if preconditions else {})}


def _dry(dry_run: bool) -> Json:
    return {"dryRun": "All"} if dry_run else {}
