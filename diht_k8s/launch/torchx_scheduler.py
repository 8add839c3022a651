"""TorchX's scheduler `kubernetes` for any cluster, by native Jobs.

Registered as `kubernetes` and `kubernetes_job` (entry points `torchx.schedulers`), so that `torchx run -s kubernetes
COMPONENT` needs only a kubeconfig. An application is named `NAMESPACE:NAME`; this machine stores nothing about it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

import yaml
from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, Stream, StructuredOpts, filter_regex
from torchx.schedulers.ids import random_id
from torchx.specs import AppDef, AppDryRunInfo, CfgVal, InvalidRunConfigException, Role, is_terminal, runopts
from torchx.workspace.docker_workspace import DockerWorkspaceMixin

from diht_k8s.api.errors import DihtError, UserError
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import Connection, connect
from diht_k8s.kube.errors import ignore_not_found
from diht_k8s.launch.app_description import (
    CANCELLED_ANNOTATION,
    ReplicaLog,
    app_state,
    description,
    job_state,
    main_container,
    owned_pods,
    pod_lines,
    replica_lines,
    replica_pods,
    waiting_reason,
)
from diht_k8s.launch.overlays import with_overlays
from diht_k8s.launch.pod_template import label_value, unique_name
from diht_k8s.launch.render import LABEL_APP, LABEL_INSTANCE, LABEL_MANAGER, LABEL_ROLE, MANAGER, JobConfig, render

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
TOKEN_CHARACTERS: Final = 8
logger = logging.getLogger(__name__)


@dataclass
class Opts(StructuredOpts):
    """The options of `-cfg`. Those of stock TorchX have the same meaning here."""

    namespace: str = "default"
    """Namespace of the job."""

    queue: str | None = None
    """LocalQueue of Kueue that admits the job."""

    service_account: str | None = None
    """Service account of the pods."""

    priority_class: str | None = None
    """PriorityClass of the pods."""

    image_pull_policy: str | None = None
    """Always, IfNotPresent or Never."""

    image_pull_secrets: list[str] | None = None
    """Secrets with registry credentials, separated by semicolons."""

    ttl_seconds_after_finished: int | None = None
    """Seconds after which the cluster removes a finished job; unset keeps it."""

    active_deadline_seconds: int | None = None
    """Seconds after which the cluster ends the job."""

    validate_spec: bool = False
    """Ask the API server, on submission and on --dryrun, whether it would accept the job."""

    reserved_millicpu: int = 100
    """Millicores of CPU by which a pod's request is below its limit, to leave room for what a node reserves."""

    reserved_memmb: int = 1024
    """MB of memory by which a pod's request is below its limit, to leave room for what a node reserves."""

    efa_device_count: int | None = None
    """Number of EFA devices, overriding the resource's; 0 removes them."""


@dataclass
class Request:
    """What is submitted; printed, it is a manifest that `kubectl create -f` accepts."""

    objects: list[dict[str, Any]]
    images_to_push: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return yaml.safe_dump_all(self.objects, sort_keys=False)


class UnsupportedStreamError(UserError, ValueError):
    """The log has no such stream. TorchX documents `ValueError` for it."""


