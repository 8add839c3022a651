"""The kernels of HN-NCE compiled for real cards, as far as that goes without one: to machine code, within their
limits."""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from diht_k8s.stages.train.loss import hn_nce_fused, losses
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.hn_nce_fused import FusedHnNce
from diht_k8s.stages.train.loss.losses import plan_for

SHARED_MEMORY = {(8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
"""KiB a program may have, by compute capability."""
MOST_SPILLED = {(9, 0): 128, (10, 0): 300, (12, 0): 384}
"""bytes a thread, of 1,020 in registers; of other cards 208."""
PROCESSORS = 132
SLOW = pytest.mark.slow


class Card:
    """As much of Triton's driver as it takes to compile."""

    def __init__(self, capability):
        self.number = 10 * capability[0] + capability[1]

    def get_current_target(self):
        return GPUTarget("cuda", self.number, 32)

    def get_current_device(self):
        return self.number  # Triton keeps kernels by device

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Kernels that were compiled in place of being launched, with the arguments of the launch."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run, made = JITFunction.run, []

    def compile_only(kernel, *args, warmup, **kwargs):
        made.append((kernel.__name__, run(kernel, *args, warmup=True, **kwargs)))

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(driver, "_active", None)
    return made


def step(capability, width, masked):
    """A training step with features of nothing."""
    driver.set_active(Card(capability))
    settings = HnNceSettings(alpha=1.0, beta=0.25, differentiate_weights=True, chunk_size=1, group=None)
    inputs = [torch.zeros(size, requires_grad=True) for size in ((300, width), (300, width), ())]
    ids = torch.arange(300) if masked else None
    loss, _ = FusedHnNce.apply(*inputs, ids, settings, plan_for(capability, PROCESSORS))
    torch.autograd.grad(loss, inputs)


def bytes_on_stack(made, tmp_path):
    (tmp_path / "kernel.cubin").write_bytes(made.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(tmp_path / "kernel.cubin")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(re.search(r"STACK:(\d+)", told)[1])


@pytest.mark.parametrize(
    ("capability", "width"),
    [
        ((9, 0), 512),
        *(pytest.param((9, 0), width, marks=SLOW) for width in (500, 640, 768, 1024)),
        *(pytest.param(other, 512, marks=SLOW) for other in SHARED_MEMORY if other != (9, 0)),
    ],
)
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=SLOW)])
def test_each_kernel_of_a_step_compiles_and_fits_the_card(launched, capability, width, masked, tmp_path):
    step(capability, width, masked)
    names = ["split"] * 2 + ["first_pass", "rebase", "terms", "terms", "means"] + ["second_pass"] * 2
    assert [name for name, _ in launched] == names
    for name, made in launched:
        code, passes = made.asm["ptx"], name.endswith("pass")
        assert "trap;" not in code, name  # what Triton makes of a kernel that does not fit tensor memory
        assert bool(re.search(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync", code)) == passes, name
        assert ("cp.async.bulk.tensor" in code) == (passes and plan_for(capability, PROCESSORS).described), name
        assert made.metadata.shared <= SHARED_MEMORY[capability] * 1024, name
        assert bytes_on_stack(made, tmp_path) <= (MOST_SPILLED.get(capability, 208) if passes else 8), name


def test_kernels_are_launched_on_the_card_of_the_features(monkeypatch):
    told, features = [], torch.zeros(2, 8)

    @contextmanager
    def device_of(tensor):
        told.append(tensor)
        yield
        told.append("left")

    def apply(*_):
        told.append("launched")
        return torch.zeros(()), torch.zeros(3)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(hn_nce_fused, "FusedHnNce", SimpleNamespace(apply=apply))
    monkeypatch.setattr(losses, "fused_plan", lambda *_: plan_for((9, 0), PROCESSORS))
    losses.hn_nce_loss(features, features, 1.0)
    assert told[0] is features
    assert told[1:] == ["launched", "left"]


def test_plan_of_a_card_without_the_kernels_is_none():
    assert plan_for((7, 5), PROCESSORS) is None
