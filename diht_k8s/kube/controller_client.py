"""The calls to the API server, by the official client: plain JSON in and out, each with a time limit, errors in one form.

Blocking: called from threads, never from the event loop.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION

TIMEOUT_S: Final = (5.0, 30.0)
"""Connect, read: a hanging API server must not take a worker for long."""
PAGE: Final = 500
POOL: Final = 32
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
LOG_TIMEOUT_S: Final = (5.0, 10.0)
"""A kubelet that does not answer must not hold up what matters more than a log."""
LOG_BYTES_READ: Final = 8 << 20
LOG_BYTES_KEPT: Final = 64 << 10
KUEUE: Final = "kueue.x-k8s.io"
KUEUE_VERSIONS: Final = ("v1beta2", "v1beta1")

Json = dict[str, Any]


class ClusterError(Exception):
    """What the API server answered, or that it did not."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    @property
    def is_gone(self) -> bool:
        """The object is not there."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """The object is another one than we thought, or there already."""
        return self.status == 409

    @property
    def is_terminating(self) -> bool:
        """The namespace is being deleted: there is nothing to do in it any more."""
        return self.status == 403 and "being terminated" in self.message


def connect(kubeconfig: str | None = None) -> client.ApiClient:
    """A client: inside a pod by its service account, else by kubeconfig."""
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
    settings.connection_pool_maxsize = POOL
    settings.retries = urllib3.Retry(total=1, connect=1, read=0)  # more would hold a thread: looks are repeated anyway
    return client.ApiClient(settings)


def answer_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The response of a call; errors as ClusterError."""
    options = {"_preload_content": False, "_request_timeout": TIMEOUT_S, **options}
    try:
        response = function(*arguments, **options)
        if response.status >= 400:
            raise _error(response.status, response.reason, response.data)
        return response
    except ApiException as error:
        raise _error(error.status or 0, error.reason or "", error.body) from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(0, "Unreachable", f"the API server does not answer: {type(error).__name__}") from error


def _error(status: int, reason: str | None, body: Any) -> ClusterError:
    try:
        document = json.loads(body)
        return ClusterError(status, document.get("reason", reason), document.get("message", ""))
    except (TypeError, ValueError, AttributeError):
        return ClusterError(status, reason or "", str(body or reason)[:1000])


def json_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> Json:
    """The document that a call answers."""
    try:
        return json.loads(answer_of(function, *arguments, **options).data)
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(0, "Unreachable", f"the API server broke off: {type(error).__name__}") from error


def pages(listing: Callable[..., Any]) -> Iterator[Json]:
    """The items of a list call, page by page."""
    token = None
    while True:
        options: Json = {"limit": PAGE, "_continue": token} if token else {"limit": PAGE}
        page = json_of(listing, **options)
        yield from page["items"] or ()  # null where metadata alone was asked for and there is none
        token = page["metadata"].get("continue")
        if not token:
            return


