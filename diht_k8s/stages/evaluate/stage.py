"""Stage 4, evaluate: a model and benchmark shards to `features/*`, `benchmarks/*`, the report and the model's card.

Each benchmark goes through four steps, of which each hands on a value: its texts and the images of its shards are read
(`BenchmarkTexts`, `BenchmarkImage`), the images encoded (`EncodedImages`), the figures measured (`Measured`), and all
of them reported. Workers share the encoding; then one of them does the rest while the others wait for it. A benchmark
that fails does not lose the others: the report is still written, then the stage ends uncommitted with the first error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.evaluate import Benchmark, Evaluate
from diht_k8s.api.hashing import SCHEMA_VERSION, STAGE_VERSIONS, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.sources import Shard, current_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import model_identity
from diht_k8s.report.per_image import per_image_path
from diht_k8s.runtime.bad_shards import BadShards, damage_summary
from diht_k8s.runtime.claims import claims_of, until_committed
from diht_k8s.runtime.commit import Count, artefact, read_committed, require_equal
from diht_k8s.runtime.inputs import output_before
from diht_k8s.runtime.stage import Context, Outcome
from diht_k8s.runtime.tracking import start_tracking
from diht_k8s.stages.evaluate.class_texts import packaged_texts, read_texts, text_files
from diht_k8s.stages.evaluate.results import read_result, result_path, write_result

if TYPE_CHECKING:
    from diht_k8s.models.loading import LoadedModel
    from diht_k8s.stages.evaluate.encoding import EncodedImages, FeatureFiles
    from diht_k8s.stages.evaluate.results import Measured
    from diht_k8s.stages.evaluate.ridge_reference import RidgeReference

Json = dict[str, Any]
MISSING: Final = "missing"
LEFT_OUT: Final = {
    "Classification": "without_class",
    "MultiLabel": "without_class",
    "Retrieval": "without_caption",
    "AnswerRanking": "without_question",
}
"""Type of a benchmark whose figures are of single images -> the figure that counts those that it leaves out."""


def identify(run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The model, the benchmarks' shards and class names, and the stages or pairs that the report shows.

    Raises:
        UserError: the model does not exist. (Missing shards fail only their benchmark, when it runs.)
    """
    evaluate = _evaluate(run)
    if evaluate.model is None:
        found = {stage: read_committed(storage, layout, stage) for stage in _earlier(run)}
        inputs = {stage.value: committed.identity for stage, committed in found.items()}
        inputs |= output_before(found[Stage.FILTER]) if Stage.FILTER in found else {}
    else:
        inputs = {"model": model_identity(evaluate.model, storage)}
    if evaluate.model is not None or run.spec.filter is None:
        inputs |= _raw_pairs(run, storage)
    for benchmark in evaluate.chosen:
        for number, uri in enumerate(_shards(storage, benchmark)):
            inputs[f"{benchmark.name} {number}"] = storage.identity(uri)
        files = dict(text_files(storage, benchmark))
        for what, uri in files.items():
            inputs[f"{benchmark.name} {what}"] = storage.identity(uri) if storage.exists(uri) else MISSING
        for what, lines in packaged_texts(benchmark, files):
            inputs[f"{benchmark.name} {what}"] = sha256_of(lines)
    return inputs, {}


