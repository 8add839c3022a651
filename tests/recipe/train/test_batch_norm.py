"""BatchNorm over two gloo ranks, in float64: the curve of the global batch in one process with torch's own BatchNorm.

In fp32 a ReLU's kink makes two curves part at some step (a value within rounding of zero falls to either side), so the
sharp bound is here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.recipe.train import fork_server
from tests.recipe.train.batch_norm_rank import LAYOUTS, network, train
from tests.recipe.train.small_run import environment

PROGRAM = "tests.recipe.train.batch_norm_rank"
MODULES = (PROGRAM, "torch._dynamo")  # an optimizer imports it


@pytest.mark.parametrize("layout", LAYOUTS)
def test_curve_when_over_two_ranks_then_that_of_the_global_batch(tmp_path: Path, layout: str) -> None:
    ranks = [
        fork_server.start(PROGRAM, str(rank), "2", str(tmp_path), layout, variables=environment(), modules=MODULES)
        for rank in range(2)
    ]
    assert [rank.wait(250) for rank in ranks] == [0, 0]
    found, expected = torch.load(tmp_path / "found.pt"), train(network(), layout)
    assert expected["losses"][-1] < expected["losses"][0]
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=0, atol=1e-10)
    assert found["state"].keys() == expected["state"].keys()
    for key, value in expected["state"].items():
        torch.testing.assert_close(
            found["state"][key], value, rtol=0, atol=1e-8, msg=lambda text, k=key: f"{k}: {text}"
        )