class Cluster:
    """What the controller asks of a cluster."""

    def __init__(self, api: client.ApiClient, before_write: Callable[[str], None] = lambda call: None) -> None:
        """Make one.

        Args:
            api: the client.
            before_write: told the name of each write before it is made; what it raises keeps it from being made.
        """
        self._batch, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        self._custom, self._before_write = client.CustomObjectsApi(api), before_write

    def create(self, document: Json) -> Json:
        """Create a Job or Service of ours."""
        kind, namespace = document["kind"], document["metadata"]["namespace"]
        calls = {"Job": self._batch.create_namespaced_job, "Service": self._core.create_namespaced_service}
        self._before_write(f"create_{kind.lower()}")
        return json_of(calls[kind], namespace, document)

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """Read a Job or Service."""
        calls = {"Job": self._batch.read_namespaced_job, "Service": self._core.read_namespaced_service}
        return json_of(calls[kind], name, namespace)

    def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Job and then its pods, if it is the very one."""
        self._before_write("delete_job")
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
        answer_of(self._batch.delete_namespaced_job, name, namespace, body=options)

    def delete_service(self, namespace: str, name: str) -> None:
        """Delete a Service."""
        self._before_write("delete_service")
        answer_of(self._core.delete_namespaced_service, name, namespace)

    def delete_run(self, namespace: str, name: str, uid: str) -> None:
        """Delete a run, if it is the very one."""
        self._before_write("delete_run")
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        answer_of(self._custom.delete_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name, body=options)

    def get_run(self, namespace: str, name: str) -> Json:
        """Read a run."""
        return json_of(self._custom.get_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name)

    def write_status(self, namespace: str, name: str, version: str, status: Mapping[str, object]) -> Json:
        """Replace the status of a run, if it is still at the version that the status was made from; returns the run."""
        self._before_write("write_status")
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": status},
        ]
        return json_of(
            self._custom.patch_namespaced_custom_object_status,
            GROUP,
            VERSION,
            namespace,
            PLURAL,
            name,
            patch,
            _content_type="application/json-patch+json",
        )

    def write_event(self, namespace: str, document: Json) -> None:
        """Create an Event."""
        self._before_write("create_event")
        answer_of(self._core.create_namespaced_event, namespace, document)

    def warnings(self, namespace: str) -> Iterator[Json]:
        """The Warning events of a namespace, page by page."""
        return pages(functools.partial(self._core.list_namespaced_event, namespace, field_selector="type=Warning"))

    def log_tail(self, namespace: str, pod: str, lines: int) -> str:
        """The last lines of a pod's log, of each line at most its end."""
        response = answer_of(
            self._core.read_namespaced_pod_log, pod, namespace, tail_lines=lines, _request_timeout=LOG_TIMEOUT_S
        )
        kept, read = b"", 0
        try:
            for block in response.stream(1 << 16):
                read += len(block)
                kept = (kept + block)[-LOG_BYTES_KEPT:]
                if read > LOG_BYTES_READ:
                    break
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(0, "Unreachable", f"the log broke off: {type(error).__name__}") from error
        finally:
            response.close()
        return kept.decode(errors="replace")

    def workload_of(self, namespace: str, job_uid: str) -> Json | None:
        """Kueue's Workload of a Job; None where there is none."""
        selector = f"kueue.x-k8s.io/job-uid={job_uid}"
        for version in KUEUE_VERSIONS:
            try:
                found = json_of(
                    self._custom.list_namespaced_custom_object,
                    KUEUE,
                    version,
                    namespace,
                    "workloads",
                    label_selector=selector,
                )
            except ClusterError as error:
                if not error.is_gone:
                    raise
                continue
            return next(iter(found["items"]), None)
        return None

    def runs_metadata(self, namespace: str | None) -> Iterator[Json]:
        """The metadata of all runs, page by page."""
        return (item["metadata"] for item in pages(self._list_runs(namespace)))

    def _list_runs(self, namespace: str | None) -> Callable[..., Any]:
        headers = {"_headers": {"Accept": METADATA_ONLY}}
        if namespace is None:
            return lambda **options: self._custom.list_cluster_custom_object(
                GROUP, VERSION, PLURAL, **headers, **options
            )
        return lambda **options: self._custom.list_namespaced_custom_object(
            GROUP, VERSION, namespace, PLURAL, **headers, **options
        )

    def listing(self, kind: str, namespace: str | None) -> Callable[..., Any]:
        """The list call of Jobs or Pods, in one namespace or all, for an informer."""
        if namespace is None:
            every = {"Job": self._batch.list_job_for_all_namespaces, "Pod": self._core.list_pod_for_all_namespaces}
            return lambda **options: answer_of(every[kind], **options)
        one = {"Job": self._batch.list_namespaced_job, "Pod": self._core.list_namespaced_pod}
        return lambda **options: answer_of(one[kind], namespace, **options)
