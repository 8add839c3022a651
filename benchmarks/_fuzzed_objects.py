"""Pods, Jobs, events and runs that anybody may create, drawn from a seed. Pure."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.kube.object_fields import ATTEMPT_LABEL, INDEX_LABEL, JOB_UID_LABEL, RUN_LABEL, STAGE_LABEL

Json = dict[str, Any]
FINALIZER: Final = "example.com/never-removed"
KINDS: Final = {"Pod": 45, "Job": 20, "Event": 20, "DihtRun": 15}
"""Shares of the kinds, in percent."""
TENANT_SHARE: Final = 0.2
"""Share of the objects that lie in the tenants' namespace and name their runs."""
STAGES: Final = ("filter", "label-vocabulary", "label-heads", "label-predict", "train", "evaluate", "label", "mining")
NUMBERS: Final = ("0", "1", "2", "7", "-1", "abc", "0x1", "", "1.5", "9" * 20, "9" * 63, "00001", "²")
WORDS: Final = (
    "",
    "Error",
    "Evicted",
    "OOMKilled",
    "DeletionByTaintManager",
    "ContainerStatusUnknown",
    "ImagePullBackOff",
    "ErrImagePull",
    "CreateContainerConfigError",
    "FailedCreate",
    "FailedMount",
    "BackoffLimitExceeded",
    "x" * 63,
    "%s{0}",
    "日本 😀",
    "\u202e\u2028",
    "null",
)
MESSAGES: Final = (
    "",
    "{}",
    "[]",
    '{"reason": 1}',
    '{"reason": "UserError", "message": "m"}',
    "a\nb\x1b[31m",
    "m" * 5000,
    "😀",
    "exceeded quota",
    "violates PodSecurity",
    "denied the request",
    "Back-off pulling image",
    '{"done": 1e999}',
    "Pod a/b has condition DisruptionTarget",
)
TIMES: Final = (
    "1970-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    None,
    "yesterday",
)
STRANGE: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    "",
    " ",
    "x" * 300,
    "1",
    "²",
    "\u202e",
    [],
    {},
    [[]],
    [None],
    {"a": {"b": None}},
    {"": ""},
    "2026-13-01T00:00:00Z",
    "yesterday",
)
"""A value of any type for any field."""
PHASES: Final = ("Pending", "Running", "Succeeded", "Failed", "Unknown", "", "Sleeping")
_CONTAINER: Final[Json] = {"name": "main", "image": "example.org/none:1"}


@dataclass(frozen=True)
class Fuzzed:
    """One object for the API server."""

    kind: str
    document: Json
    status: Json | None
    """what its status is set to after its creation; None leaves it alone."""
    deleted: bool
    """whether it is deleted afterwards; with a finalizer it then stays for ever."""

    @property
    def namespace(self) -> str:
        """Where it lies."""
        return self.document["metadata"]["namespace"]

    @property
    def name(self) -> str:
        """Its name."""
        return self.document["metadata"]["name"]


def fuzzed_objects(
    seed: int, count: int, *, namespace: str, tenants: tuple[str, Sequence[str]], run: Json
) -> Iterator[Fuzzed]:
    """Draw objects.

    Args:
        seed: of all of them.
        count: how many.
        namespace: where most of them lie.
        tenants: namespace and runs of others, whose names some of the objects bear.
        run: a sound run document, from which fuzzed runs are made.
    """
    for number in range(count):
        yield _Draw(random.Random(f"{seed}/{number}"), number, namespace, tenants, run).object()


