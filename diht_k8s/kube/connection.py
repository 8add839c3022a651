"""HTTP to one API server: JSON over one pool of connections that stay open, and the paths of the kinds there.

The official `kubernetes` client gives the configuration, the credentials and the pool: so kubeconfigs, exec plugins,
tokens that change, proxies and certificates mean what they mean to every other program. Its generated models and calls
are not used: they take most of a call's time, and refuse what the API server would take. `kubernetes` is imported on
first use, because TorchX loads the scheduler plugin where only `torchx` is installed.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import urllib3

from diht_k8s.api.errors import UserError, missing_package
from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION
from diht_k8s.kube.errors import kubeconfig_errors, refused, unreachable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


KUEUE: Final = "kueue.x-k8s.io"
KUEUE_VERSIONS: Final = ("v1beta2", "v1beta1")
SCHEDULING: Final = "scheduling.k8s.io"


class ApiResource(NamedTuple):
    """Where the API server serves a kind."""

    group: str
    """empty for Kubernetes' core."""
    version: str
    plural: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        """The path of its group in its version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None = None, *name: str) -> str:
        """The path of all objects, of those of a namespace, or of one.

        Args:
            namespace: their namespace; None or "" for all. A kind that has none takes no heed of it: the API server
            would
                answer with an empty list.
            name: name of the object, and of its subresource.
        """
        place = ("namespaces", namespace) if namespace and self.namespaced else ()
        return "/".join((self.root, *(quote(each, safe="") for each in (*place, self.plural, *name))))


KINDS: Final = {
    "Job": ApiResource("batch", "v1", "jobs"),
    "Service": ApiResource("", "v1", "services"),
    "Pod": ApiResource("", "v1", "pods"),
    "Event": ApiResource("", "v1", "events"),
    "Node": ApiResource("", "v1", "nodes", namespaced=False),
    "Lease": ApiResource("coordination.k8s.io", "v1", "leases"),
    "DihtRun": ApiResource(GROUP, VERSION, PLURAL),
    "Workload": ApiResource(KUEUE, KUEUE_VERSIONS[0], "workloads"),
    "ResourceFlavor": ApiResource(KUEUE, KUEUE_VERSIONS[0], "resourceflavors", namespaced=False),
    "WorkloadPriorityClass": ApiResource(KUEUE, KUEUE_VERSIONS[0], "workloadpriorityclasses", namespaced=False),
    "PriorityClass": ApiResource(SCHEDULING, "v1", "priorityclasses", namespaced=False),
    "PodGroup": ApiResource(SCHEDULING, "v1beta1", "podgroups"),
}


TIMEOUT_S: Final = (5.0, 30.0)
"""Connect, read: a hanging API server must not hold a worker for long."""
POOL: Final = 32
"""Connections that stay open for the next call."""
TOKEN_AGE_S: Final = 1.0
"""A token is used for this time before the library is asked for it again, which costs a tenth of a call."""
RELOAD_AGAIN_S: Final = 5.0
"""Credentials that the API server refuses are loaded again at most this often."""
POD_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token and its namespace."""
USER_AGENT: Final = "diht-k8s"


def in_pod() -> bool:
    """Whether this program takes its credentials from the pod around it; KUBECONFIG wins over the pod."""
    has_account = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (POD_ACCOUNT / "token").exists()
    return has_account and not os.environ.get("KUBECONFIG")


def connect(*, wait: bool = True) -> Connection:
    """A connection to the cluster that KUBECONFIG, the pod around this program, or ~/.kube/config names.

    Args:
        wait: whether a read that is refused with `Retry-After` waits in its thread and asks once more. Without it the
            caller gets the `ClusterError` at once, with `retry_after_s`.

    Raises:
        UserError: there is no cluster, or the client library is not installed.
    """
    load = functools.partial(_load, wait=wait)
    return Connection(load(), load)


def _load(*, wait: bool) -> ApiClient:
    """The official client with the credentials of this moment."""
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


