"""One rank of the training tests on the stand-in accelerator; otherwise `train_rank.py`.

Usage: stand_in_rank.py FOLDER, with torchrun's variables. SPOIL names a fix to undo, so that a test sees it fail.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from tests.recipe.train import stand_in

stand_in.install()

from deepspeed.accelerator import real_accelerator  # noqa: E402  # after the device is there
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator  # noqa: E402


class Accelerator(CPU_Accelerator):
    """What DeepSpeed is told about the stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self._name = "acc"

    def device_name(self, device_index: int | None = None) -> str:
        return "acc" if device_index is None else f"acc:{device_index}"

    def current_device_name(self) -> str:
        return f"acc:{stand_in.module.current_device()}"

    def current_device(self) -> int:
        return stand_in.module.current_device()

    def device(self, device_index: int | None = None) -> Any:
        return torch.device("acc", device_index or 0)

    def set_device(self, device_index: int) -> None:
        stand_in.module.set_device(device_index)

    def device_count(self) -> int:
        return 2

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "acc"

    def communication_backend_name(self) -> str:
        return "strict"


real_accelerator.ds_accelerator = Accelerator()

from diht_k8s.recipe.train import distributed  # noqa: E402
from diht_k8s.recipe.train.checkpoint import state  # noqa: E402
from tests.recipe.train import train_rank  # noqa: E402

distributed.device_type = lambda: "acc"
distributed.BACKENDS["acc"] = "strict"


def spoil(name: str) -> None:
    """Undo one fix."""
    if name == "device of the rank":
        distributed.set_this_device = distributed.this_device
    elif name == "control group":
        distributed.control_group = lambda: None
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("diht_k8s.") and hasattr(module, "control_group"):
                module.control_group = lambda: None
    elif name == "device of the step":
        state._step_of = lambda adamw, parameter, step: torch.tensor(step)


if __name__ == "__main__":
    spoil(os.environ.get("SPOIL", ""))
    with stand_in.Strict():
        train_rank.main(Path(sys.argv[1]))