class KubernetesJobScheduler(DockerWorkspaceMixin, Scheduler[Opts]):
    """Runs applications as Indexed Jobs."""

    def __init__(self, session_name: str, client: ApiClient | None = None, docker_client: Any = None) -> None:
        super().__init__("kubernetes", session_name, docker_client=docker_client)
        self._connection = Connection(client) if client is not None else None

    def _run_opts(self) -> runopts:
        return Opts.as_runopts()

    def _validate(self, app: AppDef, scheduler: str, cfg: Opts) -> None:
        """A role needs no resources: the namespace's defaults apply."""

    def build_workspace_and_update_role(self, role: Role, workspace: str, cfg: Mapping[str, CfgVal]) -> None:
        """Build an image only if a repository is given: TorchX takes every working directory for a workspace."""
        if cfg.get("image_repo"):
            super().build_workspace_and_update_role(role, workspace, cfg)

    def _submit_dryrun(self, app: AppDef, cfg: Opts) -> AppDryRunInfo[Request, Opts]:
        _check(cfg)
        images = self.dryrun_push_images(app, cfg)
        request = self._request(app, cfg)
        request.images_to_push = images
        for item in request.objects if cfg.validate_spec else ():
            self._cluster().create(item, dry_run=True)
        return AppDryRunInfo(request, str)

    def schedule(self, dryrun_info: AppDryRunInfo[Request, Opts]) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Submit an application; returns its id, `NAMESPACE:NAME`.

        Raises:
            ClusterError: the API server refused an object, or did not answer; no object is left behind.
        """
        request = dryrun_info.request
        self.push_images(request.images_to_push)
        self._create(request.objects)
        return f"{dryrun_info.cfg.namespace}:{request.objects[0]['metadata']['labels'][LABEL_INSTANCE]}"

    def _request(self, app: AppDef, cfg: Opts) -> Request:
        replicas = [role.num_replicas for role in app.roles]
        name = unique_name(app.name, random_id(TOKEN_CHARACTERS), replicas, roles=len(replicas))
        for role in app.roles:  # stock TorchX leaves the namespace out, and its own commands refuse such a name
            if (handle := role.env.get("TORCHX_JOB_ID", "")).endswith("/${app_id}"):
                role.env["TORCHX_JOB_ID"] = handle.replace("${app_id}", f"{cfg.namespace}:${{app_id}}")
        return Request(render(with_overlays(app), _job_config(cfg), name))

    def _create(self, objects: list[dict[str, Any]]) -> None:
        """Jobs first; they own the other objects, which are deleted with the last Job."""
        cluster = self._cluster()
        jobs: list[dict[str, Any]] = []
        try:
            for item in objects:
                if item["kind"] == "Job":
                    jobs.append(cluster.create(item))
                else:
                    metadata = {**item["metadata"], "ownerReferences": [_owner(job) for job in jobs]}
                    cluster.create({**item, "metadata": metadata})
        except BaseException:
            for job in jobs:
                self._delete_job(job["metadata"]["namespace"], job["metadata"]["name"])
            raise

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """The state of an application; None if it does not exist."""
        namespace, name = _split(app_id)
        jobs = self._jobs(namespace, name)
        return description(app_id, jobs, self._pods(namespace, name, jobs)) if jobs else None

    def describe_native(self, app_id: str) -> AppDryRunInfo[Request] | None:
        """The objects of an application as the cluster has them; None if it does not exist."""
        jobs = self._jobs(*_split(app_id))
        return AppDryRunInfo(Request(jobs), str) if jobs else None

    def list(self, cfg: Mapping[str, CfgVal] | None = None) -> list[ListAppResponse]:
        """The applications of a namespace (`default` unless `cfg` names one)."""
        namespace = str((cfg or {}).get("namespace") or "default")
        by_name: dict[str, list[dict[str, Any]]] = {}
        for job in self._cluster().items("Job", namespace, f"{LABEL_MANAGER}={MANAGER}"):
            by_name.setdefault(job["metadata"]["labels"][LABEL_INSTANCE], []).append(job)
        return [
            ListAppResponse(
                app_id=f"{namespace}:{name}",
                state=app_state(jobs),
                name=jobs[0]["metadata"]["labels"].get(LABEL_APP, ""),
            )
            for name, jobs in by_name.items()
        ]

    def _cancel_existing(self, app_id: str) -> None:
        """End an application but keep its Jobs for inspection; a Job that never started is deleted."""
        namespace, name = _split(app_id)
        for job in self._jobs(namespace, name):
            job_name = job["metadata"]["name"]
            if job["spec"].get("suspend"):
                self._delete_job(namespace, job_name)
            elif not is_terminal(job_state(job)):
                patch = {
                    "metadata": {"annotations": {CANCELLED_ANNOTATION: "true"}},
                    "spec": {"activeDeadlineSeconds": 1},
                }
                self._cluster().patch_job(namespace, job_name, patch)

    def _delete_existing(self, app_id: str) -> None:
        """Delete an application; its pods are asked to end."""
        namespace, name = _split(app_id)
        for job in self._jobs(namespace, name):
            self._delete_job(namespace, job["metadata"]["name"])

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """The lines of replica `k` of a role, across restarts of its pod.

        Raises:
            UserError: there is no such role or replica.
            UnsupportedStreamError: only one of stdout and stderr is requested.
        """
        if streams not in (None, Stream.COMBINED):
            raise UnsupportedStreamError(
                "Kubernetes keeps stdout and stderr as one log: leave --streams out, or write --streams combined"
            )
        namespace, name = _split(app_id)
        jobs = self._jobs(namespace, name)
        job = next((job for job in jobs if job["metadata"]["labels"].get(LABEL_ROLE) == label_value(role_name)), None)
        if job is None or not 0 <= k < job["spec"]["completions"]:
            have = ", ".join(
                f"{item['metadata']['labels'][LABEL_ROLE]}/0-{item['spec']['completions'] - 1}" for item in jobs
            )
            raise UserError(f"{app_id} has no replica {role_name}/{k}: it has {have}")
        lines = replica_lines(self._log_source(namespace, name, job, k), since=since, until=until, follow=should_tail)
        return filter_regex(regex, lines) if regex else lines

    def _log_source(self, namespace: str, name: str, job: Mapping[str, Any], replica: int) -> ReplicaLog:
        cluster, container = self._cluster(), main_container(job)
        reported: set[tuple[str, str]] = set()

        def pods() -> list[Mapping[str, Any]]:
            found = replica_pods(job, self._pods(namespace, name, [job]), replica)
            for pod in found:
                reason = waiting_reason(pod)
                if reason and reason not in reported:
                    reported.add(reason)
                    logger.warning("pod %s has no log yet: %s: %s", pod["metadata"]["name"], *reason)
            return found

        def ended() -> bool:
            return all(is_terminal(job_state(job)) for job in self._jobs(namespace, name))

        def lines(pod: Mapping[str, Any], since: datetime | None, follow: bool) -> Iterator[str]:
            return pod_lines(cluster, pod, container, since=since, now=datetime.now(UTC), follow=follow)

        return ReplicaLog(pods=pods, container=container, open=lines, ended=ended)

    def _jobs(self, namespace: str, name: str) -> list[dict[str, Any]]:
        return self._cluster().items("Job", namespace, f"{LABEL_INSTANCE}={name}")

    def _pods(self, namespace: str, name: str, jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The pods of an application's Jobs, oldest first."""
        pods = owned_pods(jobs, self._cluster().items("Pod", namespace, f"{LABEL_INSTANCE}={name}"))
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def _delete_job(self, namespace: str, name: str) -> None:
        with ignore_not_found():
            self._cluster().delete_job(namespace, name, policy="Background")

    def _cluster(self) -> Cluster:
        if self._connection is None:
            self._connection = connect()
        return Cluster(self._connection)


