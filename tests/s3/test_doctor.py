"""`diht doctor` on a real S3 server: a sound output, and credentials that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diht_k8s.api.data import StorageRule
from diht_k8s.recipe.inspection.storage_checks import output_findings
from diht_k8s.recipe.shards.storage import Storage

if TYPE_CHECKING:
    from tests.s3.server import S3

pytestmark = pytest.mark.s3


def findings(s3: S3, output: str) -> list[tuple[bool, str]]:
    storage = Storage([StorageRule.model_validate(s3.rule)])
    return [(found.wrong, found.says) for found in output_findings(storage, output)]


def test_output_on_a_sound_server_holds_each_name_once_and_nothing_stays(s3: S3) -> None:
    output = f"s3://{s3.bucket}/doctor"
    assert findings(s3, output) == [(False, f"{output} can be written, read and removed, and holds each name once")]
    assert Storage([StorageRule.model_validate(s3.rule)]).files(output) == []


def test_refused_credentials_are_named(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIHT_STORAGE_0_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("DIHT_STORAGE_0_SECRET_ACCESS_KEY", "wrong")
    ((wrong, says),) = findings(s3, f"s3://{s3.bucket}/doctor")
    assert wrong
    assert "credentials" in says
