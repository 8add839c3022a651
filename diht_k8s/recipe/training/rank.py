"""One rank of the training: `python -m diht_k8s.recipe.training.rank`, started by the launcher."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch
import torch.distributed as dist

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, StopRequested
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.training import Train
from diht_k8s.recipe.concepts.vocabulary import Vocabulary
from diht_k8s.recipe.runtime.launch import rank_main
from diht_k8s.recipe.runtime.progress import Reporter
from diht_k8s.recipe.runtime.signals import StopFlag
from diht_k8s.recipe.shards.samples import read_samples
from diht_k8s.recipe.shards.sets import Shard, kept_shards
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.training import checkpoint
from diht_k8s.recipe.training.engine import Engine, Losses
from diht_k8s.recipe.training.export import export
from diht_k8s.recipe.training.loader import Loader, Source
from diht_k8s.recipe.training.metrics import Metrics
from diht_k8s.recipe.training.model import Student, model_configuration
from diht_k8s.recipe.training.order import Order, generator
from diht_k8s.recipe.training.schedule import learning_rate
from diht_k8s.recipe.training.stage import RESULT, label_layout

LOG_EVERY_S = 2.0
MAX_NOT_FINITE = 3
MAX_BAD_FRACTION = 0.01


@dataclass
class Clock:
    """Time and samples since the last metrics line."""

    at: float
    samples: int = 0


class Training:
    """The loop of one rank."""

    def __init__(self, run: DihtRun, config: dict[str, Any]) -> None:
        assert run.spec.train is not None
        self.run, self.train = run, run.spec.train
        self.storage, self.layout = Storage(run.spec.storage), Layout(run.spec.data.output)
        self.config_sha256 = sha256_of(config)
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.stop = StopFlag().install()
        self.model_config = model_configuration(self.train)
        self.model = self._model()
        saved = checkpoint.newest(self.storage, self.layout.checkpoints, self.config_sha256)
        if saved is not None:
            checkpoint.load_weights(self.model, saved.state)
        self.engine = Engine(self.train, self.model, rank=self.rank, world=self.world)
        if saved is not None:
            checkpoint.load_moments(self.engine.engine, self.model, saved.state)
        self.shards = self._counted(train_shards(run, self.storage))
        self.order = Order.of([shard.samples or 0 for shard in self.shards], self.train.batch_size, run.spec.seed)
        self.cursor = self._resumed(saved)
        self.loader = self._loader()
        self.metrics = Metrics(self.storage, self.layout, step=self.cursor.step)
        self.progress = Reporter(Stage.TRAIN)

    @property
    def steps(self) -> int:
        """Steps of the whole training; the last one may go beyond `samples`."""
        return -(-self.train.samples // self.train.batch_size)

    def go(self) -> None:
        """Train to the end, or to a checkpoint where somebody asked to stop."""
        batches = self.loader.batches(self.cursor.position)
        began, saved_at, saved_samples, not_finite = time.monotonic(), time.monotonic(), self.cursor.position, 0
        before = self.cursor.seconds
        logged = Clock(time.monotonic())
        if self.rank == 0:
            self.progress.start("steps", self.train.samples, done=min(self.cursor.position, self.train.samples))
        for step in range(self.cursor.step, self.steps):
            lr = learning_rate(
                self.train.optimizer, self.train.schedule, seen=step * self.train.batch_size, samples=self.train.samples
            )
            self.engine.set_learning_rate(lr)
            batch = next(batches)
            torch.manual_seed(_step_seed(self.run.spec.seed, step, self.rank))
            losses = self.engine.step(batch)
            not_finite = self._check_finite(losses, not_finite, batch.uids)
            self.cursor = self._moved(step + 1, before + time.monotonic() - began)
            logged.samples += self.train.batch_size
            last = step + 1 == self.steps
            self._log(losses, lr, logged, last=last)
            stop, due = self._agreed(self.stop.requested, self._due(saved_at, saved_samples))
            if stop or last or due:
                self._save()
                saved_at, saved_samples = time.monotonic(), self.cursor.position
            if stop and not last:
                raise StopRequested(
                    f"stopped on request at step {step + 1} of {self.steps}, checkpoint saved: start again to go on"
                )
        batches.close()
        self._finish()

    def _model(self) -> Student:
        vocabulary = None
        if self.train.distillation.mode == "Concepts":
            vocabulary = Vocabulary.from_document(
                json.loads(self.storage.read_bytes(label_layout(self.run).vocabulary))
            )
        torch.manual_seed(self.run.spec.seed)
        model = Student(
            self.model_config,
            num_objects=len(vocabulary.objects) if vocabulary else 0,
            num_attributes=len(vocabulary.attributes) if vocabulary else 0,
        )
        if self.train.lock_image_tower:
            model.clip.lock_image_tower()
        if self.train.activation_checkpointing:
            model.clip.set_grad_checkpointing()
        return model

    def _counted(self, shards: list[Shard]) -> list[Shard]:
        """Shards with the number of their samples; those that no filter has counted are read once."""
        counted = [
            shard
            if shard.samples is not None
            else Shard(
                shard.name, shard.uri, shard.source, samples=sum(1 for _ in read_samples(self.storage, shard.uri))
            )
            for shard in shards
        ]
        total = sum(shard.samples or 0 for shard in counted)
        if total < self.train.batch_size:
            raise DataError(
                f"{total} pairs are fewer than train.batchSize {self.train.batch_size}: lower it or loosen the filter"
            )
        return counted

    def _resumed(self, saved: checkpoint.Saved | None) -> checkpoint.Cursor:
        if saved is None:
            return checkpoint.Cursor(
                step=0, position=0, streams=self.order.streams, config_sha256=self.config_sha256, seconds=0
            )
        if saved.cursor.streams != self.order.streams:
            raise DataError(
                f"the checkpoint {saved.uri} was made over other data ({saved.cursor.streams} streams, now {self.order.streams})"
            )
        if self.rank == 0:
            print(f"train: going on after step {saved.cursor.step} of {self.steps} ({saved.uri})", flush=True)
        return saved.cursor

    def _loader(self) -> Loader:
        label_uris = None
        if self.train.distillation.mode == "Concepts":
            label_uris = [label_layout(self.run).labels(shard.name) for shard in self.shards]
        source = Source(
            self.storage,
            self.shards,
            label_uris,
            max_bad=int(MAX_BAD_FRACTION * self.order.total),
            bad=dict(self.cursor.bad),
        )
        size: Any = self.model.clip.visual.image_size
        return Loader(
            source,
            self.order,
            batch_size=self.train.batch_size,
            image_size=size[0] if isinstance(size, tuple) else size,
            context_length=self.model.clip.context_length,
            seed=self.run.spec.seed,
            rank=self.rank,
            world=self.world,
        )

    def _moved(self, step: int, seconds: float) -> checkpoint.Cursor:
        return self.cursor.model_copy(
            update={
                "step": step,
                "position": step * self.train.batch_size,
                "seconds": seconds,
                "bad": dict(self.loader.bad),
            }
        )

    def _check_finite(self, losses: Losses, times: int, uids: list[str]) -> int:
        if losses.total == losses.total and abs(losses.total) != float("inf"):
            return 0
        logging.warning("the loss of step %d is not finite", self.cursor.step + 1)
        if times + 1 >= MAX_NOT_FINITE:
            raise DataError(
                f"the loss was not finite in {times + 1} steps in a row, last with {uids[:8]}: lower the learning rate or use fp32"
            )
        return times + 1

    def _due(self, saved_at: float, saved_samples: int) -> bool:
        rule = self.train.checkpoint
        if rule.every_samples is not None:
            return self.cursor.position - saved_samples >= rule.every_samples
        return time.monotonic() - saved_at >= (rule.every_seconds or 900)

    def _agreed(self, *flags: bool) -> list[bool]:
        """For each flag whether any rank has it set; all ranks get the same answer in the same step."""
        if self.world == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float32, device=self.engine.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def _log(self, losses: Losses, lr: float, clock: Clock, *, last: bool) -> None:
        now = time.monotonic()
        done = min(self.cursor.position, self.train.samples)
        if self.rank == 0:
            self.progress.update(done, {"loss": losses.total, "logit_scale": self._logit_scale()})
        if not last and now - clock.at < LOG_EVERY_S and self.cursor.step > 1:
            return
        elapsed = max(now - clock.at, 1e-9)
        self.metrics.add(
            {
                "step": self.cursor.step,
                "samples": self.cursor.position,
                "time": int(time.time()),
                "loss": losses.total,
                "contrastive_loss": losses.contrastive,
                "object_loss": losses.object,
                "attribute_loss": losses.attribute,
                "lr": lr,
                "logit_scale": self._logit_scale(),
                "gradient_norm": self.engine.gradient_norm(),
                "image_to_text_top1": losses.image_to_text_top1,
                "text_to_image_top1": losses.text_to_image_top1,
                "hardest_negative_weight": losses.hardest_weight,
                "samples_per_second": clock.samples / elapsed,
                "data_wait_percent": 100 * self.loader.wait_seconds / elapsed,
                "peak_memory_mib": _peak_memory_mib(),
            }
        )
        clock.at, clock.samples, self.loader.wait_seconds = now, 0, 0.0
        if self.rank == 0:
            self.metrics.write()

    def _logit_scale(self) -> float:
        return float(self.engine.logit_scale)

    def _save(self) -> None:
        folder = self.layout.checkpoints
        state = checkpoint.state_of(self.engine.engine, self.model, rank=self.rank, ranks=self.world)
        parts = self._gathered(checkpoint.write_part(self.storage, folder, self.cursor, state, rank=self.rank))
        if self.rank == 0:
            self.metrics.write()
            checkpoint.commit(self.storage, folder, self.cursor, parts, keep=self.train.checkpoint.keep)
        self._barrier()

    def _gathered(self, part: checkpoint.Part) -> list[checkpoint.Part]:
        """The parts of all ranks, in rank order."""
        parts = [part] * self.world
        if self.world > 1:
            dist.all_gather_object(parts, part)
        return parts

    def _barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def _finish(self) -> None:
        state = checkpoint.state_of(self.engine.engine, self.model, rank=self.rank, moments=False)
        if self.rank == 0:
            files = export(self.storage, self.layout, self.model_config, state)
            self.metrics.write()
            self.metrics.write_tensorboard()
            lines = self.metrics.lines
            summary = {
                "samples": self.cursor.position,
                "steps": self.cursor.step,
                "seconds": round(self.cursor.seconds, 1),
                "samples_per_second": round(self.cursor.position / max(self.cursor.seconds, 1e-9), 1),
                "loss": {"first": lines[0]["loss"], "last": lines[-1]["loss"]},
                "peak_memory_mib": max(line["peak_memory_mib"] for line in lines),
                "bad": self.cursor.bad,
                "shards": len(self.shards),
                "pairs": self.order.total,
                "processes": self.world,
            }
            result = {"files": [*files, "metrics.jsonl"], "summary": summary}
            self.storage.write_bytes(join(self.layout.stage(Stage.TRAIN), RESULT), json.dumps(result).encode())
        self._barrier()


def train_shards(run: DihtRun, storage: Storage) -> list[Shard]:
    """The shards to train on: `train.shards` (labels are looked up by their file names), else what the filter kept, else the raw input."""
    train: Train | None = run.spec.train
    assert train is not None
    if train.shards:
        return [Shard(PurePosixPath(uri).name.partition(".")[0], uri, "train") for uri in storage.expand(train.shards)]
    return kept_shards(run.spec, storage)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Dropout's seed: the same after a restart."""
    return int(generator(seed, "dropout", step, rank).integers(2**63))


def _peak_memory_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run this rank."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    torch.use_deterministic_algorithms(True, warn_only=True)

    def work() -> None:
        training = Training(load(os.environ["DIHT_RUN"], name="DIHT_RUN"), json.loads(os.environ["DIHT_STAGE_CONFIG"]))
        training.go()
        if dist.is_initialized():
            dist.destroy_process_group()

    return rank_main(work)


if __name__ == "__main__":
    sys.exit(main())
