"""Room for the features of the training images: in memory, on disk above a bound, refused where the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.api.errors import UserError
from diht_k8s.stages.label import heads_step


@pytest.mark.parametrize("bound", [0, 1 << 20], ids=["disk", "memory"])
def test_table_when_filled_by_parts_then_holds_them_and_leaves_no_file(
    bound: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads_step, "MEMORY_BYTES", bound)
    monkeypatch.setattr(heads_step.tempfile, "tempdir", str(tmp_path))
    reserved: list[int] = []
    original = os.posix_fallocate

    def fallocate(fd: int, offset: int, size: int) -> None:
        reserved.append(size)
        original(fd, offset, size)

    monkeypatch.setattr(heads_step.os, "posix_fallocate", fallocate)
    values = torch.randn(50, 8).half()
    table = heads_step.empty_table(50, 8)
    table[:20], table[20:] = values[:20], values[20:]
    torch.testing.assert_close(table[torch.tensor([49, 0, 30])], values[[49, 0, 30]], rtol=0, atol=0)
    assert reserved == ([] if bound else [800])
    assert not list(tmp_path.iterdir())


def test_table_when_the_disk_is_full_then_says_how_much_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(heads_step, "MEMORY_BYTES", 0)
    monkeypatch.setattr(heads_step.os, "posix_fallocate", full)
    with pytest.raises(
        UserError, match=r"no room for 1.0 GiB of teacher features \(No space left.*lower label.maxSamples"
    ):
        heads_step.empty_table(1 << 20, 512)