def create_scheduler(
    session_name: str, client: Any = None, docker_client: Any = None, **_: object
) -> KubernetesJobScheduler:
    """The entry point of the TorchX plugin.

    Args:
        session_name: TorchX's session.
        client: a `kubernetes.client.ApiClient`; None connects on first use.
        docker_client: a Docker client for workspaces; None makes one on first use.
    """
    install_excepthook()
    return KubernetesJobScheduler(session_name, client, docker_client)


def _check(cfg: Opts) -> None:
    """Refuse values that TorchX's type checks let through."""
    if (policy := cfg.image_pull_policy) not in (None, *PULL_POLICIES):
        problem = f"image_pull_policy={policy}: write one of {', '.join(PULL_POLICIES)}"
        raise InvalidRunConfigException(problem, "image_pull_policy", cfg)


def _job_config(cfg: Opts) -> JobConfig:
    own = {item.name for item in fields(JobConfig)}
    values = {name: value for name, value in cfg.items() if name in own}
    return JobConfig(**cast("dict[str, Any]", {**values, "image_pull_secrets": tuple(cfg.image_pull_secrets or ())}))


def _owner(job: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}


def _split(app_id: str) -> tuple[str, str]:
    namespace, separator, name = app_id.partition(":")
    if not separator:
        raise UserError(f"{app_id} is not the id of an application on Kubernetes: write NAMESPACE:NAME")
    return namespace, name


class OneLineErrors:
    """Prints each `DihtError` that nobody catches as one line, once; all other errors as before."""

    def __init__(self) -> None:
        self._printed: BaseException | None = None
        self._main, self._thread = sys.excepthook, threading.excepthook

    def in_main(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Stands for `sys.excepthook`."""
        if isinstance(error, DihtError):
            self._print(error)
        else:
            self._main(kind, error, trace)

    def in_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Stands for `threading.excepthook`: `torchx log` reads in threads, and raises their error again at the end."""
        if isinstance(arguments.exc_value, DihtError):
            self._print(arguments.exc_value)
        else:
            self._thread(arguments)

    def _print(self, error: DihtError) -> None:
        if error is not self._printed:
            print(f"diht: {error}", file=sys.stderr)
        self._printed = error


def install_excepthook() -> None:
    """Print one-line errors if this program is the `torchx` command; other programs keep their hooks."""
    installed = isinstance(getattr(sys.excepthook, "__self__", None), OneLineErrors)
    if Path(sys.argv[0]).name == "torchx" and not installed:
        hooks = OneLineErrors()
        sys.excepthook, threading.excepthook = hooks.in_main, hooks.in_thread
