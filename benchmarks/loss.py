"""Memory and CPU time of HN-NCE in tiles of 256 rows beside the same loss by autograd.

Memory is a fresh process' growth, gradients (16 MiB) included. One thread, the best round, fp32. Gradients differ by
6e-7. A batch of 16,384 takes 122 MiB, the matrix alone 1,024.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._arguments import make_parser
from diht_k8s.stages.train.loss.losses import hn_nce_loss

# Shape legend: B pairs, D feature width.

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def log_space_autograd(
    image_BD: Tensor, text_BD: Tensor, scale: Tensor, *, beta: float, through_weights: bool
) -> Tensor:
    """The same loss from two log-sum-exps per row over the whole matrix, differentiated by autograd."""
    logits_BB = scale * image_BD @ text_BD.T
    diagonal_BB = torch.eye(len(logits_BB), dtype=torch.bool)
    losses = []
    for side_BB in (logits_BB, logits_BB.T):
        negatives_BB = side_BB.masked_fill(diagonal_BB, -math.inf)
        positive_B = side_BB.diagonal()
        if through_weights:
            log_mass_B = ((1 + beta) * negatives_BB).logsumexp(1) - (beta * negatives_BB).logsumexp(1)
        else:
            tilted_BB = beta * negatives_BB.detach()
            log_weight_BB = tilted_BB - tilted_BB.logsumexp(1, keepdim=True)
            log_mass_B = (log_weight_BB + negatives_BB).logsumexp(1)
        log_mass_B = log_mass_B + math.log(len(logits_BB) - 1)
        losses.append((torch.logaddexp(positive_B, log_mass_B) - positive_B).mean())
    return (losses[0] + losses[1]) / 2


def versions(beta: float, chunk_size: int) -> dict[str, Loss]:
    """The competitors by name, each with and without the gradient through the weights."""
    found: dict[str, Loss] = {}
    for name, through in (("through_weights", True), ("fixed_weights", False)):
        found[f"chunked_{name}"] = lambda image, text, scale, through=through: hn_nce_loss(
            image, text, scale, beta=beta, differentiate_weights=through, chunk_size=chunk_size
        )
        found[f"autograd_{name}"] = lambda image, text, scale, through=through: log_space_autograd(
            image, text, scale, beta=beta, through_weights=through
        )
    return found


def features(batch: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-length fp32 features of hard pairs (cosine of a pair about 0.2) and CLIP's largest inverse temperature,
    100.
    """
    generator = torch.Generator().manual_seed(0)
    image_BD = torch.randn(batch, width, generator=generator)
    text_BD = image_BD + 5 * torch.randn(batch, width, generator=generator)
    normalize = torch.nn.functional.normalize
    image_BD, text_BD = normalize(image_BD, dim=1).requires_grad_(), normalize(text_BD, dim=1).requires_grad_()
    return image_BD, text_BD, torch.tensor(100.0, requires_grad=True)


def step(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Forward and backward; returns the gradients."""
    return torch.autograd.grad(loss(*inputs), inputs)


def resident_mib(field: str) -> float:
    """A field of this process's status in MiB: VmRSS, what it holds now, or VmHWM, the most since the mark was
    reset.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def peak_above_features(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """MiB that one step adds to the resident set at its peak, gradients included; meant for a fresh process."""
    step(loss, features(64, inputs[0].shape[1]))  # loads the libraries, which are not the loss's memory
    ctypes.CDLL(None).malloc_trim(0)  # freed memory still held would hide as much of the step's own
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's way to reset the high-water mark
    step(loss, inputs)
    return resident_mib("VmHWM") - before


def in_fresh_process(name: str, arguments: argparse.Namespace) -> float:
    """`peak_above_features` of one version in a process of its own."""
    sizes = [f"--{option}={getattr(arguments, option)}" for option in ("batch", "width", "beta", "chunk", "threads")]
    command = [sys.executable, "-m", "benchmarks.loss", *sizes, f"--measure-memory={name}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def best_times(competitors: dict[str, Loss], arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Best (CPU, wall) seconds per step over the rounds, all versions in turn within each round."""
    inputs = features(arguments.batch, arguments.width)
    best = dict.fromkeys(competitors, (math.inf, math.inf))
    for _ in range(arguments.rounds):
        for name, loss in competitors.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step(loss, inputs)
            spent = (time.process_time() - cpu, time.perf_counter() - wall)
            best[name] = (min(best[name][0], spent[0]), min(best[name][1], spent[1]))
    return best


def largest_relative_difference(competitors: dict[str, Loss], arguments: argparse.Namespace) -> float:
    """Largest relative L2 difference of a gradient between chunked and autograd: both must compute the same thing."""
    inputs = features(arguments.batch, arguments.width)
    differences = []
    for kind in ("through_weights", "fixed_weights"):
        pairs = zip(
            *(step(competitors[f"{version}_{kind}"], inputs) for version in ("chunked", "autograd")), strict=True
        )
        differences += [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs]
    return max(differences)


def report(arguments: argparse.Namespace) -> dict[str, object]:
    """Everything that is measured, ready for one JSON line."""
    competitors = versions(arguments.beta, arguments.chunk)
    memory = {name: round(in_fresh_process(name, arguments), 1) for name in competitors}
    times = best_times(competitors, arguments)
    kinds = ("through_weights", "fixed_weights")
    return {
        "benchmark": "loss",
        "sizes": {key: value for key, value in vars(arguments).items() if key != "measure_memory"},
        "memory_mib_above_features": memory,
        "cpu_s_best": {name: round(cpu, 3) for name, (cpu, _) in times.items()},
        "wall_s_best": {name: round(wall, 3) for name, (_, wall) in times.items()},
        "cpu_ratio": {k: round(times[f"chunked_{k}"][0] / times[f"autograd_{k}"][0], 3) for k in kinds},
        "gradient_difference": largest_relative_difference(competitors, arguments),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main() -> None:
    """Print the report, or with --measure-memory one figure for the parent process."""
    parser = make_parser("loss", __doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--beta", type=float, default=0.25)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure-memory", choices=list(versions(0.0, 1)), help="internal: one version, this process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure_memory:
        loss = versions(arguments.beta, arguments.chunk)[arguments.measure_memory]
        print(peak_above_features(loss, features(arguments.batch, arguments.width)))
    else:
        print(json.dumps(report(arguments)))


if __name__ == "__main__":
    main()
