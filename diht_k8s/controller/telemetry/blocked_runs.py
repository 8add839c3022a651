"""The metric of the runs that cannot go on, by reason."""

from __future__ import annotations

import threading
from collections import Counter

from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.status import Status
from diht_k8s.controller.events import TROUBLES
from diht_k8s.controller.mirror.runs import Key
from diht_k8s.controller.saved_status import condition, has_ended
from diht_k8s.controller.telemetry import metrics

for _reason in TROUBLES:
    metrics.BLOCKED.labels(_reason.value)


class BlockedRuns:
    """Counts the runs that cannot go on, by reason. Any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[Key, Reason] = {}

    def record(self, key: Key, status: Status) -> None:
        """A run's status is, or stays, this."""
        self._set(key, _blocked_by(status))

    def forget(self, key: Key) -> None:
        """A run is gone or needs nothing more."""
        self._set(key, None)

    def _set(self, key: Key, reason: Reason | None) -> None:
        with self._lock:
            if self._reasons.get(key) is reason:
                return
            if reason is None:
                del self._reasons[key]
            else:
                self._reasons[key] = reason
            counts = Counter(self._reasons.values())
            for each in TROUBLES:
                metrics.BLOCKED.labels(each.value).set(counts[each])


def _blocked_by(status: Status) -> Reason | None:
    if has_ended(status):
        return None
    accepted, progressing = condition(status, ConditionType.ACCEPTED), condition(status, ConditionType.PROGRESSING)
    found = accepted if accepted is not None and accepted.status == "False" else progressing
    return found.reason if found is not None and found.reason in TROUBLES else None
