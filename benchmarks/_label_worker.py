"""One worker of label's step predict: `DIHT_RUN` in, CPU seconds out."""

from __future__ import annotations

import os
import sys
import time

import timm  # noqa: F401 (the stage imports it when the first image needs it: that is start-up, too)
import torch

from diht_k8s.api.documents import load
from diht_k8s.api.run import Stage
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.label import (
    predict_step,  # noqa: F401 (as timm)
    stage,
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    start_up = time.process_time()
    worker, workers = map(int, sys.argv[1:])
    run = load(os.environ["DIHT_RUN"], name="DIHT_RUN")
    run_stage(stage, run, Stage.LABEL, worker=worker, workers=workers, step="predict")
    print(start_up, time.process_time() - start_up)
