"""The metric of nodes from which gangs move, for an alert that names them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from diht_k8s.controller.node_health.faults import Fault
from diht_k8s.controller.telemetry import metrics


class UnhealthyNodes:
    """Remembers the faults because of which gangs moved, as long as the nodes have them. Any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, set[str]] = {}

    def record(self, faults: Iterable[Fault]) -> None:
        """Gangs move because of these."""
        with self._lock:
            for fault in faults:
                self._told.setdefault(fault.node, set()).add(fault.name)
                metrics.UNHEALTHY.labels(fault.node, fault.name).set(1)

    def keep(self, node: str, faults: Iterable[Fault]) -> None:
        """The node has these faults now and no others."""
        names = {fault.name for fault in faults}
        with self._lock:
            for gone in self._told.get(node, set()) - names:
                metrics.UNHEALTHY.remove(node, gone)
            self._told[node] = self._told.get(node, set()) & names
            if not self._told[node]:
                del self._told[node]
