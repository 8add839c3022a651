"""The filter stage: raw shards in; scores, kept shards and `report.json` out. EVERY sample gets scores.

A shard is done when its scores exist with this run's configuration; they are written after its kept pairs. Each worker
starts with its own share of the groups of shards, then takes those that others have not started or have abandoned (see
`runtime.claims`), so no shard depends on one slow or dead worker. A worker sums up each group as one small object; one
worker adds these up and ends the stage, and the others wait for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError, install_line
from diht_k8s.api.filter import ClipScore, Filter
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.shard_index import write_rows
from diht_k8s.data.shards.sources import Shard, ShardGroup, groups_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import model_digest, parser_module
from diht_k8s.runtime.bad_shards import BadShards, damage_summary
from diht_k8s.runtime.claims import Claims, claims_of, until_committed
from diht_k8s.runtime.commit import artefact, find_committed
from diht_k8s.runtime.stage import Context, Outcome
from diht_k8s.stages.filter.caption_tables import TableFilter, filter_input, has_tables, without_images
from diht_k8s.stages.filter.clip_score import ClipTopFraction, keeps_top_fraction, read_cutoff
from diht_k8s.stages.filter.deduplication import Deduplication
from diht_k8s.stages.filter.fingerprints import benchmark_shards
from diht_k8s.stages.filter.group_filter import GroupFilter, is_done
from diht_k8s.stages.filter.group_summaries import FilteredShard, GroupSummaries, GroupSummary, check_stage
from diht_k8s.stages.filter.kept_pairs import DownloadList, GlobalRule, KeptPairs
from diht_k8s.stages.filter.scores import open_scores
from diht_k8s.stages.filter.shard_filter import ShardFilter
from diht_k8s.stages.filter.summary import LayoutHints, Summary, report
from diht_k8s.stages.filter.uid_lists import write_index

REQUESTS: Final = 16
"""Summaries that are fetched at the same time."""

Step = Callable[[], tuple[bool, int]]
"""Work on what is free; whether there was anything, and the number of shards or steps that are not done."""


def identify(run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Identities of the shards, the exclude list and the benchmarks to keep out; versions of the models."""
    rules = _rules(run)
    inputs = {shard.name: _identity(shard) for shard in filter_input(run.spec, storage, current=True)}
    if rules.exclude is not None:
        inputs["exclude list"] = storage.identity(rules.exclude)
    for name in rules.decontaminate:
        digests = [storage.identity(uri) for uri in benchmark_shards(run.spec, storage, name)]
        inputs[f"benchmark {name}"] = sha256_of(digests)
    versions = {"parser": parser_version()}
    if rules.language != "Any":
        versions["language"] = language_version()
    spotting = rules.text_spotting
    if spotting.mode != "Disabled":
        versions["spotter"] = spotter_version(spotting.detector_size, spotting.precision, spotting.second_detector_size)
    if rules.clip_score is not None:
        versions["clip"] = clip_version(rules.clip_score, storage)
    return inputs, versions


