"""Run documents on the S3 server of the tests."""

from __future__ import annotations

from typing import Any

from diht_k8s.api.run import DihtRun


def with_storage(run: DihtRun, rule: dict[str, Any]) -> DihtRun:
    document = run.model_dump(by_alias=True, mode="json", exclude_none=True)
    document["spec"]["storage"] = [rule]
    return DihtRun.model_validate(document)
