"""What a training imports, also on its way to the first step and to the end: for the fork server."""

from __future__ import annotations

import importlib

import PIL.Image

from tests.s3.faults import shorten_pauses

for name in (
    "tests.recipe.train.train_rank",
    "tests.recipe.train.forked_stage",
    "torch.distributed.launcher.api",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # torch's compiler, where the first training with ZeRO begins
    "open_clip",
    "torch.utils.tensorboard",
    "pandas",  # by pyarrow
    "pyarrow.dataset",
    "pyarrow.parquet",
    "webdataset",
    "s3fs",
):
    importlib.import_module(name)
PIL.Image.preinit()
shorten_pauses()
