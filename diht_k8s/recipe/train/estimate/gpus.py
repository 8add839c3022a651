"""GPUs as their makers describe them. Pure.

Memory is what `nvidia-smi` reports as total. Peaks are dense (no sparsity) and from the makers' data sheets: H100, H200
(SXM unless the name says PCIe), B200, A100, L40S, L4, A10G, V100, T4. fp32 is that of the CUDA cores: the training does
not allow TF32 in matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diht_k8s.api.errors import UserError

MIB: Final = 2**20


@dataclass(frozen=True)
class Gpu:
    """What the estimate needs to know of a card."""

    memory_mib: int
    half_tflops: float
    """dense bf16 peak; fp16 where the card has no bf16."""
    fp32_tflops: float
    bf16: bool = True

    @property
    def memory(self) -> int:
        """Total memory in bytes."""
        return self.memory_mib * MIB

    def peak(self, precision: str) -> float:
        """Operations a second at a precision of `train.precision`.

        Raises:
            UserError: the card has no bf16.
        """
        if precision == "bf16" and not self.bf16:
            raise UserError("train.precision bf16 is not supported by this GPU: use fp16 or fp32")
        return 1e12 * (self.fp32_tflops if precision == "fp32" else self.half_tflops)


GPUS: Final = {
    "B200": Gpu(183_359, 2250.0, 75.0),
    "H200": Gpu(143_771, 989.0, 67.0),
    "H100": Gpu(81_559, 989.0, 67.0),
    "H100-PCIe": Gpu(81_559, 756.0, 51.0),
    "A100-80": Gpu(81_920, 312.0, 19.5),
    "A100-40": Gpu(40_960, 312.0, 19.5),
    "L40S": Gpu(46_068, 362.0, 91.6),
    "L4": Gpu(23_034, 121.0, 30.3),
    "A10G": Gpu(23_028, 70.0, 35.0),
    "V100-32": Gpu(32_768, 125.0, 15.7, bf16=False),
    "V100-16": Gpu(16_384, 125.0, 15.7, bf16=False),
    "T4": Gpu(15_360, 65.0, 8.1, bf16=False),
}


def gpu_of(name: str) -> Gpu:
    """A card by its name, in any case.

    Raises:
        UserError: the name is not in the table.
    """
    found = {known.lower(): gpu for known, gpu in GPUS.items()}.get(name.strip().lower())
    if found is None:
        raise UserError(f"--gpu {name} is not known: give one of {', '.join(GPUS)}")
    return found
