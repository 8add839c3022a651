"""The predicted share of the loss and of the copies in a step."""

from __future__ import annotations

import pytest

from benchmarks import loss_share


def test_row_has_the_losses_beside_the_layers_and_copies_that_a_longer_step_hides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss_share, "MODELS", ("ViT-B-32",))
    (row,) = loss_share.rows("H100", [8], 32768, 0.45)
    assert row["layers_ms"] == pytest.approx(1e3 * 4096 * 44.1e9 / (0.45 * 989e12), rel=1e-2)
    for name in ("tiles", "fused"):
        part = row[name]
        assert part["percent"] == pytest.approx(100 * part["ms"] / (row["layers_ms"] + part["ms"]))
    assert row["fused"]["percent"] < 2 < row["tiles"]["percent"]
    assert row["copies"]["megabytes"] == pytest.approx(4096 * (3 * 224**2 + 8 * 77) / 1e6)
    assert row["copies"]["hidden"]
    assert "| ViT-B-32 | 8 | 32,768 |" in loss_share.markdown([row])
    assert loss_share.markdown([row]).endswith("| 12 to 25 ms | 0 |")
