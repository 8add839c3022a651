"""Applications on Volcano: stock TorchX's scheduler with additions. Experimental: tested by golden manifests only.

The additions: the variable with replica 0's address is spelled as Volcano spells it (roles with a dash in their name
could not rendezvous), options that stock TorchX lacks, and the overlay `V1Container`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from torchx.schedulers.kubernetes_scheduler import KubernetesJob, KubernetesScheduler, sanitize_for_serialization
from torchx.schedulers.kubernetes_scheduler import Opts as StockOpts
from torchx.specs import AppDef, AppDryRunInfo, CfgVal, Role
from torchx.specs.overlays import apply_overlay, get_overlay
from torchx.util.strings import normalize_str

from diht_k8s.api.errors import UserError
from diht_k8s.kube.connection import connect
from diht_k8s.launch.pod_template import image_entrypoint

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

GROUP: Final = "batch.volcano.sh"
STOCK_OPTIONS: Final = (
    "queue",
    "namespace",
    "service_account",
    "priority_class",
    "reserved_millicpu",
    "reserved_memmb",
    "efa_device_count",
)
_UNSERVED: Final = (403, 404)
T = TypeVar("T")


class VolcanoScheduler(KubernetesScheduler):
    """Stock TorchX's scheduler on the connection of this project's client."""

    def _api_client(self) -> ApiClient:
        if self._client is None:
            self._client = connect().api
        return self._client

    def validate(self, resource: dict[str, Any], namespace: str) -> None:
        """Ask the API server whether it would accept a job."""
        self._custom_objects_api().create_namespaced_custom_object(
            group=GROUP, version="v1alpha1", namespace=namespace, plural="jobs", body=resource, dry_run="All"
        )


def volcano_job(scheduler: KubernetesScheduler, app: AppDef, cfg: Mapping[str, CfgVal]) -> dict[str, Any]:
    """Volcano's job for an application, as plain JSON.

    Args:
        scheduler: the scheduler of stock TorchX.
        app: the application, with all overlays in its roles.
        cfg: `kubernetes_job.Opts`; `queue` is set.

    Raises:
        UserError: a role has no image.
    """
    for role in app.roles:
        if not role.image:
            raise UserError(f"role {role.name} has no image: give --image, or pods.image in the run document")
    app = replace(app, roles=[replace(role, entrypoint=image_entrypoint(role.entrypoint)) for role in app.roles])
    options = StockOpts.from_cfg({**{name: cfg[name] for name in STOCK_OPTIONS}, "validate_spec": False})
    job: Any = sanitize_for_serialization(scheduler._submit_dryrun(app, options).request.resource)
    roles = [role for role in app.roles for _ in range(role.num_replicas)]
    for task, role in zip(job["spec"]["tasks"], roles, strict=True):
        _complete(task["template"]["spec"], role, cfg)
    if cfg["ttl_seconds_after_finished"] is not None:
        job["spec"]["ttlSecondsAfterFinished"] = cfg["ttl_seconds_after_finished"]
    return _with_volcano_variables(job, app.roles[0])


def dry_run_info(resource: dict[str, Any], namespace: str) -> AppDryRunInfo[KubernetesJob, StockOpts]:
    """The argument of stock TorchX's `schedule`."""
    info: AppDryRunInfo[KubernetesJob, StockOpts] = AppDryRunInfo(KubernetesJob({}, resource), repr)
    info.cfg = StockOpts(queue=resource["spec"]["queue"], namespace=namespace)
    return info


def none_if_unserved(call: Callable[[], T]) -> T | None:
    """The result of a call to Volcano's API; None if the cluster does not serve it, or denies it to this user."""
    from kubernetes.client import ApiException

    try:
        return call()
    except ApiException as error:
        if error.status in _UNSERVED:
            return None
        raise


def _complete(spec: dict[str, Any], role: Role, cfg: Mapping[str, CfgVal]) -> None:
    """Add to a pod's specification what stock TorchX has no option for."""
    container = spec["containers"][0]
    if cfg["image_pull_policy"]:
        container["imagePullPolicy"] = cfg["image_pull_policy"]
    secrets: Any = cfg["image_pull_secrets"] or []
    if secrets:
        spec["imagePullSecrets"] = [*spec.get("imagePullSecrets", []), *({"name": name} for name in secrets)]
    apply_overlay(container, get_overlay(role, "kubernetes", "V1Container", flat_fallback=False))


def _with_volcano_variables(job: dict[str, Any], first: Role) -> dict[str, Any]:
    """Volcano writes an underscore for each dash of a task's name in its variables; stock TorchX keeps the dash."""
    variable = f"VC_{normalize_str(first.name)}_0_HOSTS".upper()
    return json.loads(json.dumps(job).replace(variable, variable.replace("-", "_")))
