"""Labels and annotations by which Jobs, pods and Workloads name the run that they belong to."""

from __future__ import annotations

from typing import Final

RUN_LABEL: Final = "diht.dev/run"
STAGE_LABEL: Final = "diht.dev/stage"
"""The name of the entry in status.stages: `train`, `label-heads`, ..."""
ATTEMPT_LABEL: Final = "diht.dev/attempt"
RUN_UID_LABEL: Final = "diht.dev/run-uid"
"""Names the run of a pod that is left of a Job which no operator has seen."""
WORKLOAD_ANNOTATION: Final = "diht.dev/workload"
"""Name of the Workload on whose quota a Job runs."""
QUEUE_ANNOTATION: Final = "diht.dev/queue-name"
"""Name of that Workload's queue."""
QUEUED_ANNOTATION: Final = "diht.dev/queued-since"
"""When the Workload was created; on the Job of the first attempt, which did not exist while it waited."""
EXTRA_LABEL: Final = "diht.dev/extra-nodes"
"""On the Workload of the nodes beyond train.minNodes."""
QUOTA_ANNOTATION: Final = "diht.dev/quota-nodes"
"""On the Job of an elastic training: the nodes for which it had quota as it was made."""
SHAPE_ANNOTATION: Final = "diht.dev/shape"
"""Digest of the pods that a Workload asks quota for."""
UNHEALTHY_NODES_ANNOTATION: Final = "diht.dev/unhealthy-nodes"
"""Nodes that were known as unhealthy when a Job was created; its gang is not moved away from them again."""
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
JOB_UID_LABEL: Final = "batch.kubernetes.io/controller-uid"
"""Stays on a pod whose Job was deleted without it."""
