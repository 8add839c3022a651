"""One rank of the training tests: does each job of FOLDER/jobs.json as `diht_k8s.stages.train.loop` does, recording
each step.

Usage: train_rank.py FOLDER, with torchrun's variables. Rank 0 writes FOLDER/results.pt.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, pil_to_tensor, resize, to_pil_image

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DihtError, RetryableError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.run_folder import point
from diht_k8s.runtime.signals import leave
from diht_k8s.stages.train import engine, metrics, precision
from diht_k8s.stages.train.checkpoint import checkpointer
from diht_k8s.stages.train.checkpoint.tensors import state_of
from diht_k8s.stages.train.collectives import gather_objects
from diht_k8s.stages.train.data import augment, collate
from diht_k8s.stages.train.loop import Training


@contextlib.contextmanager
def refusing(refused: list[tuple[int, str, int, int]]) -> Iterator[None]:
    """Have the storage refuse this process's writes that a job names."""
    write, create, seen = Storage.write_bytes, Storage.create, Counter[str]()
    mine = [rule for rule in refused if rule[0] == int(os.environ["RANK"])]

    def check(uri: str) -> None:
        for _, part, first, number in mine:
            if part in uri:
                seen[part] += 1
                if first < seen[part] <= first + number:
                    raise RetryableError(f"cannot write {part}: the test refuses it")

    def writing(storage: Storage, uri: str, data: bytes) -> None:
        check(uri)
        write(storage, uri, data)

    def creating(storage: Storage, uri: str, data: bytes) -> bool:
        check(uri)
        return create(storage, uri, data)

    Storage.write_bytes, Storage.create = writing, creating
    try:
        yield
    finally:
        Storage.write_bytes, Storage.create = write, create


def whole_view(pixels_CHW: torch.Tensor, size: int, **_: Any) -> torch.Tensor:
    """What an evaluation sees of an image, in place of a random crop."""
    image = to_pil_image(pixels_CHW)
    return pil_to_tensor(center_crop(resize(image, [size], interpolation=InterpolationMode.BICUBIC), [size]))


def recorded(job: dict[str, Any]) -> dict[str, Any]:
    collate.train_view = whole_view if job["whole_view"] else augment.train_view
    with refusing(job["refused"]):
        return trained(job)


def begun(run: DihtRun) -> Training:
    """The training in the folder that its name decides, to which the run points."""
    config = {"run": run.metadata.name}
    if os.environ["RANK"] == "0":
        point(run, Storage(), Layout(run.spec.data.output).at(Stage.TRAIN, sha256_of(config)), Stage.TRAIN)
    return Training(run, config)


def trained(job: dict[str, Any]) -> dict[str, Any]:
    run = load(job["run"], name="job")
    allow_fp16(job["fp16_scale"])
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            training = begun(run)
    except DihtError as problem:
        return {"error": described(problem)}
    losses, uids, norms, began = [], [], [], training.cursor.step
    step = training.engine.step

    def spoils() -> bool:
        first = job["finite_steps"]
        if first is None or training.rank != training.world - 1:
            return False
        return first <= len(losses) < first + (job["spoilt_steps"] or 10**9)

    def spoilt(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if spoils() and not job["infinite_loss"] else gradient

    def infinite(*args: Any) -> Any:
        found = terms(*args)
        return {**found, "total": found["total"] + float("inf")} if spoils() and job["infinite_loss"] else found

    terms, training.engine._losses = training.engine._losses, infinite
    training.model.get_parameter("clip.text_projection").register_hook(spoilt)

    def recording(batch: Any, *, number: int) -> Any:
        result = step(batch, number=number)
        losses.append([result.total, result.contrastive, result.object, result.attribute, result.embedding])
        uids.append(in_global_order(batch.uids))
        norms.append(training.engine.gradient_norm())
        training.stop.requested = asks_to_stop(training, job, len(losses))
        return result

    training.engine.step = recording
    error = None
    training.stop.requested = asks_to_stop(training, job, len(losses))
    try:
        training.train()
    except DihtError as problem:
        error = described(problem)
    weights = state_of(training.engine.deepspeed, training.model, rank=training.rank)
    return {
        "losses": losses,
        "uids": uids,
        "norms": norms,
        "weights": weights,
        "error": error,
        "began": began,
        "said": said.getvalue(),
    }


def asks_to_stop(training: Training, job: dict[str, Any], done: int) -> bool:
    """Before the step that shall be the last one."""
    return job["stop_after"] == done + 1 and training.rank == training.world - 1


def allow_fp16(scale: float | None) -> None:
    """Let this device train in fp16 from a loss scale on, or have all as it is."""

    class Scale(precision.LossScale):
        def __init__(self) -> None:
            super().__init__(scale or precision.FIRST_SCALE)

    engine.LossScale = Scale
    engine.require_precision = precision.require_precision if scale is None else lambda device, name: None


def described(problem: DihtError) -> str:
    return f"{problem.exit_code.value} {problem}"


def in_global_order(uids: list[str]) -> list[str]:
    return [uid for rank in gather_objects(uids) for uid in rank]


def main(place: str | Path) -> None:
    folder = Path(place)
    os.fsync = lambda descriptor: None  # what it guards against, no test of ranks can see
    torch.set_num_threads(1)
    checkpointer.RETRY_S, metrics.FIRST_PAUSE_S = 0.01, 0.0
    torch.use_deterministic_algorithms(True, warn_only=True)
    jobs = json.loads((folder / "jobs.json").read_text())
    results = {name: recorded(job) for name, job in jobs.items()}
    if dist.get_rank() == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    leave(0)