def reads(run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
    """The folder whose scores are used again: `scoresFrom`, or a complete one of the same output over the same
    shards.
    """
    rules = _rules(run)
    if rules.scores_from is not None:
        return {"scores": rules.scores_from}
    folder = scored_sibling(storage, layout, config)
    return {} if folder is None else {"scores": folder}


def present(run: DihtRun, storage: Storage, layout: Layout) -> None:
    """Nothing: the page of the run's evaluation shows this stage."""


def execute(context: Context) -> Outcome | None:
    """Filter shards until all are done; returns the outcome in the worker that ends the stage, None in the others."""
    rules, claims = _rules(context.run), claims_of(context)
    shards = filter_input(context.run.spec, context.storage)
    groups = groups_of(shards)
    own = groups[context.worker :: context.workers]
    filter_class = TableFilter if has_tables(context.run.spec) else ShardFilter
    mine = [shard for group in own for shard in group.shards]
    shard_filter = filter_class(context, rules, shards, mine, claims, _kept_files(context))
    group_filter = GroupFilter(context, rules, groups, claims, shard_filter)
    global_rules = [rule(context, rules, shards, claims) for rule in _global_rules(rules)]
    steps: list[Step] = [group_filter.run, *(rule.run for rule in global_rules)]
    if global_rules:
        steps.append(lambda: _sum_up(context, groups, claims))
    group_filter.filter(own)

    def end() -> Outcome:
        outcome = finish(context, _summaries(context, groups), [shard.name for shard in shards])
        shard_filter.progress.close(outcome.summary["counts"])
        return outcome

    return until_committed(context, claims, lambda: _first_with_work(steps), end)


def _first_with_work(steps: Iterable[Step]) -> tuple[bool, int]:
    """The result of the first step that worked or waits for others; (False, 0) once all are done."""
    return next((result for result in (step() for step in steps) if any(result)), (False, 0))


def _sum_up(context: Context, groups: Sequence[ShardGroup], claims: Claims) -> tuple[bool, int]:
    """Write the summaries of the groups to which all rules were applied and that no other worker has claimed.

    Returns:
        Whether any was written, and the number of those that are missing.
    """
    summaries = GroupSummaries(context, final=True)
    names = frozenset(shard.name for group in groups for shard in group.shards)
    written, worked, waiting = summaries.written(groups, names), False, 0
    missing = [group for group in groups if group.number not in written]
    for group in missing:
        if not claims.take(f"{group.name} summary", counts_deaths=False):
            waiting += 1
            continue
        summaries.write(group, [_finished(context, shard, claims) for shard in group.shards])
        worked = True
    return worked, waiting


def _finished(context: Context, shard: Shard, claims: Claims) -> FilteredShard:
    context.stop.raise_if_requested("finished shards are kept")
    claims.keep()
    found = done_shard(context, shard)
    if found is None:
        raise DataError(
            f"{context.layout.scores(shard.name)} has changed while the stage ran: run the stage filter again"
        )
    return found


def _summaries(context: Context, groups: Sequence[ShardGroup]) -> Iterator[GroupSummary]:
    """The summaries of all groups, in order, of which some are fetched ahead."""
    stored = GroupSummaries(context, final=True)
    with ThreadPoolExecutor(REQUESTS, "summaries") as pool:
        for at in range(0, len(groups), REQUESTS):
            context.stop.raise_if_requested("finished shards are kept")
            yield from pool.map(stored.read, groups[at : at + REQUESTS])


def _rules(run: DihtRun) -> Filter:
    assert run.spec.filter is not None, "run_stage checks that the run has this stage"
    return without_images(run.spec.filter) if has_tables(run.spec) else run.spec.filter


def _global_rules(rules: Filter) -> list[type[GlobalRule]]:
    """The rules on the whole pool that a run has, in the order in which they are applied."""
    found: list[type[GlobalRule]] = [Deduplication] if rules.duplicates is not None else []
    return [*found, ClipTopFraction] if keeps_top_fraction(rules) else found


def _identity(shard: Shard) -> str:
    """A string that changes whenever the samples of a shard, as the filter reads them, change."""
    keys = {"image": shard.image_key, "caption": shard.caption_key}
    read_as = "".join(f" {name} {key}" for name, key in keys.items() if key is not None)
    assert shard.identity is not None, "the source list names it"
    part = "" if shard.part is None else f" from {shard.part.start} to {shard.part.stop}"
    return shard.identity + part + read_as + ("" if shard.filtered else " not filtered")


def done_shard(context: Context, shard: Shard) -> FilteredShard | None:
    """A shard by its scores; None if missing, of another configuration, or if a rule on the whole pool must still be
    applied.
    """
    uri = context.layout.scores(shard.name)
    if not context.storage.exists(uri):
        return None
    content = context.storage.read_bytes(uri)
    scores, rules = open_scores(content, uri), _global_rules(_rules(context.run))
    if not is_done(scores, context) or not all(rule.is_applied(scores.header) for rule in rules):
        return None
    return FilteredShard.of(shard, scores.header, content, _kept_files(context).path(shard.name))


def finish(context: Context, groups: Iterable[GroupSummary], shards: Sequence[str], *, check: bool = True) -> Outcome:
    """Add up the counts of all groups, compare them with the files, write the report and complete the index.

    Args:
        context: the stage's context.
        groups: the summaries of all groups.
        shards: names of all shards of the stage.
        check: whether too many bad samples, or none that is kept, end the stage.

    Raises:
        DataError: something was lost or came twice, too many samples are bad, or no sample is kept.
    """
    found = GroupSummary()
    for group in groups:
        found.merge(group)
    check_stage(context.storage, context.layout.stage(context.stage), found, shards)
    total, rules = found.total, _rules(context.run)
    if check:
        BadShards(context.run.spec.data.max_bad_shards, len(found.shards)).add_all(found.damaged)
        _check_result(total, rules, found.hints)
    header = {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": context.config_sha256,
        "inputs": context.config["inputs"],
    }
    cut = read_cutoff(context.storage, context.layout, context.config_sha256) if keeps_top_fraction(rules) else None
    shown = {} if cut is None else {"clip_share": cut.figures()}
    document = {**report(total, rules, header), **shown, **damage_summary(found.damaged)}
    uri = context.layout.report(context.stage)
    context.storage.write_bytes(uri, json.dumps(document, indent=1, ensure_ascii=False).encode())
    names, kept = ["report.json"], _kept_files(context)
    if isinstance(kept, DownloadList):
        uids = [kept.uids(shard["name"]) for shard in found.shards]
        names += write_index(context.storage, context.layout.stage(context.stage), uids)
    files = [artefact(context.storage, context.layout, context.stage, name) for name in names]
    _complete_index(context, found)
    summary = {"shards": found.shards, "counts": total.counts(), **damage_summary(found.damaged)}
    return Outcome([*found.artefacts, *files], summary)


def _kept_files(context: Context) -> KeptPairs | DownloadList:
    rules = _rules(context.run)
    if has_tables(context.run.spec):
        return DownloadList(context.storage, context.layout, [limit.name for limit in rules.metadata_limits])
    return KeptPairs(context.storage, context.layout, rules.output)


def _complete_index(context: Context, found: GroupSummary) -> None:
    """Write the tables of the index; the identities of the kept shards come from one listing."""
    header = {"config_sha256": context.config_sha256}
    if found.raw:
        write_rows(context.storage, context.layout.filter_index("raw"), found.raw, header)
    if found.kept:
        identities = context.storage.identities(context.layout.kept("").rpartition("/")[0])
        rows = [row._replace(identity=identities.get(f"{row.name}.tar", "")) for row in found.kept]
        write_rows(context.storage, context.layout.filter_index("kept"), rows, header)


def _check_result(total: Summary, rules: Filter, hints: Mapping[str, LayoutHints]) -> None:
    """Fail if too many samples are bad or none is kept.

    Raises:
        DataError: with the counts, and what may be wrong with the source that lacks most images or captions.
    """
    source = max(hints, key=lambda name: hints[name].samples, default="")
    hint = f" ({hints[source].sentence(source)})" if source and hints[source].samples else ""
    percent = 100 * total.bad.total() / max(total.input, 1)
    if percent > rules.max_bad_percent:
        raise DataError(
            f"{total.bad.total()} of {total.input} samples are bad ({_counts_text(total.bad)}), {percent:.3g} % "
            f"and more than maxBadPercent {rules.max_bad_percent:g}: fix the shards, or raise "
            f"spec.filter.maxBadPercent{hint}"
        )
    if total.kept == 0:
        raise DataError(
            f"the filter keeps none of {total.input} samples "
            f"(dropped: {_counts_text(total.dropped)}; bad: {_counts_text(total.bad)}): "
            f"lower spec.filter.minComplexity or minActions, or check that the captions are English{hint}"
        )


def _counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "none"


PARSER_RULES: Final = 9
"""Increment it with every change of the caption rules."""
LANGUAGE_RULES: Final = 2
"""Increment it with every change of the language rule beside its margin."""
SPOTTER_RULES: Final = 3
"""Increment it with every change of the spotter's settings."""
SECOND_PASS_RULES: Final = 3
"""Increment it with every change of the spotter's second pass alone: runs without one keep their texts."""


@cache
def parser_version() -> str:
    """Version of the rules and of spaCy, and the digest of the model's weights."""
    return f"rules-{PARSER_RULES} spacy-{version('spacy')} {_digest(parser_module(), '**/model')}"


@cache
def language_version() -> str:
    """Version of the rule, of the language identifier, and the digest of its model."""
    return f"rules-{LANGUAGE_RULES} py3langid-{version('py3langid')} {_digest('py3langid', 'data/*')}"


@cache
def spotter_version(detector_size: int, precision: str, second_size: int | None = None) -> str:
    """Settings, versions of RapidOCR and OpenVINO, and the digest of RapidOCR's three models. A release of the runtime
    may move last digits of a confidence over a threshold; a device does no more than that, and is left out.
    """
    digest = _digest("rapidocr", "models/*det*.onnx", "models/*cls*.onnx", "models/*rec*.onnx")
    sizes = f"size-{detector_size}" + (
        "" if second_size is None else f" second-{second_size}-rules-{SECOND_PASS_RULES}"
    )
    programs = " ".join(f"{name}-{version(name)}" for name in ("rapidocr", "openvino"))
    return f"rules-{SPOTTER_RULES} {sizes} {precision} {programs} {digest}"


def clip_version(rule: ClipScore, storage: Storage) -> str:
    """Version of open_clip, the architecture if the run names it, and the digest of the model's files; no threshold.

    Raises:
        UserError: the model does not exist.
    """
    try:
        digest = model_digest(rule.model, storage)[:16]
    except UserError as error:
        raise UserError(f"spec.filter.clipScore.model: {error}") from error
    named = "" if rule.architecture is None else f"{rule.architecture} "
    return f"open_clip-{version('open_clip_torch')} {named}{digest}"


def _digest(package: str, *patterns: str) -> str:
    """16 hex digits over the files of an installed package that match the patterns."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed: {install_line('recipe')}")
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(Path(spec.origin).parent.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


_NO_SHARDS = ("exclude list", "benchmark ")
"""Names of inputs that the scores do not depend on begin so (`identify`)."""


def scored_sibling(storage: Storage, layout: Layout, config: Mapping[str, Any]) -> str | None:
    """The complete filter of an output whose scores save most; None if there is none over the same shards.

    Args:
        storage: of the output.
        layout: with the folder of the filter that begins.
        config: of the filter that begins.

    Returns:
        Its folder relative to the output: with the same models if there is one, the first by name among equals.
    """
    found: list[tuple[int, str]] = []
    for name in storage.folders(join(layout.output, Stage.FILTER.value)):
        other = layout.with_folder(Stage.FILTER, join(layout.output, Stage.FILTER.value, name))
        committed = find_committed(storage, other, Stage.FILTER)
        if committed is None or other == layout or _shards_of(committed.inputs) != _shards_of(config["inputs"]):
            continue
        programs = committed.config["programs"]
        missing = sum(programs.get(model) != version for model, version in config["programs"].items())
        if programs.get("parser") == config["programs"]["parser"]:
            found.append((missing, other.relative(Stage.FILTER)))
    return min(found)[1] if found else None


def _shards_of(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: identity for name, identity in inputs.items() if not name.startswith(_NO_SHARDS)}
