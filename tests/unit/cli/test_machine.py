"""What this machine is, as the driver's own listing says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.cli.placement import this_machine

LISTS = {
    "two": ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)", "GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)"],
    "slices": ["GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)", "  MIG 1g.10gb     Device  0: (UUID: MIG-1)"],
    "unknown": ["GPU 0: NVIDIA TITAN RTX (UUID: GPU-1)"],
    "no driver": ["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."],
}


@pytest.mark.parametrize(
    ("listed", "visible", "gpus", "gpu"),
    [
        ("two", None, 2, "H100"),
        ("two", "1", 1, "H100"),
        ("two", "", 0, None),
        ("two", "-1", 0, None),
        ("slices", None, 1, "A100-80"),
        ("unknown", None, 1, None),
        ("no driver", None, 0, None),
        ("no driver", "0", 1, None),
    ],
)
def test_gpus_and_the_name_of_the_first(
    listed: str, visible: str | None, gpus: int, gpu: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in LISTS[listed]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = this_machine()
    assert (found.gpus, found.gpu) == (gpus, gpu)
