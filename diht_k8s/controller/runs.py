"""The known runs at their newest version: kopf's watch and our own writes feed them. Thread-safe.

A version that is older than the one here is dropped, so that a late event never takes back what we have just written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import API_VERSION, DihtRun
from diht_k8s.api.schema.crd import KIND
from diht_k8s.api.status import Status
from diht_k8s.controller.saved_status import has_ended

Key = tuple[str, str]
"""Namespace and name."""
RETRY_ANNOTATION = "diht.dev/retry"
"""Its value is the completionTime of the failure to retry (`diht retry` sets it)."""


@dataclass(frozen=True)
class KnownRun:
    """One run as the API server has it."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    created_at: str
    output: str
    document: Mapping[str, Any]
    deleting: bool = False

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def status(self) -> Status:
        """Its status; an empty one if there is none yet."""
        return Status.model_validate(self.document.get("status") or {})

    @property
    def retry(self) -> str:
        """The completionTime of the failure that a person wants to retry."""
        return (self.document["metadata"].get("annotations") or {}).get(RETRY_ANNOTATION, "")

    def parsed(self) -> DihtRun:
        """The run as our models read it.

        Raises:
            UserError: they cannot read it (an operator that is older than the CRD).
        """
        metadata = {"name": self.name, "namespace": self.namespace}
        document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": self.document["spec"]}
        try:
            return DihtRun.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"this operator cannot read the spec: {where}: {first['msg']}") from error

    @property
    def owner_reference(self) -> dict[str, Any]:
        """The owner reference that makes an object a child of this run."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }


def known_run(document: Mapping[str, Any]) -> KnownRun:
    """A run from its JSON, without managedFields."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    spec = document.get("spec") or {}
    return KnownRun(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        created_at=metadata.get("creationTimestamp", ""),
        output=str((spec.get("data") or {}).get("output", "")).rstrip("/"),
        document={"metadata": metadata, "spec": spec, "status": document.get("status") or {}},
        deleting="deletionTimestamp" in metadata,
    )


class Runs:
    """All runs by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Key, KnownRun] = {}
        self._parsed: dict[str, tuple[int, DihtRun]] = {}
        self._by_output: dict[str, set[Key]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def keys(self) -> list[Key]:
        """The keys of all runs."""
        with self._lock:
            return list(self._known)

    def get(self, key: Key) -> KnownRun | None:
        """A run; None if it is gone."""
        with self._lock:
            return self._known.get(key)

    def put(self, run: KnownRun) -> bool:
        """Store a run; False if a version at least as new is stored."""
        with self._lock:
            old = self._known.get(run.key)
            if old is not None and int(old.version) >= int(run.version):
                return False
            if old is not None and (old.output != run.output or old.uid != run.uid):
                self._drop(old)
            self._known[run.key] = run
            self._by_output.setdefault(run.output, set()).add(run.key)
            return True

    def remove(self, key: Key, uid: str | None = None) -> KnownRun | None:
        """Remove a run if its UID matches; returns it."""
        with self._lock:
            old = self._known.get(key)
            if old is None or uid not in (None, old.uid):
                return None
            del self._known[key]
            self._drop(old)
            return old

    def parsed(self, run: KnownRun) -> DihtRun:
        """The run as our models read it, cached for its generation.

        Raises:
            UserError: they cannot read it.
        """
        with self._lock:
            found = self._parsed.get(run.uid)
        if found is not None and found[0] == run.generation:
            return found[1]
        parsed = run.parsed()
        with self._lock:
            self._parsed[run.uid] = (run.generation, parsed)
        return parsed

    def sharing_output(self, run: KnownRun) -> list[KnownRun]:
        """Other runs that write to the same place; a plain path is the same place within one namespace only."""
        with self._lock:
            others = [self._known[key] for key in self._by_output.get(run.output, ()) if key != run.key]
        return [other for other in others if other.namespace == run.namespace or run.output.startswith("s3://")]

    def holder_of_output(self, run: KnownRun) -> KnownRun | None:
        """The run that uses the output; None if it is this run."""
        mine = _claim(run)
        rivals = [other for other in self.sharing_output(run) if not has_ended(other.status)]
        return min((other for other in rivals if _claim(other) < mine), key=_claim, default=None)

    def _drop(self, run: KnownRun) -> None:
        self._parsed.pop(run.uid, None)
        keys = self._by_output.get(run.output, set())
        keys.discard(run.key)
        if not keys:
            self._by_output.pop(run.output, None)


def _claim(run: KnownRun) -> tuple[bool, str, str]:
    """Who comes first: a run that has started, then the older one."""
    return not run.status.start_time, run.created_at, run.uid
