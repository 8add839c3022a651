"""open_clip's trainer as one rank: `python -m benchmarks.gpu.open_clip_rank MODEL.json ARGUMENTS`.

`--version` alone prints version and help. Arguments and changes as in `benchmarks._open_clip`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
import types
from typing import Any

import torch

EVERY_S = 2.0


class FusedAdamW(torch.optim.AdamW):
    """AdamW by one kernel, as ours."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As torch's."""
        super().__init__(*arguments, **{**options, "fused": True})


def peak_mib() -> float:
    """As our metrics have it: most bytes of tensors on the card so far, or of this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report_peak() -> None:
    while True:
        print(f"peak_memory_mib={peak_mib():.0f}", flush=True)
        time.sleep(EVERY_S)


def _on_cpu() -> None:
    parallel = torch.nn.parallel.DistributedDataParallel

    def without_devices(module: torch.nn.Module, device_ids: Any = None, **options: Any) -> torch.nn.Module:
        return parallel(module, **options)

    torch.nn.parallel.DistributedDataParallel = without_devices  # type: ignore[misc,assignment]
    torch.set_num_threads(1)


def main(given: list[str]) -> None:
    """Run the trainer."""
    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401  # pyright: ignore[reportMissingImports]
    sys.modules.setdefault("pandas", types.ModuleType("pandas"))
    import open_clip
    from open_clip_train import main as trainer
    from open_clip_train import params

    if given == ["--version"]:
        print(open_clip.__version__, flush=True)
        params.parse_args(["--help"])
    model, arguments = given
    open_clip.add_model_config(model)
    torch.optim.AdamW = FusedAdamW  # type: ignore[misc,assignment]
    if not torch.cuda.is_available():
        _on_cpu()
    if os.environ.get("RANK", "0") == "0":
        threading.Thread(target=_report_peak, daemon=True).start()
    trainer.main(json.loads(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
