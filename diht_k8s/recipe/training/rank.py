"""One rank of the training: `python -m diht_k8s.recipe.training.rank`, started by the launcher."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import torch
import torch.distributed as dist
import torch.utils.deterministic

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, RetryableError, StopRequested
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import SavedCheckpoint
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.training import Train
from diht_k8s.recipe.concepts.vocabulary import Vocabulary
from diht_k8s.recipe.runtime.launch import rank_main
from diht_k8s.recipe.runtime.parent import end_with_parent
from diht_k8s.recipe.runtime.preflight import check_reduce
from diht_k8s.recipe.runtime.progress import Reporter
from diht_k8s.recipe.runtime.signals import StopFlag
from diht_k8s.recipe.shards.samples import count_samples
from diht_k8s.recipe.shards.sets import Shard, kept_shards
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.training.batch_norm import over_all_ranks
from diht_k8s.recipe.training.checkpoint import Cursor, Saved, place_of
from diht_k8s.recipe.training.engine import Engine, Losses, meet, this_device
from diht_k8s.recipe.training.loader import Batch, Loader, Source
from diht_k8s.recipe.training.metrics import Metrics
from diht_k8s.recipe.training.model import Student, has_batch_statistics, model_configuration
from diht_k8s.recipe.training.order import Order, generator
from diht_k8s.recipe.training.saving import Saver
from diht_k8s.recipe.training.schedule import learning_rate
from diht_k8s.recipe.training.stage import label_layout
from diht_k8s.recipe.training.state import load_moments, load_weights

LOG_EVERY_S = 2.0
LOG_LINES = 1000
"""Of a long training about so many lines for each factor of e in time, so that the metrics stay small."""
MAX_NOT_FINITE = 3
MAX_BAD_FRACTION = 0.01


@dataclass
class Since:
    """What has happened since the last metrics line and since the last checkpoint."""

    logged_at: float
    saved_at: float
    saved_position: int
    logged_samples: int = 0


class Training:
    """The loop of one rank."""

    def __init__(self, run: DihtRun, config: dict[str, Any]) -> None:
        """Meet the other ranks and get ready, from the newest checkpoint if there is one.

        Args:
            run: the run document.
            config: what the stage's `config_sha256` covers.
        """
        assert run.spec.train is not None
        self.run, self.train = run, run.spec.train
        self.storage, self.layout = Storage(run.spec.storage), Layout(run.spec.data.output)
        self.config_sha256 = sha256_of(config)
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.stop = StopFlag().install()
        self.model_config = model_configuration(self.train)
        self.vocabulary = self._vocabulary()
        self.model = self._model()
        meet()
        check_reduce(self.rank, self.world, str(this_device()))
        self.shards = self._counted(train_shards(run, self.storage))
        self.order = Order.of([shard.samples or 0 for shard in self.shards], self.train.batch_size, run.spec.seed)
        keep = self.train.checkpoint.keep
        self.saver = Saver(self.storage, self.layout, keep=keep, rank=self.rank, world=self.world)
        saved = self.saver.newest(self.config_sha256)
        self.cursor = self._resumed(saved)
        if saved is not None:
            load_weights(self.model, saved.state)
        self.engine = Engine(self.train, self.model, rank=self.rank, world=self.world)
        if saved is not None:
            load_moments(self.engine.engine, self.model, saved.state)
        self.loader = self._loader()
        self.bad: Counter[str] = Counter()
        self.not_finite = 0
        self.metrics = Metrics(self.storage, self.layout, step=self.cursor.step)
        self.progress = Reporter(Stage.TRAIN)
        if saved is not None:
            self.progress.saved(SavedCheckpoint(step=saved.cursor.step, uri=saved.uri))

    @property
    def steps(self) -> int:
        """Steps of the whole training; the last one may go beyond `samples`."""
        return -(-self.train.samples // self.train.batch_size)

    def go(self) -> None:
        """Train to the end, or to a checkpoint where somebody asked to stop."""
        batches = self.loader.batches(self.cursor.position)
        began, before = time.monotonic(), self.cursor.seconds
        since = Since(began, began, self.cursor.position)
        if self.rank == 0:
            self.progress.start("steps", self.train.samples, done=min(self.cursor.position, self.train.samples))
        for step in range(self.cursor.step, self.steps):
            losses = self._step(step, next(batches))
            self.cursor = self._moved(step + 1, before + time.monotonic() - began)
            since.logged_samples += self.train.batch_size
            last = step + 1 == self.steps
            self._log(losses, since, last=last)
            stop, due = self._agreed(self.stop.requested, self._due(since))
            if self.not_finite == 0 and (stop or last or due):
                self._save(since, last=stop or last)
            if stop and not last:
                raise StopRequested(
                    f"stopped on request at step {step + 1} of {self.steps}, checkpoint saved: start again to go on"
                )
        batches.close()
        self._finish()

    def _step(self, step: int, batch: Batch) -> Losses:
        train = self.train
        seen = step * train.batch_size
        self.lr = learning_rate(train.optimizer, train.schedule, seen=seen, samples=train.samples)
        self.engine.set_learning_rate(self.lr)
        torch.manual_seed(_step_seed(self.run.spec.seed, step, self.rank))
        losses = self.engine.step(batch)
        self._count_bad(batch)
        self._check_finite(losses, batch.uids)
        return losses

    def _vocabulary(self) -> Vocabulary | None:
        if self.train.distillation.mode != "Concepts":
            return None
        return Vocabulary.from_document(json.loads(self.storage.read_bytes(label_layout(self.run).vocabulary)))

    def _model(self) -> Student:
        torch.manual_seed(self.run.spec.seed)
        model = Student(
            self.model_config,
            num_objects=len(self.vocabulary.objects) if self.vocabulary else 0,
            num_attributes=len(self.vocabulary.attributes) if self.vocabulary else 0,
        )
        if self.train.lock_image_tower:
            model.clip.lock_image_tower()
        if self.train.activation_checkpointing:
            model.clip.set_grad_checkpointing()
        if has_batch_statistics(model):
            if self.world > 1:
                over_all_ranks(model, this_device())
            if self.rank == 0 and self.train.micro_batch_size is not None:
                logging.warning(
                    "the model has batch statistics (BatchNorm): its curve depends on train.microBatchSize, over which they are taken"
                )
        return model

    def _counted(self, shards: list[Shard]) -> list[Shard]:
        """Shards with the number of their samples; rank 0 reads those once that no filter has counted."""
        samples = [shard.samples for shard in shards]
        if None in samples:
            if self.rank == 0:
                samples = [
                    count_samples(self.storage, s.uri) if n is None else n for s, n in zip(shards, samples, strict=True)
                ]
            if self.world > 1:
                dist.broadcast_object_list(samples)
        total = sum(number or 0 for number in samples)
        if total < self.train.batch_size:
            raise DataError(
                f"{total} pairs are fewer than train.batchSize {self.train.batch_size}: lower it or loosen the filter"
            )
        return [replace(shard, samples=number) for shard, number in zip(shards, samples, strict=True)]

    def _resumed(self, saved: Saved | None) -> Cursor:
        if saved is None:
            return Cursor(step=0, position=0, streams=self.order.streams, config_sha256=self.config_sha256, seconds=0)
        if saved.cursor.streams != self.order.streams:
            raise DataError(
                f"the checkpoint {saved.uri} was made over other data ({saved.cursor.streams} streams, now {self.order.streams}): "
                "choose another data.output"
            )
        if self.rank == 0:
            print(f"train: going on after step {saved.cursor.step} of {self.steps} ({saved.uri})", flush=True)
        return saved.cursor

    def _loader(self) -> Loader:
        labels, sha256 = None, None
        if self.vocabulary is not None:
            labels = [label_layout(self.run).labels(shard.name) for shard in self.shards]
            sha256 = self.vocabulary.sha256
        size: Any = self.model.clip.visual.image_size
        return Loader(
            Source(self.storage, self.shards, labels, vocabulary_sha256=sha256),
            self.order,
            batch_size=self.train.batch_size,
            image_size=size[0] if isinstance(size, tuple) else size,
            context_length=self.model.clip.context_length,
            seed=self.run.spec.seed,
            rank=self.rank,
            world=self.world,
            workers=self.train.loader_workers,
        )

    def _moved(self, step: int, seconds: float) -> Cursor:
        position = step * self.train.batch_size
        return self.cursor.model_copy(update={"step": step, "position": position, "seconds": seconds})

    def _count_bad(self, batch: Batch) -> None:
        """Count this rank's bad samples; a few are expected, many mean that the data was never filtered."""
        self.bad.update(batch.bad)
        seen = max(self.order.total, self.cursor.position) / self.world
        if self.bad.total() > MAX_BAD_FRACTION * seen:
            raise DataError(
                f"more than {MAX_BAD_FRACTION:.0%} of the pairs cannot be used ({dict(self.bad)}): run the stage filter on this data"
            )

    def _check_finite(self, losses: Losses, uids: list[str]) -> None:
        """Skip a few steps whose loss is not finite, then give up and leave the last batch's uids behind."""
        if losses.finite:
            self.not_finite = 0
            return
        self.not_finite += 1
        logging.warning("the loss of step %d is not finite: the step is skipped", self.cursor.step + 1)
        if self.not_finite < MAX_NOT_FINITE:
            return
        place = join(self.layout.stage(Stage.TRAIN), f"not_finite-{self.rank:05d}.json")
        self.storage.write_bytes(place, json.dumps({"step": self.cursor.step + 1, "uids": uids}).encode())
        raise DataError(
            f"the loss was not finite in {MAX_NOT_FINITE} steps in a row (pairs of the last one: {place}): "
            "lower train.optimizer.lr or use fp32; the last checkpoint is kept"
        )

    def _due(self, since: Since) -> bool:
        rule = self.train.checkpoint
        if rule.every_samples is not None:
            return self.cursor.position - since.saved_position >= rule.every_samples
        return time.monotonic() - since.saved_at >= (rule.every_seconds or 900)

    def _agreed(self, *flags: bool) -> list[bool]:
        """For each flag whether any rank has it set; all ranks get the same answer in the same step."""
        if self.world == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float32, device=self.engine.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def _log(self, losses: Losses, since: Since, *, last: bool) -> None:
        now = time.monotonic()
        if self.rank != 0:
            return
        scale = float(self.engine.logit_scale)
        done = min(self.cursor.position, self.train.samples)
        self.progress.update(done, {"loss": losses.total, "logit_scale": scale})
        every_s = max(LOG_EVERY_S, self.cursor.seconds / LOG_LINES)
        if not last and now - since.logged_at < every_s and self.cursor.step > 1:
            return
        elapsed = max(now - since.logged_at, 1e-9)
        self.metrics.add(
            {
                "step": self.cursor.step,
                "samples": self.cursor.position,
                "time": int(time.time()),
                "loss": losses.total,
                "contrastive_loss": losses.contrastive,
                "object_loss": losses.object,
                "attribute_loss": losses.attribute,
                "lr": self.lr,
                "logit_scale": scale,
                "gradient_norm": self.engine.gradient_norm(),
                "image_to_text_top1": losses.image_to_text_top1,
                "text_to_image_top1": losses.text_to_image_top1,
                "hardest_negative_weight": losses.hardest_weight,
                "samples_per_second": since.logged_samples / elapsed,
                "data_wait_percent": 100 * self.loader.wait_seconds / elapsed,
                "peak_memory_mib": _peak_memory_mib(),
            }
        )
        since.logged_at, since.logged_samples, self.loader.wait_seconds = now, 0, 0.0
        self.metrics.write()

    def _save(self, since: Since, *, last: bool) -> None:
        self.saver.save(self.engine.engine, self.model, self.cursor, self.bad, self.metrics)
        since.saved_at, since.saved_position = time.monotonic(), self.cursor.position
        place = place_of(self.layout.checkpoints, self.cursor)
        self.progress.saved(SavedCheckpoint(step=self.cursor.step, uri=place, time=int(time.time())))
        if last and self.rank == 0:
            self.progress.update(min(self.cursor.position, self.train.samples), last=True)

    def _finish(self) -> None:
        summary = {
            "samples": self.cursor.position,
            "steps": self.cursor.step,
            "seconds": round(self.cursor.seconds, 1),
            "samples_per_second": round(self.cursor.position / max(self.cursor.seconds, 1e-9), 1),
            "bad": self.saver.bad(self.cursor, self.bad),
            "shards": len(self.shards),
            "pairs": self.order.total,
            "processes": self.world,
        }
        self.saver.finish(self.engine.engine, self.model, self.model_config, self.metrics, summary)


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


def _lost_peer(error: RuntimeError) -> bool:
    """Whether another rank has gone away: NCCL raises torch's own errors, gloo names itself in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def main() -> int:
    """Run this rank."""
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # DeepSpeed's calls, at every step
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A tenth of a step, to find bugs of kernels. A property that torch puts on the module at run time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]

    def work() -> None:
        run = load(os.environ["DIHT_RUN"], name="DIHT_RUN")
        try:
            Training(run, json.loads(os.environ["DIHT_STAGE_CONFIG"])).go()
        except RuntimeError as error:
            if not _lost_peer(error):
                raise
            raise RetryableError(f"lost contact to another rank ({error}): the gang starts again") from error
        if dist.is_initialized():
            dist.destroy_process_group()

    return rank_main(work)


if __name__ == "__main__":
    sys.exit(main())
