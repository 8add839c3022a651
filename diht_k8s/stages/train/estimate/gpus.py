"""GPUs as their makers describe them. Pure.

Memory is what `nvidia-smi` reports as total. Peaks are dense: half of a data sheet's figure "with sparsity". fp32 is
that of the CUDA cores: the training does not allow TF32 in matrix products.

Sources, NVIDIA's data sheets (bf16 and fp32 in TFLOP/s): H100 (SXM 1,979 with sparsity, 67; PCIe 1,513, 51), H200 (as
H100 SXM), HGX B200 (per GPU 2.25 PFLOP/s dense, 75), A100 (312, 19.5), L40S (362.05, 91.6), L4 (242 with sparsity,
30.3), A10G (70, 35; the sheet of 2022-02-17, of which we read citations only), T4 (65, 8.1). The RTX cards' peaks are
from the architectures' white papers, bf16 with sums in fp32, which GeForce cards compute at half the rate of
workstation cards. V100 is not here: torch's builds with CUDA 13 have no kernels for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from diht_k8s.api.errors import UserError, nearest
from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun

MIB: Final = 2**20


@dataclass(frozen=True)
class Gpu:
    """A card: memory and peaks."""

    name: str
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


_TABLE: Final = (
    Gpu("B200", 183_359, 2250.0, 75.0),
    Gpu("H200", 143_771, 989.0, 67.0),
    Gpu("H100", 81_559, 989.0, 67.0),
    Gpu("H100-PCIe", 81_559, 756.0, 51.0),
    Gpu("A100-80", 81_920, 312.0, 19.5),
    Gpu("A100-40", 40_960, 312.0, 19.5),
    Gpu("L40S", 46_068, 362.0, 91.6),
    Gpu("L4", 23_034, 121.0, 30.3),
    Gpu("A10G", 23_028, 70.0, 35.0),
    Gpu("RTX-PRO-6000", 97_887, 503.8, 125.9),
    Gpu("RTX-6000-Ada", 49_140, 364.2, 91.1),
    Gpu("RTX-A6000", 49_140, 154.8, 38.7),
    Gpu("RTX-5090", 32_607, 209.5, 104.8),
    Gpu("RTX-4090", 24_564, 165.2, 82.6),
    Gpu("RTX-3090", 24_576, 71.0, 35.6),
    Gpu("T4", 15_360, 65.0, 8.1, bf16=False),
)
GPUS: Final = {gpu.name: gpu for gpu in _TABLE}
PRODUCT_LABELS: Final = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")
"""Node labels that name the card: those of NVIDIA's GPU feature discovery and of GKE."""
_PRODUCTS: Final = (
    (("b200",), "B200"),
    (("h200",), "H200"),
    (("h100", "pcie"), "H100-PCIe"),
    (("h100", "80gb"), "H100"),
    (("a100", "80gb"), "A100-80"),
    (("a100", "40gb"), "A100-40"),
    (("tesla", "a100"), "A100-40"),
    (("l40s",), "L40S"),
    (("l4",), "L4"),
    (("a10g",), "A10G"),
    (("tesla", "t4"), "T4"),
    (("rtx", "pro", "6000"), "RTX-PRO-6000"),
    (("rtx", "6000", "ada"), "RTX-6000-Ada"),
    (("rtx", "a6000"), "RTX-A6000"),
    (("rtx", "5090"), "RTX-5090"),
    (("rtx", "4090"), "RTX-4090"),
    (("rtx", "3090"), "RTX-3090"),
)
"""Words of a product's label and the card that it is; the first row whose words all occur counts."""
_OTHERS: Final = frozenset({"mig", "nvl", "laptop", "max", "ti", "d"})
"""Words of a slice of a card (MIG), and of cards that are slower or faster than the one of the same number."""


def gpu_of(name: str) -> Gpu:
    """A card by its name, with or without its maker's, in any case.

    Raises:
        UserError: the name is not in the table.
    """
    by_name = {_plain(known): gpu for known, gpu in GPUS.items()}
    given = _plain(name)
    if given in by_name:
        return by_name[given]
    near = nearest(given, by_name)
    hint = f"did you mean {by_name[near].name}? There are" if near else "give one of"
    raise UserError(f"--gpu {name} is not known: {hint} {', '.join(GPUS)}")


def _plain(name: str) -> str:
    """`NVIDIA GeForce RTX 4090` as `rtx4090`."""
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())


def name_of_product(label: str) -> str | None:
    """The card of a node label such as `NVIDIA-H100-80GB-HBM3` or `nvidia-tesla-t4`, or of a device's name; None if
    unknown.
    """
    words = set(re.split(r"[-_ ]", label.lower()))
    if words & _OTHERS:
        return None
    return next((name for wanted, name in _PRODUCTS if set(wanted) <= words), None)


def selected_gpu(run: DihtRun) -> str | None:
    """The card that the training's node selector names; None if it names none that we know."""
    if run.spec.train is None:
        return None
    selector = merged(run.spec.pods, run.spec.train.pods).node_selector
    names = (name_of_product(selector[label]) for label in PRODUCT_LABELS if label in selector)
    return next((name for name in names if name is not None), None)


def peak_flops(device_name: str) -> float | None:
    """Peak of a device in operations a second at 16 bits, None if unknown (CPUs, slices of a card, other cards)."""
    name = name_of_product(device_name)
    return None if name is None else 1e12 * GPUS[name].half_tflops
