"""What the operator keeps in memory of a run between its reconciliations, beside the status. It may be lost at any
time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from diht_k8s.controller.decision import Blocked
from diht_k8s.controller.known_objects import KnownObjects
from diht_k8s.controller.node_health.gang_moves import PendingMove
from diht_k8s.controller.pending_causes import PendingCause
from diht_k8s.controller.pod_logs import ReadLogs
from diht_k8s.controller.report import WrittenStatus


@dataclass
class RunMemory:
    """The memory of one run; what can change is changed by the module that defines it alone, and `reconcile` replaces
    the values.
    """

    objects: KnownObjects
    blocked: Blocked = field(default_factory=Blocked)
    logs: ReadLogs = field(default_factory=ReadLogs)
    pending: PendingCause = field(default_factory=PendingCause)
    move: PendingMove | None = None
    """the fault of a node because of which the gang moves after its next checkpoint."""
    written: WrittenStatus = field(default_factory=WrittenStatus)
    checked: int = 0
    """generation of the document whose objects the API server has checked."""
