"""The runs of one namespace as the `diht` commands see them: by name, with errors that name the command's options."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import SWEEP_LABEL, DihtRun
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import POD_ACCOUNT, connect, in_pod
from diht_k8s.kube.errors import ClusterError, kubeconfig_errors
from diht_k8s.kube.job_summary import JobSummary, job_summary
from diht_k8s.kube.object_fields import RUN_LABEL
from diht_k8s.kube.pod_summary import PodSummary, pod_summary


@dataclass(frozen=True)
class RunClient:
    """Runs of a namespace. Every method raises `ClusterError`, or `UserError` for a run that does not exist."""

    cluster: Cluster
    namespace: str

    def run(self, name: str) -> dict[str, Any]:
        """A run as the API server has it."""
        with self._named(name):
            return self.cluster.get_run(self.namespace, name)

    def all(self, sweep: str | None = None) -> list[dict[str, Any]]:
        """The runs of the namespace, or the variants of a sweep there, by name."""
        selector = "" if sweep is None else f"{SWEEP_LABEL}={sweep}"
        return sorted(self.cluster.runs(self.namespace, selector), key=lambda run: run["metadata"]["name"])

    def apply(self, run: DihtRun, *, dry_run: bool = False) -> dict[str, Any]:
        """Create a run, or change it to what the document says; an unknown key is an error."""
        given = run.model_dump(by_alias=True, exclude_unset=True, exclude={"status"}, exclude_none=True)
        given["metadata"]["namespace"] = self.namespace
        document = json.loads(canonical_json(given))
        with self._named(run.metadata.name):
            return self.cluster.apply_run(self.namespace, run.metadata.name, document, dry_run=dry_run)

    def annotate(self, name: str, key: str, value: str) -> None:
        """Set an annotation of a run."""
        with self._named(name):
            self.cluster.annotate_run(self.namespace, name, key, value)

    def delete(self, name: str) -> None:
        """Delete a run; its Jobs and pods follow."""
        with self._named(name):
            self.cluster.delete_run(self.namespace, name)

    def events(self, uid: str) -> list[dict[str, Any]]:
        """The events of a run, oldest first."""
        found = self.cluster.events(self.namespace, f"involvedObject.uid={uid}")
        return sorted(found, key=lambda event: event.get("lastTimestamp") or "")

    def pods(self, run: Mapping[str, Any]) -> list[PodSummary]:
        """The pods of a run: a Job that it owns or once had owns them. Labels prove nothing, since anybody may set
        them.
        """
        metadata, selector = run["metadata"], f"{RUN_LABEL}={run['metadata']['name']}"
        jobs = map(job_summary, self.cluster.items("Job", self.namespace, selector))
        own = {job.uid for job in jobs if isinstance(job, JobSummary) and job.owner_uid == metadata["uid"]}
        own |= {attempt.get("uid") for attempt in (run.get("status") or {}).get("attempts") or ()}
        pods = map(pod_summary, self.cluster.items("Pod", self.namespace, selector))
        return [pod for pod in pods if isinstance(pod, PodSummary) and pod.job_uid and pod.job_uid in own]

    def log(self, pod: PodSummary, *, follow: bool, lines: int | None) -> Iterator[bytes]:
        """The log of a pod's program, in blocks as they come: its last `lines`, or all."""
        query: dict[str, Any] = {"container": pod.container} if pod.container else {}
        if lines is not None:
            query["tailLines"] = lines
        return self.cluster.log(self.namespace, pod.name, follow=follow, **query)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except ClusterError as error:
            if not error.is_not_found:
                raise
            why = (
                "the cluster does not know DihtRuns: install the operator"
                if error.is_unknown_kind
                else "not found: check the name and --namespace"
            )
            raise UserError(f"run {self.namespace}/{name}: {why}") from error


def run_client(namespace: str | None) -> RunClient:
    """The runs of a namespace; None takes the pod's own namespace, or that of the kubeconfig's current context.

    Raises:
        UserError: there is no cluster, or the client library is not installed.
    """
    cluster = Cluster(connect())
    return RunClient(cluster, namespace or _default_namespace())


def _default_namespace() -> str:
    from kubernetes import config

    if in_pod():
        return (POD_ACCOUNT / "namespace").read_text().strip()
    with kubeconfig_errors():
        _, current = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
        return current["context"].get("namespace", "default")
