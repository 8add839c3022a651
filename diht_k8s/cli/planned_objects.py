"""`diht plan`: every object that a run would create, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import yaml

from diht_k8s.api.documents import document_of, load, read_text
from diht_k8s.api.errors import ExitCode
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.run import DihtRun
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.job_builder import build_objects, first_starts, requires_pod_group

UNKNOWN_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server assigns."""


def plan_command(
    path: str, overrides: Sequence[str], namespace: str | None, *, gpu: str | None, show_secrets: bool
) -> int:
    """Print every object that a run would create, without a cluster; with `gpu` also an estimate, as a YAML comment.

    Literal values of the document are redacted, unless `show_secrets` is set.
    """
    run = load(read_text(path), name=path, overrides=overrides)
    if not show_secrets:
        run = DihtRun.model_validate(redacted_document(document_of(run)))
    if gpu is not None:
        from diht_k8s.cli.estimate import line  # imports torch

        print(f"# {line(run, gpu)}")
    for item in planned_objects(run, namespace or run.metadata.namespace or "default"):
        print("---")
        print(yaml.safe_dump(item, sort_keys=False, width=120), end="")
    return ExitCode.DONE


def planned_objects(run: DihtRun, namespace: str) -> list[dict[str, Any]]:
    """The objects of the first attempt of each stage, in order."""
    metadata = {"name": run.metadata.name, "namespace": namespace, "uid": UNKNOWN_UID, "resourceVersion": "0"}
    known = cached_run({"metadata": metadata, "spec": {}})
    pod_groups = requires_pod_group(run)
    return [item for start in first_starts(run) for item in build_objects(known, run, start, pod_groups=pod_groups)]
