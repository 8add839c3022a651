"""The client of the API server that CLI, TorchX scheduler and controller share, on the official `kubernetes` client.

Plain JSON in and out: the library's models cost time and memory, and each object is read once. Every call has a time
limit, and fails with a `ClusterError` that says what to do. Calls block: make them from threads, never from the event
loop. `kubernetes` is imported on first use, because TorchX loads the scheduler plugin where only `torchx` is installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import urllib3

from diht_k8s.api.errors import UserError, missing_package
from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION
from diht_k8s.kube.api_resources import KINDS, KUEUE, KUEUE_VERSIONS
from diht_k8s.kube.errors import ClusterError, kubeconfig_errors, refused, unreachable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

TIMEOUT_S: Final = (5.0, 30.0)
"""Connect, read: a hanging API server must not hold a worker for long."""
PAGE: Final = 500
"""Objects in one answer of a list call."""
POOL: Final = 32
"""Connections that stay open for the next call."""
LOG_TIMEOUT_S: Final = (5.0, 10.0)
"""Connect, read of a log's tail: a kubelet that does not answer must not hold up what matters more than a log."""
LOG_BLOCK_BYTES: Final = 1 << 16
LOG_BYTES_READ: Final = 8 << 20
LOG_BYTES_KEPT: Final = 64 << 10
FIELD_MANAGER: Final = "diht"
POD_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token and its namespace."""

Json = dict[str, Any]


def in_pod() -> bool:
    """Whether this program takes its credentials from the pod around it; KUBECONFIG wins over the pod."""
    has_account = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (POD_ACCOUNT / "token").exists()
    return has_account and not os.environ.get("KUBECONFIG")


def connect(*, wait: bool = True) -> ApiClient:
    """A connection to the cluster that KUBECONFIG, the pod around this program, or ~/.kube/config names.

    Args:
        wait: whether a read that is refused with `Retry-After` waits in its thread and asks once more. Without it the
            caller gets the `ClusterError` at once, with `retry_after_s`.

    Raises:
        UserError: there is no cluster, or the client library is not installed.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise UserError(missing_package(error, "operator")) from error
    settings = client.Configuration()
    with kubeconfig_errors():
        if in_pod():
            config.load_incluster_config(client_configuration=settings)
        else:
            # Named, because the library reads KUBECONFIG only once, when it is first imported.
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=settings)
    settings.connection_pool_maxsize = POOL
    settings.retries = urllib3.Retry(  # more would hold a thread: callers try again anyway
        total=1, connect=1, read=0, respect_retry_after_header=wait
    )
    return client.ApiClient(settings)


