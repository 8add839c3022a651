from __future__ import annotations

import pytest

from diht_k8s.stages.filter import stage


def test_spotter_version_when_one_size_or_two_then_differs() -> None:
    versions = [stage.spotter_version(256, "BF16", second) for second in (None, 512, 640)]
    assert len(set(versions)) == 3
    assert "second" not in versions[0]


@pytest.mark.parametrize(
    ("change", "second", "changes"),
    [("second pass", None, False), ("second pass", 512, True), ("rapidocr", None, True), ("openvino", None, True)],
)
def test_spotter_version_when_a_pass_or_a_program_changes_then_the_runs_with_it_differ(
    change: str, second: int | None, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = stage.spotter_version(256, "BF16", second), stage.version
    monkeypatch.setattr(stage, "version", lambda name: "2099.1" if name == change else version(name))
    if change == "second pass":
        monkeypatch.setattr(stage, "SECOND_PASS_RULES", 99)
    assert (stage.spotter_version.__wrapped__(256, "BF16", second) != before) == changes
