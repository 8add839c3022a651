"""What Warning events say of Jobs and pods that do not start, a namespace at a time.

For each question about events an API server reads all events of the namespace, whatever the selector: with a thousand runs that wait,
a question for each would keep it from everything else. So one answer serves all runs of a namespace, and the next question waits the
longer the more the last one cost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.controller.observe import Problem, event_problem
from diht_k8s.kube.client import Cluster

LEAST_AGE_S: Final = 2.0
"""An answer is good for so long at least."""
COST_FACTOR: Final = 20.0
"""And for so many times the seconds that it took: at most a twentieth of the time is spent on such questions."""
ASKING_S: Final = 60.0
"""For so long nobody else asks while one does; the answer that is there serves meanwhile."""


@dataclass
class _Answer:
    good_until: float = float("-inf")
    problems: dict[str, Problem] = field(default_factory=dict)


class Complaints:
    """The newest problem of each object, by its uid."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        """Make one; `clock` gives seconds, monotonic."""
        self._cluster, self._clock = cluster, clock
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}

    def about(self, namespace: str, uid: str) -> Problem | None:
        """What is wrong with an object; None where nothing is known.

        Raises:
            ClusterError: the API server does not say.
        """
        with self._lock:
            answer, now = self._answers.setdefault(namespace, _Answer()), self._clock()
            old = now >= answer.good_until
            if old:
                answer.good_until = now + ASKING_S
        if old:
            self._ask(namespace, answer)
        return answer.problems.get(uid)

    def _ask(self, namespace: str, answer: _Answer) -> None:
        began = self._clock()
        found: dict[str, tuple[str, Problem]] = {}
        try:
            for event in self._cluster.warnings(namespace):
                uid = event["involvedObject"].get("uid", "")
                at = event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
                problem = event_problem(event.get("reason", ""), event.get("message", ""))
                if problem is not None and (uid not in found or found[uid][0] <= at):
                    found[uid] = (at, problem)
            answer.problems = {uid: problem for uid, (_, problem) in found.items()}
        finally:
            now = self._clock()
            answer.good_until = now + max(LEAST_AGE_S, COST_FACTOR * (now - began))
