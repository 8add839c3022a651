"""The cluster as the `diht` commands see it: runs by name, events, pods and logs, with errors that say what to do."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.errors import DihtError, RetryableError, UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION
from diht_k8s.kube.controller_client import ClusterError, answer_of, connect, json_of
from diht_k8s.kube.launch_client import kubeconfig_problems
from diht_k8s.kube.summaries import RUN_LABEL

POD_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
FIELD_MANAGER: Final = "diht"


@contextlib.contextmanager
def said_clearly(what: str) -> Iterator[None]:
    """Errors of the API server as ours."""
    try:
        yield
    except ClusterError as error:
        raise translated(error, what) from error


def translated(error: ClusterError, what: str) -> DihtError:
    """What an answer of the API server means to a person."""
    if error.status in (0, 429, 500, 502, 503, 504):
        return RetryableError(f"{what}: {error.message}: check that the cluster runs and KUBECONFIG names it")
    if error.status == 404 and "the server could not find the requested resource" in error.message:
        return UserError(f"{what}: the cluster does not know DihtRuns: install the operator")
    if error.status == 404:
        return UserError(f"{what}: not found: check the name and --namespace")
    return UserError(f"{what}: {error.message}")


@dataclass(frozen=True)
class Kube:
    """A namespace of a cluster."""

    api: client.ApiClient
    namespace: str

    def run(self, name: str) -> dict[str, Any]:
        """A run as the API server has it."""
        with said_clearly(f"run {self.namespace}/{name}"):
            custom = client.CustomObjectsApi(self.api)
            return json_of(custom.get_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, name)

    def apply(self, run: DihtRun, *, dry_run: bool = False) -> dict[str, Any]:
        """Create a run, or change it to what the document says; unknown keys are errors."""
        given = run.model_dump(by_alias=True, exclude_unset=True, exclude={"status"}, exclude_none=True)
        given["metadata"] = {"name": run.metadata.name, "namespace": self.namespace}
        options: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        with said_clearly(f"run {self.namespace}/{run.metadata.name}"):
            return json_of(
                client.CustomObjectsApi(self.api).patch_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                run.metadata.name,
                json.loads(canonical_json(given)),
                field_manager=FIELD_MANAGER,
                field_validation="Strict",
                force=True,
                _content_type="application/apply-patch+yaml",
                **options,
            )

    def annotate(self, name: str, key: str, value: str) -> None:
        """Set an annotation of a run."""
        patch = {"metadata": {"annotations": {key: value}}}
        with said_clearly(f"run {self.namespace}/{name}"):
            answer_of(
                client.CustomObjectsApi(self.api).patch_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                name,
                patch,
                _content_type="application/merge-patch+json",
            )

    def delete(self, name: str) -> None:
        """Delete a run; its Jobs and pods follow."""
        with said_clearly(f"run {self.namespace}/{name}"):
            custom = client.CustomObjectsApi(self.api)
            answer_of(custom.delete_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, name)

    def events(self, uid: str) -> list[dict[str, Any]]:
        """The events of a run, oldest first."""
        with said_clearly("events"):
            core = client.CoreV1Api(self.api)
            found = json_of(core.list_namespaced_event, self.namespace, field_selector=f"involvedObject.uid={uid}")
        return sorted(found["items"], key=lambda event: event.get("lastTimestamp") or "")

    def pods(self, run: str) -> list[dict[str, Any]]:
        """The pods of a run."""
        with said_clearly(f"pods of run {self.namespace}/{run}"):
            core = client.CoreV1Api(self.api)
            return json_of(core.list_namespaced_pod, self.namespace, label_selector=f"{RUN_LABEL}={run}")["items"]

    def log(self, pod: str, *, follow: bool, lines: int | None) -> Iterator[bytes]:
        """The log of a pod, in blocks as they come."""
        options: dict[str, Any] = {"follow": True, "_request_timeout": None} if follow else {}
        if lines is not None:
            options["tail_lines"] = lines
        with said_clearly(f"log of pod {self.namespace}/{pod}"):
            response = answer_of(client.CoreV1Api(self.api).read_namespaced_pod_log, pod, self.namespace, **options)
        try:
            yield from response.stream(1 << 14)
        finally:
            response.close()


def open_kube(namespace: str | None) -> Kube:
    """The cluster that KUBECONFIG (or the pod) names.

    Raises:
        UserError: there is none.
    """
    with kubeconfig_problems():
        return Kube(connect(), namespace or _default_namespace())


def _default_namespace() -> str:
    """The pod's own namespace, or that of the current context."""
    if "KUBERNETES_SERVICE_HOST" in os.environ and POD_NAMESPACE_FILE.exists():
        return POD_NAMESPACE_FILE.read_text().strip()
    _, current = config.list_kube_config_contexts()
    return current["context"].get("namespace", "default")
