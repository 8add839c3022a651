"""One rank of the training: `python -m diht_k8s.recipe.train.loop`, started by the launcher."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.utils.deterministic
from torch import Tensor

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, RetryableError, StopRequested, UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import SavedCheckpoint
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.runtime.launcher import LOST_PEER, rank_main
from diht_k8s.recipe.runtime.parent_death import end_with_parent
from diht_k8s.recipe.runtime.preflight import check_reduce
from diht_k8s.recipe.runtime.progress import Reporter
from diht_k8s.recipe.runtime.signals import StopFlag
from diht_k8s.recipe.runtime.watchdog import Heartbeat
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.checkpoint.checkpoint import Cursor, Saved, place_of
from diht_k8s.recipe.train.checkpoint.checkpointing import Saver
from diht_k8s.recipe.train.checkpoint.state import load_moments, load_weights, state_of
from diht_k8s.recipe.train.checkpoint.warm_start import start_from
from diht_k8s.recipe.train.data.batch import Batch
from diht_k8s.recipe.train.data.sampler import Order, generator
from diht_k8s.recipe.train.ema import Average
from diht_k8s.recipe.train.engine import Engine, Losses, Update, meet, this_device
from diht_k8s.recipe.train.metrics import Metrics
from diht_k8s.recipe.train.model.student import model_configuration
from diht_k8s.recipe.train.profiling import Profiling
from diht_k8s.recipe.train.schedule import learning_rate
from diht_k8s.recipe.train.setup import (
    counted,
    make_loader,
    make_student,
    make_validation,
    read_vocabulary,
    train_shards,
    weights_of,
)
from diht_k8s.recipe.train.telemetry import Observer, Step, weights_and_biases

MAX_NOT_FINITE = 3
MAX_BAD_FRACTION = 0.01


@dataclass
class Since:
    """When the last checkpoint was taken."""

    saved_at: float
    saved_position: int


@dataclass(frozen=True)
class Agreed:
    """What all ranks know of each other after a step; the same on all of them."""

    stop: bool
    due: bool
    busy: bool
    own_seconds: list[float]


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
        self.heartbeat = Heartbeat(self.rank)
        self.model_config = model_configuration(self.train)
        self.vocabulary = read_vocabulary(run, self.storage)
        where = {"rank": self.rank, "world": self.world}
        self.model = make_student(run, self.model_config, self.vocabulary, **where)
        meet()
        check_reduce(self.rank, self.world, str(this_device()))
        self.shards = counted(self.storage, train_shards(run, self.storage), self.train.batch_size, **where)
        sizes, weights = [shard.samples or 0 for shard in self.shards], weights_of(run, self.shards)
        self.order = Order.of(sizes, self.train.batch_size, run.spec.seed, weights=weights)
        self.saver = Saver(self.storage, self.layout, keep=self.train.checkpoint.keep, **where)
        saved = self._first_or_newest()
        self.engine = Engine(self.train, self.model, **where)
        if saved is not None:
            load_moments(self.engine.engine, self.model, saved.state)
            self.engine.load_scaling(saved.state)
        state = None if saved is None else saved.state
        self.average = Average(self.engine.engine, self.model, self.train.ema, state) if self.train.ema > 0 else None
        self.loader = make_loader(run, self.storage, self.shards, self.order, self.model, self.vocabulary, **where)
        self.validation = make_validation(self.train, self.storage, self.model, self.engine.micro_batch, **where)
        self.profiling = Profiling(self.storage, self.layout, steps=self.train.profile_steps, rank=self.rank)
        self.bad: Counter[str] = Counter()
        self.not_finite = 0
        tracker = weights_and_biases(run.metadata.name, config) if self.rank == 0 else None
        self.metrics = Metrics(
            self.storage, self.layout, step=self.cursor.step, tracker=tracker, fence=self.saver.fence
        )
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
        since = Since(began, self.cursor.position)
        if self.rank == 0:
            self.progress.start("steps", self.train.samples, done=min(self.cursor.position, self.train.samples))
            self.observer = Observer(
                self.metrics, self.model_config, batch_size=self.train.batch_size, world=self.world
            )
        for step in range(self.cursor.step, self.steps):
            self.heartbeat.step()
            self.profiling.step()
            waited = self.loader.wait_seconds
            batch = next(batches)
            waited = self.loader.wait_seconds - waited
            losses = self._step(step, batch)
            self.cursor = self._moved(step + 1, before + time.monotonic() - began)
            agreed = self._agreed(since, waited + self.engine.own_seconds())
            self._after(losses, batch.tokens_BT, agreed, since)
        batches.close()
        self._finish()

    def _after(self, losses: Losses, tokens_BT: Tensor, agreed: Agreed, since: Since) -> None:
        """What follows a step: held-out loss, metrics, checkpoint, the end if somebody asked for it."""
        last = self.cursor.step == self.steps
        held_out = self._held_out()
        self._log(losses, tokens_BT, agreed, held_out, last=last)
        ending = agreed.stop or last
        if self.saver.pending and not agreed.busy:
            self._complete()
        sound = self.not_finite == 0  # the weights are, too, while not, but another attempt would count anew
        if sound and (ending or agreed.due):
            self._save(since, wait=ending)
        if agreed.stop and not last:
            self._complete()
            self.profiling.finish()
            saved = (
                "checkpoint saved"
                if sound
                else "not saved because its loss was not finite, the last checkpoint is kept"
            )
            raise StopRequested(
                f"stopped on request at step {self.cursor.step} of {self.steps}, {saved}: start again to go on"
            )

    def _step(self, step: int, batch: Batch) -> Losses:
        train = self.train
        seen = step * train.batch_size
        self.lr = learning_rate(train.optimizer, train.schedule, seen=seen, samples=train.samples)
        self.engine.set_learning_rate(self.lr)
        torch.manual_seed(_step_seed(self.run.spec.seed, step, self.rank))
        losses = self.engine.step(batch)
        if self.average is not None and self.engine.update is Update.MADE:
            self.average.update(step + 1)
        self._count_bad(batch)
        self._check_finite(batch.uids)
        return losses

    def _first_or_newest(self) -> Saved | None:
        """Put the weights to begin with into the model: of the newest checkpoint, else of `train.initFrom`; the state to go on from."""
        saved = self.saver.newest(self.config_sha256)
        if saved is None and self.train.init_from is not None:
            saved = start_from(self.storage, self.train.init_from, self.model)
            if saved is not None and saved.cursor.step >= self.steps:
                raise UserError(
                    f"the checkpoint {saved.uri} has seen {saved.cursor.position} samples of train.samples {self.train.samples}: raise it"
                )
        self.cursor = self._resumed(saved)
        if saved is not None:
            load_weights(self.model, saved.state)
        return saved

    def _resumed(self, saved: Saved | None) -> Cursor:
        if saved is None:
            return Cursor(step=0, position=0, streams=self.order.streams, config_sha256=self.config_sha256, seconds=0)
        if (
            saved.cursor.position % self.train.batch_size
            or saved.cursor.step * self.train.batch_size != saved.cursor.position
        ):
            raise UserError(
                f"the checkpoint {saved.uri} was made with another train.batchSize ({saved.cursor.position} samples in "
                f"{saved.cursor.step} steps): set that one, or take its weights only (initFrom.kind Weights)"
            )
        if saved.cursor.streams != self.order.streams:
            raise DataError(
                f"the checkpoint {saved.uri} was made over other data ({saved.cursor.streams} streams, now {self.order.streams}): "
                "choose another data.output"
            )
        if self.rank == 0:
            print(f"train: going on after step {saved.cursor.step} of {self.steps} ({saved.uri})", flush=True)
        return saved.cursor.model_copy(update={"config_sha256": self.config_sha256})

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

    def _check_finite(self, uids: list[str]) -> None:
        """Let a few steps pass that were left out, then give up and leave the last batch's uids behind."""
        if self.engine.update is not Update.NOT_FINITE:
            self.not_finite = 0
            return
        self.not_finite += 1
        logging.warning("the loss or gradient of step %d is not finite: the step is skipped", self.cursor.step + 1)
        if self.not_finite < MAX_NOT_FINITE:
            return
        self._complete()
        place = join(self.layout.stage(Stage.TRAIN), f"not_finite-{self.rank:05d}.json")
        self.storage.write_bytes(place, json.dumps({"step": self.cursor.step + 1, "uids": uids}).encode())
        raise DataError(
            f"the loss or its gradient was not finite in {MAX_NOT_FINITE} steps in a row (pairs of the last one: {place}): "
            "lower train.optimizer.lr or use fp32; the last checkpoint is kept"
        )

    def _due(self, since: Since) -> bool:
        rule = self.train.checkpoint
        if rule.every_samples is not None:
            return self.cursor.position - since.saved_position >= rule.every_samples
        return time.monotonic() - since.saved_at >= (rule.every_seconds or 900)

    def _agreed(self, since: Since, own_seconds: float) -> Agreed:
        """What any rank wants, and what each took; all ranks get the same answer in the same step."""
        stop, due, busy = self.stop.requested, self._due(since), self.saver.busy
        if self.world == 1:
            return Agreed(stop, due, busy, [own_seconds])
        values = torch.zeros(3 + self.world)
        values[:3] = torch.tensor([stop, due, busy])
        values[3 + self.rank] = own_seconds
        values = values.to(self.engine.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        stop, due, busy, *own = values.tolist()
        return Agreed(bool(stop), bool(due), bool(busy), own)

    def _held_out(self) -> dict[str, float]:
        """The held-out figures if a validation is due after this step."""
        rule, position = self.train.validation, self.cursor.position
        if self.validation is None or rule is None:
            return {}
        crossed = position // rule.every_samples != (position - self.train.batch_size) // rule.every_samples
        if not crossed and self.cursor.step != self.steps:
            return {}
        self.heartbeat.excepted()
        found = self.validation.measure(self.engine.engine, self.engine.device, self.engine.group)
        self.heartbeat.resumed()
        return found

    def _log(
        self, losses: Losses, tokens_BT: Tensor, agreed: Agreed, held_out: dict[str, float], *, last: bool
    ) -> None:
        if self.rank != 0:
            return
        scale = float(self.engine.logit_scale)
        done = min(self.cursor.position, self.train.samples)
        self.progress.update(done, {"loss": losses.total, "logit_scale": scale})
        step = Step(
            self.cursor,
            losses,
            self.lr,
            scale,
            self.engine.gradient_norm(),
            agreed.own_seconds,
            None if self.engine.scaling is None else self.engine.scaling.scale,
            tokens_BT,
            held_out,
            last or agreed.stop,
        )
        if self.observer.add(step, self.loader.wait_seconds):
            self.loader.wait_seconds = 0.0

    def _save(self, since: Since, *, wait: bool) -> None:
        """Take a checkpoint of this step; it is written while the training goes on, unless `wait` is set."""
        self._complete()
        self.heartbeat.excepted()
        self.saver.begin(self._state(), self.cursor, self.bad)
        since.saved_at, since.saved_position = time.monotonic(), self.cursor.position
        self.heartbeat.resumed()
        if wait:
            self._complete()
            if self.rank == 0:
                self.progress.update(min(self.cursor.position, self.train.samples), last=True)

    def _complete(self) -> None:
        """Commit the checkpoint that is being written, if there is one."""
        self.heartbeat.excepted()
        cursor = self.saver.complete(self.metrics)
        self.heartbeat.resumed()
        if cursor is not None:
            place = place_of(self.layout.checkpoints, cursor)
            self.progress.saved(SavedCheckpoint(step=cursor.step, uri=place, time=int(time.time())))

    def _state(self) -> dict[str, Tensor]:
        """This rank's part of the state."""
        engine, rank, ranks = self.engine.engine, self.rank, self.world
        state = state_of(engine, self.model, rank=rank, ranks=ranks)
        if rank == 0:
            state |= self.engine.scaling_state()
        if self.average is not None:
            with self.average.in_place():
                averaged = state_of(engine, self.model, rank=rank, ranks=ranks, moments=False)
            moving = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
            state |= {f"{name}|ema": value for name, value in averaged.items() if name in moving}
        return state

    def _weights(self) -> dict[str, Tensor]:
        """All weights on rank 0, averaged where the run averages."""
        with self.average.in_place() if self.average is not None else contextlib.nullcontext():
            return state_of(self.engine.engine, self.model, rank=self.rank, moments=False)

    def _finish(self) -> None:
        self._complete()
        self.profiling.finish()
        self.heartbeat.done()
        summary = {
            "samples": self.cursor.position,
            "steps": self.cursor.step,
            "seconds": round(self.cursor.seconds, 1),
            "samples_per_second": round(self.cursor.position / max(self.cursor.seconds, 1e-9), 1),
            "bad": self.saver.bad(self.cursor, self.bad),
            "shards": len(self.shards),
            "pairs": sum(self.order.sizes),
            "processes": self.world,
        }
        self.saver.finish(self.run, self._weights(), self.model_config, self.metrics, summary)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Dropout's seed: the same after a restart."""
    return int(generator(seed, "dropout", step, rank).integers(2**63))


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
            raise RetryableError(f"{LOST_PEER} ({error}): the gang starts again") from error
        if dist.is_initialized():
            dist.destroy_process_group()

    return rank_main(work)


if __name__ == "__main__":
    sys.exit(main())
