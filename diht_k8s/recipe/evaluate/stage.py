"""Stage 4 as a program: a model and benchmark shards to `features/*`, `benchmarks/*.json`, the report and
the model's card.

Workers share the shards, as those of the filter do: each shard is encoded once, and one worker does the rest from those
files while the others wait for it, so the figures do not depend on the number of workers. Each benchmark's result is
written as soon as it is ready, so an interrupted evaluation resumes with the next one. A benchmark that fails does not
lose the others: the report is still written, then the stage ends uncommitted with the first error.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.api.evaluate import Benchmark, Evaluate
from diht_k8s.api.hashing import SCHEMA_VERSION, STAGE_VERSIONS, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.clip_models.files import model_identity
from diht_k8s.recipe.evaluate.class_texts import CLASS_NAMES, TEMPLATES, class_names, file_beside, templates_of
from diht_k8s.recipe.evaluate.image_progress import ImageProgress
from diht_k8s.recipe.report.per_image import PER_IMAGE, per_image_path, write_per_image
from diht_k8s.recipe.runtime.bad_shards import BadShards, Damage, damage_summary
from diht_k8s.recipe.runtime.claims import Claims
from diht_k8s.recipe.runtime.commit import artefact, find_committed, read_committed
from diht_k8s.recipe.runtime.shard_progress import ShardProgress
from diht_k8s.recipe.runtime.shared_work import claims_of, until_committed
from diht_k8s.recipe.runtime.stage import Context, Outcome
from diht_k8s.recipe.runtime.tracking import start_tracking
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.storage import Storage

Json = dict[str, Any]
MISSING: Final = "missing"


def identify(run: DihtRun, storage: Storage) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The model, the benchmarks' shards and class names, and the stages that the report shows.

    Raises:
        UserError: the model does not exist. (Missing shards fail only their benchmark, when it runs.)
    """
    evaluate, layout = _evaluate(run), Layout(run.spec.data.output)
    if evaluate.model is None:
        inputs = {"train": read_committed(storage, layout, Stage.TRAIN).output_sha256}
    else:
        inputs = {"model": model_identity(evaluate.model, storage)}
    for stage in (Stage.FILTER, Stage.LABEL):
        if getattr(run.spec, stage.value) is not None and (found := find_committed(storage, layout, stage)) is not None:
            inputs[stage.value] = found.output_sha256
    for benchmark in evaluate.chosen:
        for number, uri in enumerate(_shards(storage, benchmark)):
            inputs[f"{benchmark.name} {number}"] = storage.identity(uri)
        for what, uri in _text_files(storage, benchmark):
            inputs[f"{benchmark.name} {what}"] = storage.identity(uri) if storage.exists(uri) else MISSING
    return inputs, {}


def execute(context: Context) -> Outcome | None:
    """Encode shards until all are; then one worker runs the benchmarks without a result and writes the report."""
    session, claims = Session(context), claims_of(context)
    session.encode(session.share(context.worker, context.workers), claims)

    def take() -> tuple[bool, int]:  # from the last one on, because their owners start with the first
        missing = session.missing()[::-1]
        return session.encode(missing, claims), len(missing)

    return until_committed(context, claims, take, lambda: _finish(context, session))


def _finish(context: Context, session: Session) -> Outcome:
    """Run the benchmarks without a result and write the report."""
    from diht_k8s.recipe.report import write_report

    errors: list[DataError | UserError] = []
    results: list[Json] = []
    for number, benchmark in enumerate(_evaluate(context.run).chosen):
        context.stop.raise_if_requested()
        try:
            results.append(session.result(number, benchmark))
        except (DataError, UserError) as error:
            errors.append(error)
            results.append({"name": benchmark.name, "type": benchmark.type, "error": str(error)})
    context.progress.start("report", 1, unit="pages")
    write_report(context, results)
    context.progress.update(1)
    _track(context, results)
    if errors:
        raise type(errors[0])(f"{errors[0]} ({len(errors)} of {len(results)} benchmarks failed, see report.html)")
    paths = [path for number in range(len(results)) for path in (_path(number), per_image_path(number))]
    paths += ["report.json", "report.html", "README.md"]
    artefacts = [artefact(context.storage, context.layout, Stage.EVALUATE, path) for path in paths]
    summary = {"benchmarks": len(results), "samples": sum(result["pictures"] for result in results)}
    return Outcome(artefacts, {**summary, **session.speed(), **damage_summary(session.damaged)})


def _track(context: Context, results: list[Json]) -> None:
    """Send the headline figures where the environment asks for it."""
    from diht_k8s.recipe.report.overview import headlines

    tracking = start_tracking(context.run.metadata.name, Stage.EVALUATE, context.config)
    for result in results:
        tracking.log({f"evaluate/{result['name']}/{head['metric']}": head["value"] for head in headlines(result)})
    tracking.finish()