def reads(run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
    """The folders of the stages before, or the model."""
    if (model := _evaluate(run).model) is not None:
        return {"model": model}
    return {stage.value: layout.relative(stage) for stage in _earlier(run)}


def _earlier(run: DihtRun) -> list[Stage]:
    """The stages that made the model, which the page describes."""
    return [stage for stage in run.spec.stages if stage is not Stage.EVALUATE]


def _raw_pairs(run: DihtRun, storage: Storage) -> dict[str, str]:
    """The raw pairs that stand for those of the training, as one digest; none where they cannot be read."""
    if not run.spec.data.sources:
        return {}
    try:
        shards = current_shards(run.spec, storage)
    except UserError:
        return {}
    return {"pairs": sha256_of([[shard.name, shard.identity] for shard in shards])}


def _evaluated_alone(context: Context) -> Context:
    """Without the run's other stages: a model that the document names was made elsewhere, so they say nothing about
    it.
    """
    run, alone = context.run, {stage.value: None for stage in _earlier(context.run)}
    own = {Stage.EVALUATE: context.layout.stage(Stage.EVALUATE)}
    return replace(
        context,
        run=run.model_copy(update={"spec": run.spec.model_copy(update=alone)}),
        layout=replace(context.layout, folders=own),
    )


def execute(context: Context) -> Outcome | None:
    """Encode shards until all are; then one worker measures the benchmarks without a result and writes the report."""
    from diht_k8s.data.shards.images import DECODERS
    from diht_k8s.stages.evaluate.encoding import EncodingWorker, FeatureFiles

    if _evaluate(context.run).model is not None:
        context = _evaluated_alone(context)
    folder = join(context.layout.stage(Stage.EVALUATE), "features")
    files = FeatureFiles(context.storage, folder, _feature_keys(context))
    model, claims = cache(partial(_load_model, context)), claims_of(context)
    worker = EncodingWorker(context, files, claims, model, DECODERS[_evaluate(context.run).decode])

    def finish() -> Outcome:
        results, errors = _evaluate_benchmarks(context, files, model)
        return _report(context, results, errors, {**worker.speed(), **damage_summary(files.damaged)})

    worker.encode_share()
    return until_committed(context, claims, worker.encode_missing, finish)


def present(run: DihtRun, storage: Storage, layout: Layout) -> None:
    """The run's own page and `report.json`."""
    from diht_k8s.report.page import write_run_page

    write_run_page(run, storage, layout)


def _feature_keys(context: Context) -> dict[str, str]:
    """Shard -> digest of everything that its features depend on."""
    evaluate, inputs = _evaluate(context.run), context.config["inputs"]
    model = inputs.get("train", inputs.get("model"))
    version = STAGE_VERSIONS[Stage.EVALUATE]
    how = [] if evaluate.decode == "Ours" else [evaluate.decode]  # keys of earlier versions stay
    shards = dict.fromkeys(uri for benchmark in evaluate.chosen for uri in _shards(context.storage, benchmark))
    return {uri: sha256_of([model, uri, context.storage.identity(uri), version, *how]) for uri in shards}


def _load_model(context: Context) -> LoadedModel:
    from diht_k8s.models.loading import load_model

    context.progress.start("load the model", 0, unit="models")
    return load_model(_evaluate(context.run).model or context.layout.model, context.storage)


def _evaluate_benchmarks(
    context: Context, files: FeatureFiles, model: Callable[[], LoadedModel]
) -> tuple[list[Json], list[DataError | UserError]]:
    """The result of each benchmark, of an earlier attempt or of this one; those that failed hold their error."""
    from diht_k8s.stages.evaluate.ridge_reference import RidgeReference

    results, errors = list[Json](), list[DataError | UserError]()
    reference = RidgeReference(context)
    for number, benchmark in enumerate(_evaluate(context.run).chosen):
        context.stop.raise_if_requested()
        try:
            results.append(_result(context, number, benchmark, files, model, reference))
        except (DataError, UserError) as error:
            errors.append(error)
            results.append({"name": benchmark.name, "type": benchmark.type, "error": str(error)})
    return results, errors


def _result(
    context: Context,
    number: int,
    benchmark: Benchmark,
    files: FeatureFiles,
    model: Callable[[], LoadedModel],
    reference: RidgeReference,
) -> Json:
    """The result of one benchmark: from its texts and images to the figures, written as soon as it is there.

    Raises:
        DataError: the benchmark's data cannot be used, or a feature or figure is not finite.
        UserError: its configuration is wrong, or the model cannot be loaded.
    """
    from diht_k8s.data.shards.images import thumbnails
    from diht_k8s.stages.evaluate.measure import measure
    from diht_k8s.stages.evaluate.soundness import require_finite_figures

    evaluate, storage, folder = _evaluate(context.run), context.storage, context.layout.stage(Stage.EVALUATE)
    if (found := read_result(storage, folder, number, context.config_sha256)) is not None:
        return found
    seed = [context.run.spec.seed, number]
    texts = read_texts(storage, benchmark)
    images = _images(context, benchmark, files)
    measured = measure(benchmark, texts, images, model(), evaluate.few_shot, seed)
    _check_images(benchmark, images, measured)
    compared = reference.compare(images, seed, measured.per_image) if benchmark.type == "Retrieval" else {"notes": []}
    item_of = {item.uid: item for item in images.items}
    shown = [(Shard(benchmark.name, item_of[uid].uri, benchmark.name), uid) for uid in measured.shown]
    result = {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": context.config_sha256,
        "inputs": context.config["inputs"],
        "name": benchmark.name,
        "type": benchmark.type,
        "split": benchmark.split,
        **measured.figures,
        **compared,
        "notes": [*measured.figures["notes"], *compared["notes"]],
        "decode": evaluate.decode,
        "templates_from": texts.templates.source,
        "class_names_from": texts.class_names.source,
        "seen": compared["seen"] if "seen" in compared else reference.seen(measured.images),
        "thumbnails": thumbnails(storage, shown),
        "own_captions": {uid: next(iter(item_of[uid].captions), "") for uid in measured.shown},
        "bad": dict(sorted(images.bad.items())),
        **damage_summary(images.damaged),
        "model": _model_card(evaluate, model()),
    }
    require_finite_figures(result, measured.per_image, benchmark.name)
    write_result(storage, folder, number, result, measured.per_image)
    return result


def _images(context: Context, benchmark: Benchmark, files: FeatureFiles) -> EncodedImages:
    """The encoded images of a benchmark.

    Raises:
        DataError: a shard cannot be read, more shards are damaged than the run allows, or no image can be used.
        UserError: a shard does not exist.
    """
    images = files.read(context.storage.expand(benchmark.shards))
    if images.damaged:
        limit = context.run.spec.data.max_bad_shards
        BadShards(limit, len(files.shards)).add_all({**images.damaged, **files.damaged})
    if not images.items:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(images.bad.items()))
        raise DataError(f"evaluate.benchmarks {benchmark.name}: no image can be used ({reasons}): check its shards")
    return images


