"""The devices of the GPU tier: this machine's GPUs, or its CPUs where DIHT_GPU_TESTS_ON says so.

`DIHT_GPU_TESTS_ON=cpu` (two ranks over gloo) or `cpu:1` (one) runs the same scenarios without a GPU, so that a scenario
is seen to work before it meets a card. It says nothing about CUDA or NCCL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "DIHT_GPU_TESTS_ON"
MAX_RANKS = 8


@dataclass(frozen=True)
class Devices:
    """What the scenarios train on."""

    kind: str
    """cuda or cpu."""
    count: int

    @property
    def all(self) -> int:
        """Ranks of "all cards": the largest power of two, at most 8, because batches are divided evenly."""
        return 2 ** (min(self.count, MAX_RANKS).bit_length() - 1)

    @property
    def backend(self) -> str:
        return "nccl" if self.kind == "cuda" else "gloo"

    @property
    def variables(self) -> dict[str, str]:
        """For the ranks' environment. TF32 is off, so that fp32 curves can be compared: cuDNN takes it by default."""
        from diht_k8s.runtime.launcher import LAUNCH_ORDER

        return {"NVIDIA_TF32_OVERRIDE": "0", **LAUNCH_ORDER} if self.kind == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}

    def of_node(self, node: int) -> dict[str, str]:
        """For the ranks of one of two nodes on this machine, each with half of "all cards"."""
        if self.kind == "cpu":
            return {}
        visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.count)))).split(",")
        half = self.all // 2
        return {"CUDA_VISIBLE_DEVICES": ",".join(visible[node * half : (node + 1) * half])}

    def describe(self) -> str:
        if self.kind == "cpu":
            return f"{self.count} CPU processes, because of {VARIABLE}; nothing ran on a GPU"
        import torch

        names = sorted({torch.cuda.get_device_name(index) for index in range(self.count)})
        return f"{self.count} x {', '.join(names)}"


def devices() -> Devices:
    """The devices; count 0 without any."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen:
        kind, _, count = chosen.partition(":")
        if kind != "cpu":
            raise ValueError(f"{VARIABLE} is {chosen}: give cpu or cpu:N")
        return Devices("cpu", int(count or 2))
    import torch

    return Devices("cuda", torch.cuda.device_count() if torch.cuda.is_available() else 0)


def lacking(number: int) -> str | None:
    """Why tests that need this number of devices are left out."""
    found = devices()
    if found.count >= number:
        return None
    return "no accelerator" if found.count == 0 else f"{found.count} accelerator, they need {number}"
