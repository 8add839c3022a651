"""One rank of the training: `python -m diht_k8s.stages.train.loop`, started by the launcher."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, RetryableError, StopRequested, UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.hangs.heartbeat import Heartbeat
from diht_k8s.runtime.in_place.rank_processes import wait_for_assignment
from diht_k8s.runtime.launcher import read_env
from diht_k8s.runtime.progress import STARTING, Reporter, TimeAccount
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import LOST_PEER, StopFlag, end_with_parent, leave, rank_main
from diht_k8s.runtime.tracking import start_tracking
from diht_k8s.stages.train.checkpoint import checkpointer
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, Saved, TowerDigest, checkpoint_uri
from diht_k8s.stages.train.checkpoint.checkpointer import Checkpointer
from diht_k8s.stages.train.checkpoint.init_from import preprocessing_of
from diht_k8s.stages.train.checkpoint.tensors import Ema, load_moments, load_weights, state_of
from diht_k8s.stages.train.checkpoint.warm_start import lock_tower, start_from
from diht_k8s.stages.train.collectives import (
    FlagsExchange,
    StepFlags,
    broadcast_error,
    choose_algorithms,
    exchange_flags,
    is_lost_peer,
    this_device,
)
from diht_k8s.stages.train.data.batch import BadSamples, Batch, BatchShare, Consumption
from diht_k8s.stages.train.data.loader import DeviceBatches
from diht_k8s.stages.train.data.normalisation import normalisation_of
from diht_k8s.stages.train.engine import Engine, Losses, Update
from diht_k8s.stages.train.features.rows import FeatureTables
from diht_k8s.stages.train.features.stored import stored_features
from diht_k8s.stages.train.flops import MfuMeter, mfu_meter
from diht_k8s.stages.train.interpolation import START, Interpolation, best_between, start_state
from diht_k8s.stages.train.metrics import Metrics
from diht_k8s.stages.train.model.caption_teacher import CaptionTeacher
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.export import ModelDescription
from diht_k8s.stages.train.model.student import Student, draws_in_training
from diht_k8s.stages.train.optimizer import learning_rate
from diht_k8s.stages.train.rendezvous import init_distributed
from diht_k8s.stages.train.setup import (
    adapt_student,
    make_loader,
    make_student,
    make_validation,
    read_vocabulary,
    resume_cursor,
    training_data,
)
from diht_k8s.stages.train.telemetry import Profiler, Telemetry, TrainStep
from diht_k8s.stages.train.text_start import caption_teacher, first_pairs, start_text_tower

MAX_NOT_FINITE = 3


@dataclass
class LastSave:
    """Time and position of the last checkpoint."""

    saved_at: float
    saved_position: int


class Training:
    """The loop of one rank."""

    def __init__(self, run: DihtRun, config: dict[str, Any]) -> None:
        """Initialise the process group and the training, from the newest checkpoint if there is one.

        Args:
            run: the run document.
            config: what the stage's `config_sha256` covers.
        """
        self.time = TimeAccount()
        self.time.enter(STARTING, "checkpoint")
        self.run, self.settings = run, run.training
        self.storage, self.config_sha256 = Storage(run.spec.storage), sha256_of(config)
        self.layout = run_layout(run, self.storage).at(Stage.TRAIN, self.config_sha256)
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.stop = StopFlag().install()
        self.heartbeat = Heartbeat(self.rank)
        self.model_config = model_configuration(self.settings)
        start = self.settings.init_from
        stored = {} if start is None else preprocessing_of(self.storage, start)
        self.normalisation = normalisation_of(self.settings, self.model_config, stored)
        self.vocabulary = read_vocabulary(run, self.storage, self.layout)
        where = {"rank": self.rank, "world": self.world}
        self.model = make_student(run, self.model_config, self.vocabulary)
        self.time.enter(STARTING, "rendezvous")
        self.fabric = init_distributed(self.settings, self.storage, self.layout, **where)
        self.time.enter(STARTING, "checkpoint")
        kept = {"keep": self.settings.checkpoint.keep, "max_failures": self.settings.checkpoint.max_failures}
        self.checkpointer = Checkpointer(self.storage, self.layout, **kept, **where)
        saved, tower = self._first_or_newest()
        adapt_student(self.model, self.settings, **where)
        check = self.stop.raise_if_requested
        self.data = training_data(run, self.storage, self.layout, saved, check=check, **where)
        self.progress = Reporter(Stage.TRAIN, time_spent=self.time, preflight=self.fabric.worst)
        self.time.enter(STARTING, "features")
        features = stored_features(
            run,
            self.storage,
            self.layout,
            self.model,
            self.normalisation,
            self.data.indexed.shards,
            this_device(),
            progress=self.progress,
            check=check,
            **where,
        )
        self.time.enter(STARTING, "checkpoint")
        self.bad = BadSamples(run.spec.data.max_bad_shards, len(self.data.indexed.shards), self.data.indexed.damaged)
        cursor = resume_cursor(saved, self.settings.batch_size, self.data.sampler, config_sha256=self.config_sha256)
        self.cursor = cursor.model_copy(update={"tower": tower})
        self.time.resumed(self.cursor.seconds if self.cursor.productive is None else self.cursor.productive)
        self.loader = make_loader(
            run, self.storage, self.layout, self.data, self.model, self.vocabulary, features, **where
        )
        teacher = self._fit_texts(features, resumes=saved is not None, check=check)
        self.start = self._start(saved)
        read = self.loader.batches(self.cursor.position)  # while the engine is made
        self.batches, self.waited = DeviceBatches(read, this_device()), 0.0
        self.engine = Engine(
            self.settings,
            self.model,
            normalisation=self.normalisation,
            seed=run.spec.training_seed,
            teacher=teacher,
            **where,
        )
        if saved is not None:
            load_moments(self.engine.deepspeed, self.model, saved.state)
            self.engine.load_scaling(saved.state)
        state = None if saved is None else saved.state
        self.ema = Ema(self.engine.deepspeed, self.model, self.settings.ema, state) if self.settings.ema > 0 else None
        self.validation = make_validation(
            run, self.storage, self.model, self.normalisation, self.engine.micro_batch, **where
        )
        self.profiler = Profiler(self.storage, self.layout, steps=self.settings.profile_steps, rank=self.rank)
        self.not_finite = 0
        self.consumption = Consumption(self.cursor.position)
        tracking = start_tracking(run.metadata.name, Stage.TRAIN, config) if self.rank == 0 else None
        self.metrics = Metrics(
            self.storage, self.layout, step=self.cursor.step, tracking=tracking, fence=self.checkpointer.fence
        )
        checkpoint = None if saved is None else saved.cursor.saved_as(saved.uri)
        self.progress.saved(checkpoint)
        self.heartbeat.note_position(self.cursor.step, checkpoint)

    def _fit_texts(
        self, features: Sequence[FeatureTables], *, resumes: bool, check: Callable[[], object]
    ) -> CaptionTeacher | None:
        """Fit what the settings ask for on the first pairs: the text tower's start, unless the training resumes, and
        the teacher of the texts, which is returned.
        """
        settings, taught = self.settings, self.settings.distillation.regression is not None
        if settings.text_start != "Ridge" or (resumes and not taught):
            return None
        share = BatchShare(settings.batch_size, self.rank, self.world)
        total, stand_in_F = self.data.sampler.total, features[0].stand_in_W
        first = first_pairs(
            self.storage, settings, self.model, self.loader, total, share, stand_in_F, resumes=resumes, check=check
        )
        if not resumes:
            start_text_tower(self.model, first, rank=self.rank, world=self.world)
        return caption_teacher(self.model, first, self.run.spec.training_seed, share) if taught else None

    def _start(self, saved: Saved | None) -> dict[str, Tensor]:
        """The start's weights, which rank 0 keeps to interpolate; empty elsewhere (a collective)."""
        if not self.settings.interpolate:
            return {}
        if saved is None or not saved.uri.startswith(self.layout.checkpoints):
            return start_state(self.model) if self.rank == 0 else {}
        stored = {key: saved.state[key] for key in saved.state if key.endswith(START)}  # read by all ranks
        return stored if self.rank == 0 else {}

    @property
    def steps(self) -> int:
        """Steps of the whole training; the last one may go beyond `samples`."""
        return -(-self.settings.samples // self.settings.batch_size)

    @property
    def planned(self) -> int:
        """Samples of the whole training: those of its last, whole step included."""
        return self.steps * self.settings.batch_size

    def train(self) -> None:
        """Train to the end, or up to a checkpoint when a stop is requested."""
        self.time.enter(STARTING, "firstBatch")
        began, before = time.monotonic(), self.cursor.seconds
        since = LastSave(began, self.cursor.position)
        if self.rank == 0:
            self.progress.start("steps", self.planned, done=self.cursor.position)
            self.telemetry = Telemetry(
                self.metrics,
                self._meter(),
                batch_size=self.settings.batch_size,
                world=self.world,
                bus_bandwidth=self.fabric.bus_bandwidth,
            )
        own_seconds = 0.0
        for step in range(self.cursor.step, self.steps):
            self.heartbeat.step()
            self.profiler.step()
            batch, waited = self._next_batch()
            exchange = self._exchange_flags(since, own_seconds)
            losses = self._step(step, batch)
            flags = exchange.wait()
            self._check_finite(batch.uids)
            self.cursor = self._advance_cursor(step + 1, before + time.monotonic() - began)
            own_seconds = waited + self.engine.own_seconds()
            self.bad.check(flags.unusable, max(self.data.sampler.total, self.cursor.position))
            self._finish_step(losses, batch, flags, since)
            del batch  # the device has room for two
            self.time.enter("data")
            self.time.note()
        self.batches.close()
        self._finish()

    def _next_batch(self) -> tuple[Batch, float]:
        """The next batch, whose bad samples count from now on, and the seconds waited for it."""
        before = time.perf_counter()
        batch = next(self.batches)
        waited = time.perf_counter() - before
        self.waited += waited
        self.time.enter("steps")
        self.bad.add(batch)
        return batch, waited

    def _meter(self) -> MfuMeter | None:
        """The meter of the utilisation, if this device's peak is known."""
        words = self.vocabulary
        return mfu_meter(
            self.settings,
            num_objects=0 if words is None else len(words.objects),
            num_attributes=0 if words is None else len(words.attributes),
            world=self.world,
            micro_batch=self.engine.micro_batch,
        )

    def _finish_step(self, losses: Losses, batch: Batch, flags: StepFlags, since: LastSave) -> None:
        """Finish a step: held-out loss, metrics, checkpoint, and the end if a stop was requested."""
        last = self.cursor.step == self.steps
        held_out = self._held_out()
        self._log(losses, batch, flags, held_out, last=last)
        ending = flags.stop or last
        if self.checkpointer.pending and not flags.busy:
            self._complete()
        sound = self.not_finite == 0  # the weights stay sound, but a new attempt would restart the count
        if sound and (ending or flags.due):
            self._save(since, wait=ending)
        if flags.stop and not last:
            self._complete()
            self.profiler.finish()
            saved = (
                "checkpoint saved"
                if sound
                else "not saved because its loss was not finite, the last checkpoint is kept"
            )
            raise StopRequested(
                f"stopped on request at step {self.cursor.step} of {self.steps}, {saved}: start again to resume"
            )

    def _step(self, step: int, batch: Batch) -> Losses:
        settings = self.settings
        seen = step * settings.batch_size
        self.lr = learning_rate(settings.optimizer, settings.schedule, seen=seen, samples=settings.samples)
        self.engine.set_learning_rate(self.lr)
        losses = self.engine.step(batch, number=step)
        if self.ema is not None and self.engine.update is Update.MADE:
            self.ema.update(step + 1)
        self.consumption.add(batch)
        return losses

    def _first_or_newest(self) -> tuple[Saved | None, TowerDigest | None]:
        """Load the newest checkpoint's weights, else those of `train.initFrom`, and lock the image tower if it shall
        be.

        Returns:
            The state to resume from, and what is to be said of the locked tower.
        """
        saved = self.checkpointer.newest(self.config_sha256)
        if saved is None and self.settings.init_from is not None:
            saved = start_from(
                self.storage,
                self.settings.init_from,
                self.model,
                image_only=self.settings.text_start == "Ridge",
                rank=self.rank,
                world=self.world,
            )
            if saved is not None and saved.cursor.step >= self.steps:
                raise UserError(
                    f"the checkpoint {saved.uri} has seen {saved.cursor.position} samples of train.samples "
                    f"{self.settings.samples}: raise it"
                )
        tower = lock_tower(self.storage, self.settings, self.model, saved)
        if saved is not None:
            if self.rank == 0:
                print(f"train: resuming after step {saved.cursor.step} of {self.steps} ({saved.uri})", flush=True)
                self._note_other_draws(saved)
            load_weights(self.model, saved.state)
        return saved, tower

    def _note_other_draws(self, saved: Saved) -> None:
        """Say that dropout draws otherwise than it would have on as many processes as saved the checkpoint."""
        if saved.state.parts != self.world and draws_in_training(self.model):
            print(
                f"train: {self.world} processes resume what {saved.state.parts} saved: dropout draws by process, so "
                "the curve "
                "becomes another, equally valid one",
                flush=True,
            )

    def _advance_cursor(self, step: int, seconds: float) -> Cursor:
        position = step * self.settings.batch_size
        moved = {"step": step, "position": position, "seconds": seconds, "productive": self.time.productive}
        return self.cursor.model_copy(update=moved)

    def _check_finite(self, uids: list[str]) -> None:
        """Tolerate a few skipped steps, then write the last batch's uids and give up."""
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
            f"the loss or its gradient was not finite in {MAX_NOT_FINITE} steps in a row (pairs of the last one: "
            f"{place}): "
            "lower train.optimizer.lr or use fp32; the last checkpoint is kept"
        )

    def _due(self, since: LastSave) -> bool:
        """Whether a checkpoint is due after this step."""
        rule = self.settings.checkpoint
        if rule.every_samples is not None:
            position = self.cursor.position + self.settings.batch_size
            return position - since.saved_position >= rule.every_samples
        return time.monotonic() - since.saved_at >= (rule.every_seconds or 900)

    def _exchange_flags(self, since: LastSave, own_seconds: float) -> FlagsExchange:
        """Tell the other ranks during the step, so that no card waits for it: a stop that comes later ends the next
        one.
        """
        mine = (self.stop.requested, self._due(since), self.checkpointer.busy)
        return exchange_flags(*mine, own_seconds, self.bad.unusable, rank=self.rank, world=self.world)

    def _held_out(self) -> dict[str, float]:
        """The held-out figures if a validation is due after this step."""
        rule, position = self.settings.validation, self.cursor.position
        if self.validation is None or rule is None:
            return {}
        crossed = position // rule.every_samples != (position - self.settings.batch_size) // rule.every_samples
        if not crossed and self.cursor.step != self.steps:
            return {}
        with self._untimed("validation"):
            return self.validation.measure(self.engine.deepspeed, self.engine.device, self.engine.group)

    @contextlib.contextmanager
    def _untimed(self, part: str) -> Iterator[None]:
        """Work that the watchdog does not time; the account of time counts it apart."""
        self.heartbeat.pause()
        self.time.enter(part)
        yield
        self.time.enter("steps")
        self.heartbeat.resume()

    @property
    def _held_out_damage(self) -> Mapping[str, Damage]:
        return {} if self.validation is None else self.validation.damaged

    def _log(self, losses: Losses, batch: Batch, flags: StepFlags, held_out: dict[str, float], *, last: bool) -> None:
        if self.rank != 0:
            return
        scale = self.engine.logit_scale
        shown = {**self.telemetry.failures(self.checkpointer.failed), **self.telemetry.fabric}
        shown |= self.bad.metrics(self._held_out_damage)
        self.progress.update(self.cursor.position, {"loss": losses.total, "logit_scale": scale, **shown})
        step = TrainStep(
            self.cursor,
            losses,
            self.lr,
            scale,
            self.engine.gradient_norm,
            flags.own_seconds,
            None if self.engine.scaling is None else self.engine.scaling.scale,
            batch,
            held_out,
            last or flags.stop,
            self.checkpointer.failed,
        )
        if self.telemetry.add(step, self.waited):
            self.waited = 0.0

    def _save(self, since: LastSave, *, wait: bool) -> None:
        """Take a checkpoint of this step; it is written while training continues, unless `wait` is set.

        One that fails is taken again after the next interval. With `wait` none follows, so it is written again until it
        is committed or has failed too often.
        """
        self._complete()
        while True:
            with self._untimed("checkpoints"):
                self.checkpointer.begin(self._state(), self.cursor, self.bad.counts)
                since.saved_at, since.saved_position = time.monotonic(), self.cursor.position
            if not wait or self._complete():
                break
            time.sleep(checkpointer.RETRY_S)
        if wait and self.rank == 0:
            self.progress.update(self.cursor.position, last=True)

    def _complete(self) -> bool:
        """Commit the pending checkpoint, if any; whether one is committed by this call."""
        with self._untimed("checkpoints"):
            cursor = self.checkpointer.complete(self.metrics)
        if cursor is not None:
            self.time.checkpoint_committed(cursor.productive or 0.0)
            checkpoint = cursor.saved_as(checkpoint_uri(self.layout.checkpoints, cursor), time=int(time.time()))
            self.progress.saved(checkpoint)
            self.heartbeat.note_position(self.cursor.step, checkpoint)
        return cursor is not None

    def _state(self) -> dict[str, Tensor]:
        """This rank's part of the state."""
        engine, rank, ranks = self.engine.deepspeed, self.rank, self.world
        state = state_of(engine, self.model, rank=rank, ranks=ranks)
        if rank == 0:
            state |= self.engine.scaling_state() | self.start
        if self.ema is not None:
            with self.ema.in_place():
                averaged = state_of(engine, self.model, rank=rank, ranks=ranks, moments=False)
            moving = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
            state |= {f"{name}|ema": value for name, value in averaged.items() if name in moving}
        return state

    def _weights(self) -> dict[str, Tensor]:
        """All weights on rank 0: their EMA if the run keeps one, and a locked image tower."""
        with self.ema.in_place() if self.ema is not None else contextlib.nullcontext():
            trained = state_of(self.engine.deepspeed, self.model, rank=self.rank, moments=False)
        return trained if self.model.locked is None else trained | self.model.locked.state()

    def _interpolate(self, end: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights to export on rank 0, and what the summary says of them (a collective)."""
        if not self.settings.interpolate:
            return end, {}
        found = list[Interpolation]()

        def choose() -> None:
            assert self.validation is not None, "the document's rules require it"
            model = Student(self.model_config)
            found.append(
                best_between(self.start, end, self.settings.interpolate, model, self.validation, self.engine.device)
            )

        if (error := broadcast_error(choose if self.rank == 0 else None)) is not None:
            raise error
        return (found[0].state, {"interpolation": found[0].summary()}) if found else (end, {})

    def _finish(self) -> None:
        self._complete()
        self.time.enter("other")
        self.profiler.finish()
        self.heartbeat.done()
        self.consumption.check(self.cursor.position, self.planned)
        summary = {
            "samples": self.cursor.position,
            "steps": self.cursor.step,
            "seconds": round(self.cursor.seconds, 1),
            "samples_per_second": round(self.cursor.position / max(self.cursor.seconds, 1e-9), 1),
            "bad": self.checkpointer.bad(self.cursor, self.bad.counts),
            **self.bad.summary(self._held_out_damage),
            "shards": len(self.data.indexed.shards),
            "pairs": sum(self.data.sampler.sizes),
            "processes": self.world,
        }
        weights, chosen = self._interpolate(self._weights())
        model = ModelDescription(self.model_config, self.normalisation)
        self.checkpointer.finish(self.run, weights, model, self.metrics, summary | chosen)
        self.metrics.finish()
        if self.rank == 0:
            self.progress.update(self.cursor.position, last=True)


def _import() -> None:
    """Import what a training imports on its way to the first step."""
    for name in ("deepspeed", "open_clip"):
        importlib.import_module(name)


def main() -> int:
    """Run this rank."""
    end_with_parent()
    wait_for_assignment(_import)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # DeepSpeed's calls, at every step

    def work() -> None:
        run = load(read_env("DIHT_RUN"), name="DIHT_RUN")
        choose_algorithms(run.training.deterministic)
        try:
            Training(run, json.loads(read_env("DIHT_STAGE_CONFIG"))).train()
        except RuntimeError as error:
            if not is_lost_peer(error):
                raise
            who = f"rank {os.environ['RANK']} on node {socket.gethostname()}"
            raise RetryableError(f"{LOST_PEER} ({who}: {error}): the gang starts again") from error
        if dist.is_initialized():
            dist.destroy_process_group()

    return rank_main(work)


if __name__ == "__main__":
    leave(main())