def answer_of(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The unread response of a call.

    Args:
        what: what the call does, for the error: `create Job a in namespace n`.
        function: a method of the `kubernetes` client.
        arguments: its arguments.
        options: its keyword arguments.

    Raises:
        ClusterError: the API server refuses or does not answer.
    """
    from kubernetes.client.exceptions import ApiException

    options = {"_preload_content": False, "_request_timeout": TIMEOUT_S, **options}
    try:
        response = function(*arguments, **options)
        if response.status >= 400:  # kubernetes 37.0.0 does not raise here
            after = response.headers.get("Retry-After")
            raise refused(what, response.status, response.reason, response.data, after)
        return response
    except ApiException as error:
        after = (error.headers or {}).get("Retry-After")
        raise refused(what, error.status or 0, error.reason, error.body, after) from error
    except urllib3.exceptions.HTTPError as error:
        raise unreachable(what, error) from error


def json_of(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Json:
    """The JSON document that a call returns; arguments and errors as in `answer_of`."""
    try:
        return json.loads(answer_of(what, function, *arguments, **options).data)
    except (urllib3.exceptions.HTTPError, ValueError) as error:  # a proxy may answer in HTML
        raise unreachable(what, error) from error


def pages(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Json]:
    """The items of a list call, page by page; arguments and errors as in `answer_of`."""
    while True:
        page = json_of(what, function, *arguments, limit=PAGE, **options)
        yield from page["items"] or ()  # null in an empty list of metadata
        token = page["metadata"].get("continue")
        if not token:
            return
        options["_continue"] = token


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

    def __init__(self, api: ApiClient, before_write: Callable[[str], None] = lambda call: None) -> None:
        """Make one.

        Args:
            api: the connection.
            before_write: called with the name of each write before it is sent; if it raises, nothing is sent.
        """
        from kubernetes.client import ApisApi, BatchV1Api, CoreV1Api, CustomObjectsApi

        self._batch, self._core, self._custom = BatchV1Api(api), CoreV1Api(api), CustomObjectsApi(api)
        self._groups, self._before_write = ApisApi(api), before_write

    def create(self, document: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create a Job, a Service or an object of `KINDS`; returns it as the API server completed it."""
        kind, metadata = document["kind"], document["metadata"]
        namespace = metadata["namespace"]
        calls = {"Job": self._batch.create_namespaced_job, "Service": self._core.create_namespaced_service}
        self._before_write(f"create_{kind.lower()}")
        what = f"create {kind} {metadata.get('name', '')} in namespace {namespace}"
        if kind not in calls:
            group, version, plural = KINDS[kind]
            custom = self._custom.create_namespaced_custom_object
            return json_of(what, custom, group, version, namespace, plural, document, **_dry(dry_run))
        return json_of(what, calls[kind], namespace, document, **_dry(dry_run))

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """Read a Job, a Service or an object of `KINDS`; a namespace of "" reads one that has none."""
        calls = {"Job": self._batch.read_namespaced_job, "Service": self._core.read_namespaced_service}
        what = f"read {kind} {namespace}/{name}"
        if kind in calls:
            return json_of(what, calls[kind], name, namespace)
        group, version, plural = KINDS[kind]
        if not namespace:
            return json_of(what, self._custom.get_cluster_custom_object, group, version, plural, name)
        return json_of(what, self._custom.get_namespaced_custom_object, group, version, namespace, plural, name)

    def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete an object of `KINDS`; with `uid` only the one of this UID."""
        self._before_write(f"delete_{kind.lower()}")
        what, call = f"delete {kind} {namespace}/{name}", self._custom.delete_namespaced_custom_object
        group, version, plural = KINDS[kind]
        answer_of(what, call, group, version, namespace, plural, name, body=_deletion("Background", uid))

    def patch_workload_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the status of a Workload; its metadata.resourceVersion has to be the newest one."""
        self._before_write("patch_workload_status")
        what, call = (
            f"write the status of Workload {namespace}/{name}",
            self._custom.patch_namespaced_custom_object_status,
        )
        group, version, plural = KINDS["Workload"]
        place = (group, version, namespace, plural, name)
        answer_of(what, call, *place, patch, _content_type="application/merge-patch+json")

    def items(self, kind: str, namespace: str, selector: str) -> list[Json]:
        """The Jobs or Pods of a label selector."""
        calls = {"Job": self._batch.list_namespaced_job, "Pod": self._core.list_namespaced_pod}
        return list(pages(f"list {kind}s in namespace {namespace}", calls[kind], namespace, label_selector=selector))

    def patch_job(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into a Job."""
        self._before_write("patch_job")
        answer_of(f"change Job {namespace}/{name}", self._batch.patch_namespaced_job, name, namespace, patch)

    def delete_job(self, namespace: str, name: str, uid: str | None = None, *, policy: str = "Foreground") -> None:
        """Delete a Job and its pods.

        Args:
            namespace: its namespace.
            name: its name.
            uid: deletes only the Job of this UID; None deletes any of the name.
            policy: Foreground keeps the Job until its pods are gone; Background deletes it at once.
        """
        self._before_write("delete_job")
        what = f"delete Job {namespace}/{name}"
        answer_of(what, self._batch.delete_namespaced_job, name, namespace, body=_deletion(policy, uid))

    def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Delete the pod of this UID; its programs get their usual grace."""
        self._before_write("delete_pod")
        body = {"preconditions": {"uid": uid}}
        answer_of(f"delete pod {namespace}/{name}", self._core.delete_namespaced_pod, name, namespace, body=body)

    def delete_service(self, namespace: str, name: str) -> None:
        """Delete a Service."""
        self._before_write("delete_service")
        answer_of(f"delete Service {namespace}/{name}", self._core.delete_namespaced_service, name, namespace)

    def get_run(self, namespace: str, name: str) -> Json:
        """Read a run."""
        what = f"read run {namespace}/{name}"
        return json_of(what, self._custom.get_namespaced_custom_object, *_run(namespace, name))

    def runs(self, namespace: str, selector: str = "") -> Iterator[Json]:
        """The DihtRuns of a namespace: all, or those of a label selector."""
        what, call = f"list DihtRuns in namespace {namespace}", self._custom.list_namespaced_custom_object
        options = {"label_selector": selector} if selector else {}
        return pages(what, call, GROUP, VERSION, namespace, PLURAL, **options)

    def apply_run(self, namespace: str, name: str, document: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create a run, or change it to what the document says; an unknown key is an error."""
        self._before_write("apply_run")
        options = {"field_manager": FIELD_MANAGER, "field_validation": "Strict", "force": True, **_dry(dry_run)}
        return self._patch_run(namespace, name, document, "application/apply-patch+yaml", **options)

    def annotate_run(self, namespace: str, name: str, key: str, value: str) -> None:
        """Set an annotation of a run."""
        self._before_write("annotate_run")
        patch = {"metadata": {"annotations": {key: value}}}
        self._patch_run(namespace, name, patch, "application/merge-patch+json")

    def _patch_run(self, namespace: str, name: str, body: Mapping[str, Any], form: str, **options: Any) -> Json:
        what, call = f"change run {namespace}/{name}", self._custom.patch_namespaced_custom_object
        return json_of(what, call, *_run(namespace, name), body, _content_type=form, **options)

    def delete_run(self, namespace: str, name: str, uid: str | None = None, version: str | None = None) -> None:
        """Delete a run, whose Jobs and pods follow; with `uid` and `version` only that run as it was then."""
        self._before_write("delete_run")
        what, call = f"delete run {namespace}/{name}", self._custom.delete_namespaced_custom_object
        answer_of(what, call, *_run(namespace, name), body=_deletion("Background", uid, version))

    def write_status(self, namespace: str, name: str, version: str, status: Mapping[str, object]) -> Json:
        """Replace the status of a run if it is still at `version`, its resourceVersion; returns the run."""
        self._before_write("write_status")
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": status},
        ]
        what, call = f"write the status of run {namespace}/{name}", self._custom.patch_namespaced_custom_object_status
        return json_of(what, call, *_run(namespace, name), patch, _content_type="application/json-patch+json")

    def write_event(self, namespace: str, document: Json) -> None:
        """Create an Event."""
        self._before_write("create_event")
        answer_of(f"create an event in namespace {namespace}", self._core.create_namespaced_event, namespace, document)

    def events(self, namespace: str, selector: str) -> Iterator[Json]:
        """The events of a field selector, page by page."""
        what = f"list events in namespace {namespace}"
        return pages(what, self._core.list_namespaced_event, namespace, field_selector=selector)

    def warnings(self, namespace: str) -> Iterator[Json]:
        """The Warning events of a namespace, page by page."""
        return self.events(namespace, "type=Warning")

    def log(self, namespace: str, pod: str, *, follow: bool = False, **options: Any) -> Generator[bytes]:
        """The log of a pod, in blocks as they come.

        Args:
            namespace: namespace of the pod.
            pod: name of the pod.
            follow: wait for more until the container ends, however long that takes.
            options: further parameters of Kubernetes' call, such as `container` and `tail_lines`.
        """
        what = f"read the log of pod {namespace}/{pod}"
        if follow:
            options = {"follow": True, "_request_timeout": None, **options}
        with closing(answer_of(what, self._core.read_namespaced_pod_log, pod, namespace, **options)) as response:
            try:
                yield from response.stream(LOG_BLOCK_BYTES)
            except urllib3.exceptions.HTTPError as error:
                raise unreachable(what, error) from error

    def log_tail(self, namespace: str, pod: str, lines: int) -> str:
        """The last lines of a pod's log, at most their last `LOG_BYTES_KEPT` bytes."""
        kept, read = b"", 0
        with closing(self.log(namespace, pod, tail_lines=lines, _request_timeout=LOG_TIMEOUT_S)) as blocks:
            for block in blocks:
                read += len(block)
                kept = (kept + block)[-LOG_BYTES_KEPT:]
                if read > LOG_BYTES_READ:
                    break
        return kept.decode(errors="replace")

    def workload_of(self, namespace: str, job_uid: str) -> Json | None:
        """Kueue's Workload of a Job; None if there is none, or no Kueue."""
        call, selector = self._custom.list_namespaced_custom_object, f"{KUEUE}/job-uid={job_uid}"
        for version in KUEUE_VERSIONS:
            place = (KUEUE, version, namespace, "workloads")
            try:
                found = json_of(f"list Workloads in namespace {namespace}", call, *place, label_selector=selector)
            except ClusterError as error:
                if not error.is_not_found:
                    raise
                continue
            return next(iter(found["items"]), None)
        return None

    def serves(self, group: str) -> bool:
        """Whether the cluster serves an API group."""
        groups = json_of("list API groups", self._groups.get_api_versions)["groups"]
        return any(item["name"] == group for item in groups)

    def serves_kind(self, kind: str) -> bool:
        """Whether the cluster serves a kind of `KINDS`, in its version there."""
        group, version, plural = KINDS[kind]
        try:
            found = json_of(f"list the kinds of {group}", self._custom.get_api_resources, group, version)
        except ClusterError as error:
            if not error.is_not_found:
                raise
            return False
        return any(item["name"] == plural for item in found["resources"])

    def listing(self, kind: str, namespace: str | None) -> Callable[..., Any]:
        """The call that lists or watches Jobs, Pods, Nodes or objects of `KINDS`, in one namespace or in all.

        It returns the unread response.
        """
        what = f"list or watch {kind}s"
        if kind == "Node":
            return lambda **options: answer_of(what, self._core.list_node, **options)
        if kind in KINDS:
            group, version, plural = KINDS[kind]
            if namespace is None:
                every_place = (group, version, plural)
                return lambda **options: answer_of(
                    what, self._custom.list_cluster_custom_object, *every_place, **options
                )
            place = (group, version, namespace, plural)
            return lambda **options: answer_of(what, self._custom.list_namespaced_custom_object, *place, **options)
        if namespace is None:
            every = {"Job": self._batch.list_job_for_all_namespaces, "Pod": self._core.list_pod_for_all_namespaces}
            return lambda **options: answer_of(what, every[kind], **options)
        one = {"Job": self._batch.list_namespaced_job, "Pod": self._core.list_namespaced_pod}
        return lambda **options: answer_of(what, one[kind], namespace, **options)


def _run(namespace: str, name: str) -> tuple[str, str, str, str, str]:
    """A run, as the calls for custom objects name it."""
    return GROUP, VERSION, namespace, PLURAL, name


def _deletion(policy: str, uid: str | None, version: str | None = None) -> Json:
    given = {"uid": uid, "resourceVersion": version}
    preconditions = {key: value for key, value in given.items() if value is not None}
    return {"propagationPolicy": policy, **({"preconditions": preconditions} if preconditions else {})}


def _dry(dry_run: bool) -> Json:
    return {"dry_run": "All"} if dry_run else {}
