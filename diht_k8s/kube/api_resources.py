"""The kinds of objects that the client reaches, and their paths on the API server."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote

from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION

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