class _Draw:
    """One object's draw."""

    def __init__(
        self, rng: random.Random, number: int, namespace: str, tenants: tuple[str, Sequence[str]], run: Json
    ) -> None:
        self._rng, self._number, self._run = rng, number, run
        beside = rng.random() < TENANT_SHARE
        self._namespace = tenants[0] if beside else namespace
        self._of = rng.choice(tenants[1]) if beside else f"fuzz-{rng.randrange(500):05d}"

    def object(self) -> Fuzzed:
        rng = self._rng
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        make = {"Pod": self._pod, "Job": self._job, "Event": self._event, "DihtRun": self._dihtrun}[kind]
        document, status = make()
        if rng.random() < 0.2:  # a field of any type, most of which an API server refuses
            document = self._damaged(document)
        if status is not None and rng.random() < 0.3:
            status = self._damaged(status)
        return Fuzzed(kind, document, status, deleted=kind != "Event" and rng.random() < 0.15)

    def _pod(self) -> tuple[Json, Json | None]:
        spec: Json = {"containers": [_CONTAINER], "restartPolicy": "Never"}
        if self._rng.random() < 0.3:
            spec["nodeName"] = "fake-0"
        elif self._rng.random() < 0.7:
            spec["schedulingGates"] = [{"name": "example.com/closed"}]
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": self._metadata("Job", "batch/v1"), "spec": spec}
        return document, self._pod_status() if self._rng.random() < 0.7 else None

    def _pod_status(self) -> Json:
        rng, word, time = self._rng, self._word, self._time
        ends = {
            "exitCode": rng.choice([0, 1, 64, 65, 75, 137, 143, -1, 2**31 - 1]),
            "reason": word(),
            "message": self._message(),
            "startedAt": time(),
            "finishedAt": time(),
        }
        states = [
            {"waiting": {"reason": word(), "message": self._message()}},
            {"running": {"startedAt": time()}},
            {"terminated": ends},
            {},
        ]
        kinds = ("Ready", "PodScheduled", "DisruptionTarget", "Initialized", "example.com/Mine")
        conditions = [
            {
                "type": kind,
                "status": rng.choice(["True", "False", "Unknown"]),
                "reason": word(),
                "message": self._message(),
                "lastTransitionTime": time(),
            }
            for kind in rng.sample(kinds, rng.randrange(4))
        ]
        container = {
            "name": rng.choice(["main", "sidecar"]),
            "image": "i",
            "imageID": "",
            "restartCount": rng.choice([0, 3, 2**31 - 1]),
            "ready": rng.random() < 0.5,
            "state": rng.choice(states),
        }
        return {
            "phase": rng.choice(PHASES),
            "reason": word(),
            "message": self._message(),
            "startTime": time(),
            "conditions": conditions,
            "containerStatuses": [container][: rng.randrange(2)],
        }

    def _job(self) -> tuple[Json, Json | None]:
        rng = self._rng
        labels = self._labels() if rng.random() < 0.5 else {}
        labels = {key: value for key, value in labels.items() if not key.startswith("batch.kubernetes.io/")}
        pod = {
            "containers": [_CONTAINER],
            "restartPolicy": "Never",
            "schedulingGates": [{"name": "example.com/closed"}],
        }
        spec = {
            "parallelism": rng.choice([0, 1, 2]),
            "completions": 2,
            "suspend": rng.random() < 0.5,
            "completionMode": "Indexed",
            "backoffLimit": rng.choice([0, 6, 2**31 - 1]),
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        metadata = self._metadata("DihtRun", "diht.dev/v1alpha1")
        if self._of.startswith("fuzz") and rng.random() < 0.3:  # the name that the operator will want
            metadata["name"] = f"{self._of}-filter-1"
        kind = rng.choice(["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet", "Suspended"])
        condition = {
            "type": kind,
            "status": "True",
            "reason": self._word(),
            "message": self._message(),
            "lastTransitionTime": self._time(),
        }
        status = {"conditions": [condition], "startTime": self._time(), "active": rng.choice([0, 1, 2**31 - 1])}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": spec,
        }, status if rng.random() < 0.4 else None

    def _event(self) -> tuple[Json, None]:
        rng = self._rng
        about = {
            "kind": rng.choice(["Pod", "Job", "DihtRun", ""]),
            "name": f"{self._of}-filter-1",
            "namespace": self._namespace,
            "uid": rng.choice(["", "no-uid", self._uid()]),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"e-{self._number}", "namespace": self._namespace},
            "involvedObject": about,
            "type": rng.choice(["Warning", "Normal", ""]),
            "reason": self._word(),
            "message": self._message()[:1000],
            "lastTimestamp": self._time(),
            "count": rng.choice([0, 1, -1, 2**31 - 1]),
        }
        return document, None

    def _dihtrun(self) -> tuple[Json, Json | None]:
        rng, run = self._rng, copy.deepcopy(self._run)
        metadata = self._metadata("DihtRun", "diht.dev/v1alpha1")
        metadata["name"], metadata["namespace"] = f"fuzz-{self._number:05d}", self._namespace
        metadata["annotations"] = {"diht.dev/retry": rng.choice(["", "2026-01-01T00:00:00Z", "x" * 300])}
        run["metadata"] = metadata
        run["spec"]["data"]["output"] = f"s3://corpus/fuzz/{rng.randrange(2 * self._number + 1)}"  # some share it
        run["spec"]["suspend"] = rng.random() < 0.3
        if rng.random() < 0.3:
            run["spec"]["ttlSecondsAfterFinished"] = rng.choice([0, 1, 2**31 - 1])
        return run, self._run_status() if rng.random() < 0.7 else None

    def _run_status(self) -> Json:
        rng, time, small = self._rng, self._time, (0, 1, 7, 2**31 - 1)
        stages = [
            {
                "name": name,
                "stage": name.split("-")[0] if name != "mining" else "filter",
                "state": rng.choice(["Pending", "Running", "Restarting", "Stopped", "Complete", "Cached", "Failed"]),
                "attempt": rng.choice(small),
                "restarts": rng.choice(small),
                "notBefore": time() or "2026-01-01T00:00:00Z",
            }
            for name in rng.sample(STAGES, rng.randrange(5))
        ]
        conditions = [
            {
                "type": kind,
                "status": rng.choice(["True", "False", "Unknown"]),
                "reason": rng.choice(["Queued", "Pending", "Mine"]),
                "message": self._message()[:1000],
                "lastTransitionTime": time() or "2026-01-01T00:00:00Z",
            }
            for kind in rng.sample(("Accepted", "Progressing", "Complete", "Failed"), rng.randrange(4))
        ]
        status = {
            "observedGeneration": rng.choice((0, 1, 2**62)),
            "stages": stages,
            "conditions": conditions,
            "startTime": time(),
            "completionTime": time(),
            "restarts": rng.choice(small),
            "pods": {"desired": rng.choice(small), "ready": rng.choice(small)},
        }
        return {key: value for key, value in status.items() if value is not None and rng.random() < 0.8}

    def _metadata(self, owner_kind: str, owner_version: str) -> Json:
        rng = self._rng
        metadata: Json = {"name": f"f-{self._number}", "namespace": self._namespace, "labels": self._labels()}
        if rng.random() < 0.15:
            metadata["finalizers"] = [FINALIZER]
        if rng.random() < 0.3:
            owner = {
                "apiVersion": owner_version,
                "kind": rng.choice([owner_kind, "ConfigMap"]),
                "name": rng.choice([f"{self._of}-filter-1", self._of]),
                "uid": self._uid(),
                "controller": rng.random() < 0.8,
            }
            metadata["ownerReferences"] = [owner]
        if rng.random() < 0.2:
            metadata["annotations"] = {"example.com/a": self._message()}
        return metadata

    def _labels(self) -> dict[str, str]:
        rng = self._rng
        labels = {
            RUN_LABEL: self._of,
            STAGE_LABEL: rng.choice(STAGES),
            ATTEMPT_LABEL: self._number_text(),
            INDEX_LABEL: self._number_text(),
            JOB_UID_LABEL: self._uid(),
            "kueue.x-k8s.io/queue-name": "q",
            "app": rng.choice(["", "x", "a.b_c-d"]),
        }
        return {key: value for key, value in labels.items() if rng.random() < 0.95}

    def _damaged(self, document: Json) -> Json:
        """The document with a strange value in one place; name and namespace stay, so that it can be found."""
        found = copy.deepcopy(document)
        places = [
            place for place in _places(found) if place[1] not in ("name", "namespace", "apiVersion", "kind", "metadata")
        ]
        if places:
            inner, key = self._rng.choice(places)
            inner[key] = self._rng.choice(STRANGE)
        return found

    def _uid(self) -> str:
        return f"{self._rng.getrandbits(32):08x}-0000-4000-8000-{self._rng.getrandbits(48):012x}"

    def _word(self) -> str:
        return self._rng.choice(WORDS)

    def _number_text(self) -> str:
        return self._rng.choice(NUMBERS) if self._rng.random() < 0.4 else "1"

    def _message(self) -> str:
        return self._rng.choice(MESSAGES)

    def _time(self) -> str | None:
        return self._rng.choice(TIMES)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container of a document with each of its keys."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])
