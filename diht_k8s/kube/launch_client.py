"""The calls to the API server that a job needs: create, list, patch, delete, logs. Plain JSON in and out.

The official client does the connection; its models are left aside, because they cost time and memory and the objects are read once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import RetryableError, UserError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

REQUEST_TIMEOUT_S: Final = 30
LOG_CHUNK_BYTES: Final = 1 << 16
NOT_FOUND: Final = 404
_ADVICE: Final = {
    401: "check the kubeconfig's credentials",
    403: "ask for the right, or use another namespace",
    404: "check the namespace",
    409: "use another name, or delete the object",
    422: "correct what the message names",
}


def connect() -> ApiClient:
    """A client of the cluster that KUBECONFIG, the pod around this program, or ~/.kube/config names.

    Raises:
        UserError: there is none, or the client library is not installed.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise UserError(f"{error}: install the client with pip install 'diht-k8s[operator]'") from error
    configuration = client.Configuration()
    with kubeconfig_problems():
        if not os.environ.get("KUBECONFIG") and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
        else:
            # Named, because the client reads KUBECONFIG only once, when it is first imported.
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration)
    return client.ApiClient(configuration)


@contextmanager
def kubeconfig_problems() -> Iterator[None]:
    """Whatever the client library raises over a kubeconfig, as ours and in one line.

    Raises:
        UserError: there is no cluster, or the kubeconfig cannot be read.
    """
    from kubernetes.config import ConfigException

    try:
        yield
    except ConfigException as error:
        raise UserError(f"no cluster: {error}: set KUBECONFIG") from error
    except Exception as error:  # the client checks little: a file that is no kubeconfig fails in any way
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the kubeconfig cannot be read ({type(error).__name__}: {said}): check KUBECONFIG") from error


class _GoneError(UserError):
    """What was named is not there."""


class Cluster:
    """Jobs, Services, Pods and logs of one cluster."""

    def __init__(self, client: ApiClient) -> None:
        from kubernetes.client import BatchV1Api, CoreV1Api

        self._batch, self._core = BatchV1Api(client), CoreV1Api(client)
        self._client = client

    def create(self, item: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create a Job or a Service; what the API server made of it.

        Raises:
            UserError: the API server refused it.
            RetryableError: it does not answer.
        """
        kind, namespace = item["kind"], item["metadata"]["namespace"]
        create = {
            "Job": self._batch.create_namespaced_job,
            "Service": self._core.create_namespaced_service,
        }[kind]
        options = {"dry_run": "All"} if dry_run else {}
        what = f"create {kind} {item['metadata']['name']} in namespace {namespace}"
        return self._json(what, create, namespace, item, **options)

    def jobs(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """The Jobs of a label selector."""
        return self._json(
            f"list Jobs in namespace {namespace}", self._batch.list_namespaced_job, namespace, label_selector=selector
        )["items"]

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """The pods of a label selector, oldest first."""
        found = self._json(
            f"list pods in namespace {namespace}", self._core.list_namespaced_pod, namespace, label_selector=selector
        )["items"]
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def patch_job(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into a Job."""
        self._json(f"change Job {name}", self._batch.patch_namespaced_job, name, namespace, patch)

    def delete_job(self, namespace: str, name: str) -> None:
        """Delete a Job and what belongs to it; nothing happens where there is none."""
        with suppress(_GoneError):
            self._json(
                f"delete Job {name}",
                self._batch.delete_namespaced_job,
                name,
                namespace,
                propagation_policy="Background",
            )

    def serves(self, group: str) -> bool:
        """Whether the cluster serves an API group."""
        from kubernetes.client import ApisApi

        groups = self._json("list API groups", ApisApi(self._client).get_api_versions)["groups"]
        return any(item["name"] == group for item in groups)

    def log(
        self, pod: Mapping[str, Any], container: str, *, since: datetime | None, now: datetime, follow: bool
    ) -> Iterator[str]:
        """The lines of a container's log, each with its time before it and without its end; none of a pod that is gone.

        Args:
            pod: the pod.
            container: name of the container.
            since: lines older than this are left out, to the second.
            now: the present time.
            follow: go on until the container ends.
        """
        metadata = pod["metadata"]
        options: dict[str, Any] = {"container": container, "timestamps": True, "follow": follow}
        if since is not None:
            options["since_seconds"] = max(1, int((now - since).total_seconds()) + 1)
        with suppress(_GoneError), _errors(f"read the log of pod {metadata['name']}"):
            response: Any = self._core.read_namespaced_pod_log(
                metadata["name"],
                metadata["namespace"],
                _preload_content=False,
                _request_timeout=None if follow else REQUEST_TIMEOUT_S,
                **options,
            )
            with closing(response):
                yield from _lines(response.stream(LOG_CHUNK_BYTES, decode_content=False))

    def _json(self, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        with _errors(what):
            response = call(*arguments, _preload_content=False, _request_timeout=REQUEST_TIMEOUT_S, **options)
            return json.loads(response.data)


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn the client's errors into ours, which say what, why and what to do."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _refused(what, error) from error
    except HTTPError as error:
        raise RetryableError(f"cannot {what}: no answer from the API server ({error}): check the cluster") from error


def _refused(what: str, error: Any) -> UserError | RetryableError:
    """Our error for an `ApiException`."""
    status, body = int(error.status or 0), error.body
    try:
        message = json.loads(body or "")["message"]
    except (ValueError, KeyError, TypeError):
        message = str(error.reason)
    if status == 429 or status >= 500 or not status:
        return RetryableError(f"cannot {what}: {message}: try again")
    kind = _GoneError if status == NOT_FOUND else UserError
    return kind(f"cannot {what}: {message}: {_ADVICE.get(status, 'correct the request')}")
