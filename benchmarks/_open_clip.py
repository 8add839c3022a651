"""open_clip's own trainer as one rank: `python -m benchmarks._open_clip MODEL.json FUSED ARGUMENTS`.

ARGUMENTS is a JSON list: torchrun parses all that begins with a dash. Changed: pandas may be missing; the model's
configuration comes from a file; no list of devices on a CPU; with FUSED 1, AdamW is torch's fused one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import types
from typing import Any

import open_clip
import torch

with contextlib.suppress(ImportError):
    import pandas  # noqa: F401  # pyright: ignore[reportMissingImports]
sys.modules.setdefault("pandas", types.ModuleType("pandas"))

from open_clip_train import main as trainer  # noqa: E402


def main(model: str, fused: str, arguments: list[str]) -> None:
    """Run the trainer."""
    open_clip.add_model_config(model)
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        parallel = torch.nn.parallel.DistributedDataParallel

        def on_cpu(module: torch.nn.Module, device_ids: Any = None, **options: Any) -> torch.nn.Module:
            return parallel(module, **options)

        torch.nn.parallel.DistributedDataParallel = on_cpu  # type: ignore[misc,assignment]
    if fused == "1":
        trainer.optim.AdamW = functools.partial(torch.optim.AdamW, fused=True)  # type: ignore[misc,assignment]
    trainer.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
