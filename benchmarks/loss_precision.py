"""Error of HN-NCE's gradients by the precision of the products, without a card. Nothing was timed.

L2 errors relative to float64's, 1,024 pairs of width 512, logit scale 100. What products of fewer bits leave out is
emulated exactly, sums are in fp32. `truncated` rounds the sum after every 16 products, as tensor cores do: 2.0e-6, in
fp32 alike. By Triton 3.7.1 the kernels spill 104 to 296 bytes a thread.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks._arguments import make_parser
from benchmarks.loss import features

# Shape legend: N pairs, D feature width; M, K and L the sizes of a product.


class Scheme(NamedTuple):
    """How a product of fp32 is made of products of fewer bits."""

    bits: str
    """fp32, tf32, bf16 or fp16."""
    parts: int
    """of each factor; of part i and part j only products with i + j < parts are made."""
    scaled: bool = False
    """whether factors are scaled so that fp16 holds them, as the kernels do."""


SCHEMES = {
    "fp32": Scheme("fp32", 1),
    "TF32": Scheme("tf32", 1),
    "bf16 x 3": Scheme("bf16", 2),
    "bf16 x 6": Scheme("bf16", 3),
    "TF32 x 3": Scheme("tf32", 2),
    "fp16 x 3 (the kernels)": Scheme("fp16", 2, scaled=True),
}


def _rounded(values: Tensor, bits: str) -> Tensor:
    if bits == "fp32":
        return values
    if bits == "tf32":
        word = values.view(torch.int32)
        return ((word + 0x0FFF + ((word >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    return values.to(torch.bfloat16 if bits == "bf16" else torch.float16).float()


def _parts(values: Tensor, scheme: Scheme) -> list[Tensor]:
    parts: list[Tensor] = []
    for _ in range(scheme.parts):
        parts.append(_rounded(values, scheme.bits))
        values = values - parts[-1]
    return parts


def _truncated_sum(total: Tensor, left_MK: Tensor, right_KL: Tensor) -> Tensor:
    for at in range(0, left_MK.shape[1], 16):
        exact = total.double() + left_MK[:, at : at + 16].double() @ right_KL[at : at + 16].double()
        total = exact.float()
        total = torch.where(total.abs() > exact.abs(), torch.nextafter(total, torch.zeros(())), total)
    return total


def product(left_MK: Tensor, right_KL: Tensor, scheme: Scheme, truncated: bool) -> Tensor:
    """Of two matrices by a scheme; of float64 as it is."""
    if left_MK.dtype is torch.float64:
        return left_MK @ right_KL
    scales = [
        2.0 ** (14 - math.ceil(math.log2(side.abs().max()))) if scheme.scaled else 1.0 for side in (left_MK, right_KL)
    ]
    left, right = _parts(left_MK * scales[0], scheme), _parts(right_KL * scales[1], scheme)
    total = left_MK.new_zeros(left_MK.shape[0], right_KL.shape[1])
    pairs = [(i, order - i) for order in reversed(range(scheme.parts)) for i in range(order + 1)]  # the smallest first
    for i, j in pairs:
        total = _truncated_sum(total, left[i], right[j]) if truncated else total + left[i] @ right[j]
    return total / (scales[0] * scales[1])


def gradients(inputs: tuple[Tensor, ...], beta: float, scheme: Scheme, truncated: bool = False) -> list[Tensor]:
    """Of the images, the texts and the scale, in closed form over the whole matrix; in the dtype of the inputs."""
    image_ND, text_ND, scale = inputs
    cosine_NN = product(image_ND, text_ND.T, scheme, truncated)
    logits_NN = scale * cosine_NN
    by_logit_NN = torch.zeros_like(logits_NN)
    negatives_NN = logits_NN.clone().fill_diagonal_(-math.inf)
    for dim in (0, 1):
        peak = negatives_NN.amax(dim, keepdim=True)
        hard_NN, weight_NN = ((power * (negatives_NN - peak)).exp() for power in (1 + beta, beta))
        hard, weight = hard_NN.sum(dim, keepdim=True), weight_NN.sum(dim, keepdim=True)
        positive = logits_NN.diagonal().unsqueeze(dim)
        share = torch.sigmoid(peak + hard.log() - weight.log() + math.log(len(logits_NN) - 1) - positive)
        by_logit_NN += share * ((1 + beta) * hard_NN / hard - beta * weight_NN / weight)
        by_logit_NN -= share.flatten().diag()
    of_image = scale * product(by_logit_NN, text_ND, scheme, truncated)
    of_text = scale * product(by_logit_NN.T, image_ND, scheme, truncated)
    return [of_image, of_text, (by_logit_NN * cosine_NN).sum()]


def print_errors(pairs: int, width: int, beta: float) -> None:
    """Error of each gradient by scheme."""
    inputs = tuple(side.detach() for side in features(pairs, width))
    exact = gradients(tuple(side.double() for side in inputs), beta, SCHEMES["fp32"])
    print("| products | image | text | scale | image, truncated |\n|---|---|---|---|---|")
    for name, scheme in SCHEMES.items():
        found = [*gradients(inputs, beta, scheme), gradients(inputs, beta, scheme, truncated=True)[0]]
        errors = [
            ((ours - wanted).norm() / wanted.norm()).item()
            for ours, wanted in zip(found, [*exact, exact[0]], strict=True)
        ]
        print(f"| {name} | {' | '.join(f'{error:.1e}' for error in errors)} |")


def main() -> None:
    """Print the table."""
    parser = make_parser("loss_precision", __doc__)
    parser.add_argument("--pairs", type=int, default=1024, help="of the emulation")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--beta", type=float, default=0.25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_errors(arguments.pairs, arguments.width, arguments.beta)


if __name__ == "__main__":
    main()
