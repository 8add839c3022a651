"""`diht doctor` on each object store: a sound output, and credentials that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diht_k8s.inspection.storage_checks import output_findings

if TYPE_CHECKING:
    from tests.s3.server import S3

pytestmark = pytest.mark.s3


def findings(store: S3, output: str) -> list[tuple[bool, str]]:
    storage = store.storage()
    return [(found.wrong, found.says) for found in output_findings(storage, output)]


def test_output_on_a_sound_server_holds_each_name_once_and_nothing_stays(store: S3) -> None:
    output = f"{store.base}/doctor"
    assert findings(store, output) == [(False, f"{output} can be written, read and removed, and holds each name once")]
    assert store.storage().files(output) == []


WRONG = {
    "s3": {"ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "wrong"},
    "az": {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=devstoreaccount1;AccountKey=d3Jvbmc="},
}


@pytest.mark.parametrize("scheme", ["s3", pytest.param("az", marks=pytest.mark.az)])
def test_refused_credentials_are_named(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name, value in WRONG[scheme].items():
        monkeypatch.setenv(f"DIHT_STORAGE_0_{name}", value)
    store: S3 = request.getfixturevalue(scheme)
    ((wrong, says),) = findings(store, f"{store.base}/doctor")
    assert wrong
    assert "the server refuses it" in says
