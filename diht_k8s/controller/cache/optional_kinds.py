"""Kinds that a cluster may not serve, or that the operator may not read: their store is empty then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from diht_k8s.controller.cache.informer import Informer
from diht_k8s.controller.cache.watch import Watch
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.workload_summary import WorkloadSummary

ABSENT_S: Final = 30.0
"""How long to wait before asking again for a kind that is not there."""
ABSENT: Final = (403, 404)
ASK_AGAIN_S: Final = 600.0
"""For how long an answer about what the cluster serves is used."""


class OptionalWatch(Watch):
    """A watch that counts as synced while its kind is not there."""

    absent = ""
    """why the store is empty; empty while the kind is served."""

    def _list(self) -> str | None:
        try:
            version = super()._list()
        except ClusterError as error:
            if error.status not in ABSENT:
                raise
            self.absent = error.message
            self._retain(set())
            self._answered()
            self.synced.set()
            self._stop.wait(ABSENT_S)
            return None
        self.absent = ""
        return version


class WorkloadInformer(OptionalWatch, Informer[WorkloadSummary]):
    """The Workloads of our runs, where Kueue is installed."""


class PodGroups:
    """Whether the cluster serves PodGroups, asked again from time to time: it may be upgraded."""

    def __init__(self, cluster: Cluster, *, allowed: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Make one; `allowed` is whether the operator may use them, `clock` gives seconds, monotonic."""
        self._cluster, self._allowed, self._clock = cluster, allowed, clock
        self._served, self._asked_at = False, float("-inf")

    def __call__(self) -> bool:
        """Whether gangs get PodGroups.

        Raises:
            ClusterError: the API server does not answer.
        """
        if self._allowed and self._clock() >= self._asked_at + ASK_AGAIN_S:
            self._served, self._asked_at = self._cluster.serves_kind("PodGroup"), self._clock()
        return self._allowed and self._served