@dataclass
class _Login:
    """The official client with the token that it gave last."""

    api: ApiClient
    token: str = ""
    read_at: float = float("-inf")

    def read(self, now: float) -> str:
        """The value of the Authorization header; empty without one. An exec plugin may run."""
        if now >= self.read_at + TOKEN_AGE_S:
            given = self.api.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
            self.token, self.read_at = (given or "").strip(), now
        return self.token


class Connection:
    """Requests to one API server. Any thread may make them; they block, so none belongs on the event loop."""

    def __init__(self, api: ApiClient, load: Callable[[], ApiClient] | None = None) -> None:
        """Make one.

        Args:
            api: the official client, of which the pool and the credentials are used.
            load: loads the credentials again where the API server refuses those of `api`; None: they cannot change.
        """
        self._login, self._load = _Login(api), load
        self._lock, self._loaded_at = threading.Lock(), float("-inf")

    def request(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        *,
        form: str = "application/json",
        timeout_s: tuple[float, float] | None = TIMEOUT_S,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """The answer to a request.

        Args:
            what: what it does, for the error: `create Job a in namespace n`.
            method: GET, POST, PUT, PATCH or DELETE.
            path: path on the API server, quoted.
            query: parameters, as Kubernetes names them.
            body: what is sent as JSON; None sends nothing.
            form: media type of the body.
            timeout_s: limits of connecting and of reading in seconds; None waits for ever.
            stream: whether the caller reads the answer's body piece by piece, and closes it.

        Raises:
            ClusterError: the API server refuses or does not answer.
        """
        from kubernetes.config import ConfigException

        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        if query:
            path = f"{path}?{urlencode({key: _as_text(value) for key, value in query.items()})}"
        send = functools.partial(self._send, method, path, content, form, timeout_s, stream)
        try:
            login = self._login
            response = send(login)
            if response.status == 401 and (renewed := self._renewed(login)) is not None:
                response.drain_conn()
                response = send(renewed)
            if response.status >= 400:
                after = response.headers.get("Retry-After")
                said = response.data.decode(errors="replace")
                raise refused(what, response.status, response.reason, said, after)
            return response
        except (urllib3.exceptions.HTTPError, ConfigException, OSError) as error:  # the last two: an unreadable token
            raise unreachable(what, error) from error

    def json(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The document that a request answers with; arguments and errors as of `request`."""
        response = self.request(what, method, path, query, body, **options)
        try:
            return json.loads(response.data)
        except ValueError as error:  # a proxy may answer in HTML
            raise unreachable(what, error) from error

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        form: str,
        timeout_s: tuple[float, float] | None,
        stream: bool,
        login: _Login,
    ) -> urllib3.BaseHTTPResponse:
        with self._lock:  # an exec plugin runs once for all threads
            token = login.read(time.monotonic())
        headers = {"Accept": "application/json, */*", "User-Agent": USER_AGENT}
        if content is not None:
            headers["Content-Type"] = form
        if token:
            headers["Authorization"] = token
        return login.api.rest_client.pool_manager.urlopen(
            method,
            login.api.configuration.host + path,
            body=content,
            headers=headers,
            preload_content=not stream,
            timeout=None if timeout_s is None else urllib3.Timeout(connect=timeout_s[0], read=timeout_s[1]),
        )

    def _renewed(self, old: _Login) -> _Login | None:
        """Newer credentials than those that were refused; None if there are none."""
        with self._lock:
            if self._login is not old:  # another thread was faster
                return self._login
            now = time.monotonic()
            if self._load is None or now < self._loaded_at + RELOAD_AGAIN_S:
                return None
            self._loaded_at = now
            try:
                found = self._load()
            except UserError:  # the refusal says more
                return None
            settings = found.configuration
            if not (settings.api_key or settings.cert_file):  # a plugin that failed: the server would call us anonymous
                return None
            self._login = _Login(found)
            return self._login


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