def _check_images(benchmark: Benchmark, images: EncodedImages, measured: Measured) -> None:
    """Compare the images with the rows that the figures have of each, its copies, and those that the task leaves
    out.
    """
    if benchmark.type not in LEFT_OUT:
        return  # its figures are of groups of images
    left, copies = measured.figures[name := LEFT_OUT[benchmark.type]], measured.figures.get("copies", 0)
    counted = len(measured.per_image.uids) + copies + left
    used = Count(counted, f"are measured or left out ({name}: {left}, copies: {copies})")
    remedy = "report this as a fault of the program"
    require_equal(f"evaluate.benchmarks {benchmark.name}", remedy, Count(len(images.items), "images are encoded"), used)


def _model_card(evaluate: Evaluate, loaded: LoadedModel) -> Json:
    """The evaluated model, for the report."""
    return {
        "source": evaluate.model or "trained by this run",
        "name": loaded.name,
        "parameters": loaded.parameters,
        "trained": loaded.trained,
        "assumed": loaded.assumed,
        "logit_scale": loaded.logit_scale,
    }


def _report(
    context: Context, results: list[Json], errors: list[DataError | UserError], summary: Mapping[str, Any]
) -> Outcome:
    """Write the report and say what the stage made.

    Raises:
        DataError: a benchmark failed.
        UserError: a benchmark failed, for a cause in the run document.
    """
    from diht_k8s.report import write_report

    context.progress.start("report", 1, unit="pages")
    write_report(context, results)
    context.progress.update(1)
    _track(context, results)
    if errors:
        raise type(errors[0])(
            f"{errors[0]} ({len(errors)} of {len(results)} benchmarks failed, see "
            f"{context.layout.report(Stage.EVALUATE, 'html')})"
        )
    paths = [path for number in range(len(results)) for path in (result_path(number), per_image_path(number))]
    paths += ["report.json", "report.html", "README.md"]
    artefacts = [artefact(context.storage, context.layout, Stage.EVALUATE, path) for path in paths]
    samples = sum(result["pictures"] for result in results)
    return Outcome(artefacts, {"benchmarks": len(results), "samples": samples, **summary})


def _track(context: Context, results: list[Json]) -> None:
    """Send the headline figures where the environment asks for it."""
    from diht_k8s.report.overview import headlines

    tracking = start_tracking(context.run.metadata.name, Stage.EVALUATE, context.config)
    for result in results:
        tracking.log({f"evaluate/{result['name']}/{head['metric']}": head["value"] for head in headlines(result)})
    tracking.finish()


def _evaluate(run: DihtRun) -> Evaluate:
    assert run.spec.evaluate is not None, "run_stage checks that the stage is there"
    return run.spec.evaluate


def _shards(storage: Storage, benchmark: Benchmark) -> list[str]:
    """The shards of a benchmark; [] if they do not exist: it fails when it runs, and the others continue."""
    try:
        return storage.expand(benchmark.shards)
    except UserError:
        return []