class Session:
    """What the benchmarks share: model, encoded shards and the references' training pairs, each loaded on first use."""

    def __init__(self, context: Context) -> None:
        from diht_k8s.recipe.evaluate.references import References

        self._context = context
        self._references = References(context)
        self._model: Any = None
        inputs = context.config["inputs"]
        self._model_key = inputs.get("train", inputs.get("model"))
        benchmarks, self._decode = _evaluate(context.run).chosen, _evaluate(context.run).decode
        shards = dict.fromkeys(uri for each in benchmarks for uri in _shards(context.storage, each))
        self._folder = join(context.layout.stage(Stage.EVALUATE), "features")
        self._files = {
            uri: (join(self._folder, f"{number:05d}.safetensors"), self._features_key(uri))
            for number, uri in enumerate(shards)
        }
        """shard -> file of its features, and their key."""
        self._encoded = set[str]()
        """shards whose features were found complete or written here; they are read again only for use."""
        self.damaged = dict[str, Damage]()
        """the damaged ones among them, those of all workers once all are encoded."""
        self._done_images, self._seconds = 0, 0.0

    def share(self, worker: int, workers: int) -> list[str]:
        """The shards with which a worker begins."""
        return list(self._files)[worker::workers]

    def encode(self, shards: Sequence[str], claims: Claims) -> bool:
        """Encode the shards that are not and that no other worker has claimed; returns whether there was one."""
        worked = False
        for uri in shards:
            self._context.stop.raise_if_requested("finished shards are kept")
            name = self._files[uri][0].rpartition("/")[2].removesuffix(".safetensors")
            if self._is_encoded(uri) or not claims.take(name, shown=uri):
                continue
            worked = True
            try:
                self._encode(uri, claims)
            except DihtError:
                claims.give_up(name)
                raise
        return worked

    def _encode(self, uri: str, claims: Claims) -> None:
        from diht_k8s.recipe.evaluate.benchmark_images import encode_shard
        from diht_k8s.recipe.evaluate.feature_files import write_features
        from diht_k8s.recipe.shards.images import decode, decode_as_reference

        def check() -> None:
            self._context.stop.raise_if_requested()
            claims.keep()

        loaded, (images, committed) = self.model(), self._progress
        decoder = decode_as_reference if self._decode == "Reference" else decode
        images.begin(uri)
        began, before = time.monotonic(), images.done
        try:
            found = encode_shard(self._context.storage, uri, loaded, images.advance, check=check, decoder=decoder)
            self.damaged |= found.damaged
        except DataError as error:
            found = error
        write_features(self._context.storage, *self._files[uri], found)
        self._encoded.add(uri)
        images.finish(uri)
        committed.shard_done()
        self._seconds += time.monotonic() - began
        self._done_images += images.done - before

    def speed(self) -> dict[str, float]:
        """Images a second of this worker's encoding; empty where an earlier attempt encoded them all."""
        return (
            {"samples_per_second": round(self._done_images / max(self._seconds, 1e-9), 1)} if self._done_images else {}
        )

    @cached_property
    def _progress(self) -> tuple[ImageProgress, ShardProgress]:
        """Begun with the first shard: those of this worker's share that are left are the estimate of its work."""
        mine = self.share(self._context.worker, self._context.workers)
        left = [uri for uri in mine if not self._is_encoded(uri)]
        return ImageProgress(self._context, left, self.damaged), ShardProgress(self._context, "features")

    def missing(self) -> list[str]:
        """The shards that nobody has encoded yet, in order."""
        there = set(self._context.storage.names(self._folder))
        return [
            uri
            for uri, (file, _) in self._files.items()
            if file.rpartition("/")[2] not in there or not self._is_encoded(uri)
        ]

    def _is_encoded(self, uri: str) -> bool:
        if uri not in self._encoded and (found := self._features(uri)) is not None:
            self._encoded.add(uri)
            self.damaged |= getattr(found, "damaged", {})
        return uri in self._encoded

    def _features(self, uri: str) -> Any:
        from diht_k8s.recipe.evaluate.feature_files import read_features

        return read_features(self._context.storage, *self._files[uri])

    def _features_key(self, uri: str) -> str:
        """Digest of everything that a shard's features depend on."""
        version = STAGE_VERSIONS[Stage.EVALUATE]
        how = [] if self._decode == "Ours" else [self._decode]  # keys of earlier versions stay
        return sha256_of([self._model_key, uri, self._context.storage.identity(uri), version, *how])

    def result(self, number: int, benchmark: Benchmark) -> Json:
        """The result of a benchmark, read from an earlier attempt or computed.

        Raises:
            DataError: the benchmark's data cannot be used.
            UserError: its configuration is wrong, or the model cannot be loaded.
        """
        context, folder = self._context, self._context.layout.stage(Stage.EVALUATE)
        uri, per_image_uri = join(folder, _path(number)), join(folder, per_image_path(number))
        if context.storage.exists(uri) and context.storage.exists(per_image_uri):
            found: Json = json.loads(context.storage.read_bytes(uri))
            if found["config_sha256"] == context.config_sha256:
                return found
        figures = self._run(number, benchmark)
        write_per_image(context.storage, per_image_uri, figures.pop(PER_IMAGE))
        found = {
            **_header(context),
            "name": benchmark.name,
            "type": benchmark.type,
            "split": benchmark.split,
            **figures,
        }
        context.storage.write_bytes(uri, json.dumps(found, indent=1, ensure_ascii=False).encode())
        return found

    def _model_card(self) -> Json:
        """The evaluated model, for the report."""
        source, loaded = _evaluate(self._context.run).model, self.model()
        return {
            "source": source or "trained by this run",
            "name": loaded.name,
            "parameters": loaded.parameters,
            "trained": loaded.trained,
            "assumed": loaded.assumed,
            "logit_scale": loaded.logit_scale,
        }

    def _run(self, number: int, benchmark: Benchmark) -> Json:
        from diht_k8s.recipe.evaluate import tasks
        from diht_k8s.recipe.evaluate.answer_task import rank_answers
        from diht_k8s.recipe.evaluate.group_tasks import TASKS
        from diht_k8s.recipe.shards import thumbnails

        context, seed = self._context, [self._context.run.spec.seed, number]
        templates_found, names_found = templates_of(context.storage, benchmark), class_names(context.storage, benchmark)
        templates, names = templates_found.lines, names_found.lines
        images = self._images(benchmark)
        if benchmark.type == "Classification":
            few_shot = _evaluate(context.run).few_shot
            result, shown = tasks.classify(images, names, templates, self.model(), few_shot, seed), list[str]()
        elif benchmark.type == "AnswerRanking":
            result = rank_answers(images, names, templates, self.model(), seed)
            shown = [mistake["picture"] for mistake in result["mistakes"]]
        elif benchmark.type in TASKS:
            result, shown = TASKS[benchmark.type](images, templates, self.model(), seed), []
        else:
            result = tasks.retrieve(images, templates, self.model(), seed)
            result |= self._references.of(images, seed, result[PER_IMAGE])
            shown = tasks.shown_images(result)
        result |= {
            "decode": self._decode,
            "templates_from": templates_found.source,
            "class_names_from": names_found.source,
        }
        result.setdefault("seen", self._references.seen(images))
        item_of = {item.uid: item for item in images.items}
        wanted = [(Shard(benchmark.name, item_of[uid].uri, benchmark.name), uid) for uid in shown]
        result["thumbnails"] = thumbnails.thumbnails(context.storage, wanted)
        result["own_captions"] = {uid: next(iter(item_of[uid].captions), "") for uid in shown}
        result["bad"] = dict(sorted(images.bad.items()))
        result |= damage_summary(images.damaged)
        result["model"] = self._model_card()
        return result

    def _images(self, benchmark: Benchmark) -> Any:
        from diht_k8s.recipe.evaluate.benchmark_images import joined

        parts: list[Any] = []
        for uri in self._context.storage.expand(benchmark.shards):
            found = self._features(uri)
            if isinstance(found, DataError):
                raise found
            parts.append(found)
        images = joined(parts)
        if images.damaged:
            limit = self._context.run.spec.data.max_bad_shards
            BadShards(limit, len(self._files)).add_all({**images.damaged, **self.damaged})
        _check_bad(benchmark, len(images.items), images.bad)
        return images

    def model(self) -> Any:
        """The model, loaded once."""
        from diht_k8s.recipe.clip_models.loading import load_model

        if self._model is None:
            self._context.progress.start("load the model", 0, unit="models")
            source = _evaluate(self._context.run).model or self._context.layout.model
            self._model = load_model(source, self._context.storage)
        return self._model


