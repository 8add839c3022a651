"""Kinds of objects that the client reaches by their API group and plural."""

from __future__ import annotations

from typing import Final, NamedTuple

from diht_k8s.api.schema.crd import GROUP, PLURAL, VERSION

KUEUE: Final = "kueue.x-k8s.io"
KUEUE_VERSIONS: Final = ("v1beta2", "v1beta1")
SCHEDULING: Final = "scheduling.k8s.io"


class ApiResource(NamedTuple):
    """Where the API server serves a kind."""

    group: str
    version: str
    plural: str


KINDS: Final = {
    "DihtRun": ApiResource(GROUP, VERSION, PLURAL),
    "Workload": ApiResource(KUEUE, KUEUE_VERSIONS[0], "workloads"),
    "ResourceFlavor": ApiResource(KUEUE, KUEUE_VERSIONS[0], "resourceflavors"),
    "WorkloadPriorityClass": ApiResource(KUEUE, KUEUE_VERSIONS[0], "workloadpriorityclasses"),
    "PriorityClass": ApiResource(SCHEDULING, "v1", "priorityclasses"),
    "PodGroup": ApiResource(SCHEDULING, "v1beta1", "podgroups"),
}
