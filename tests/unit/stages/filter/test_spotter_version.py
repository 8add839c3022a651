from __future__ import annotations

import pytest

from diht_k8s.stages.filter import stage


def test_spotter_version_when_one_size_or_two_then_differs() -> None:
    versions = [stage.spotter_version(256, "BF16", second) for second in (None, 512, 640)]
    assert len(set(versions)) == 3
    assert "second" not in versions[0]


@pytest.mark.parametrize(("second", "changes"), [(None, False), (512, True)])
def test_spotter_version_when_the_second_pass_changes_then_only_runs_with_one_differ(
    second: int | None, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage.spotter_version(256, "BF16", second)
    monkeypatch.setattr(stage, "SECOND_PASS_RULES", 99)
    assert (stage.spotter_version.__wrapped__(256, "BF16", second) != before) == changes


@pytest.mark.parametrize("program", ["rapidocr", "openvino"])
def test_spotter_version_when_a_program_is_upgraded_then_differs(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = stage.spotter_version(256, "BF16"), stage.version
    monkeypatch.setattr(stage, "version", lambda name: "2099.1" if name == program else version(name))
    upgraded = stage.spotter_version.__wrapped__(256, "BF16")
    assert (f"{program}-2099.1" in upgraded, upgraded == before) == (True, False)