def _evaluate(run: DihtRun) -> Evaluate:
    assert run.spec.evaluate is not None, "run_stage checks that the stage is there"
    return run.spec.evaluate


def _shards(storage: Storage, benchmark: Benchmark) -> list[str]:
    """The shards of a benchmark; [] if they do not exist: it fails when it runs, and the others continue."""
    try:
        return storage.expand(benchmark.shards)
    except UserError:
        return []


def _text_files(storage: Storage, benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    """Files of names and templates that decide the figures: given in the run document, or beside the shards."""
    if benchmark.class_names is not None:
        yield "class names", benchmark.class_names
    if benchmark.type != "Classification":
        return
    if benchmark.class_names is None and (uri := file_beside(storage, benchmark, CLASS_NAMES)) is not None:
        yield "class names", uri
    if not benchmark.templates and (uri := file_beside(storage, benchmark, TEMPLATES)) is not None:
        yield "templates", uri


def _path(number: int) -> str:
    return f"benchmarks/{number:03d}.json"


def _header(context: Context) -> Json:
    return {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": context.config_sha256,
        "inputs": context.config["inputs"],
    }


def _check_bad(benchmark: Benchmark, good: int, bad: Counter[str]) -> None:
    """Unreadable images are reported with the result; a benchmark without a readable image is an error.

    Raises:
        DataError: no image can be used.
    """
    if not good:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(bad.items()))
        raise DataError(f"evaluate.benchmarks {benchmark.name}: no image can be used ({reasons}): check its shards")
