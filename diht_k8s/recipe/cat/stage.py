"""The filter as a stage program: raw shards in; scores, kept shards and `report.json` out (design: scores for EVERY sample).

Workers share the shards among themselves; a shard is done when its scores lie there under this run's configuration, and
they are written after its kept tar. Whoever finds all shards done adds up the counts and ends the stage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.filtering import Filter
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.reports import Artefact
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.cat.decontamination import benchmark_shards
from diht_k8s.recipe.cat.programs import parser_version, spotter_version
from diht_k8s.recipe.cat.report import report
from diht_k8s.recipe.cat.scores import Scores, open_scores
from diht_k8s.recipe.cat.shards import ShardFilter, is_done
from diht_k8s.recipe.cat.summary import Summary
from diht_k8s.recipe.runtime.commit import artefact
from diht_k8s.recipe.runtime.stage import Context, Outcome
from diht_k8s.recipe.shards.sets import Shard, input_shards, share
from diht_k8s.recipe.shards.storage import Storage


def identify(run: DihtRun, storage: Storage) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Identity of every shard, of the exclude list and of benchmarks to keep out; versions of parser and spotter.

    Raises:
        UserError: the run wants something that this version does not do.
    """
    rules = _rules(run)
    check_supported(rules)
    inputs = {shard.name: _identity(storage, shard) for shard in input_shards(run.spec, storage)}
    if rules.exclude is not None:
        inputs["exclude list"] = storage.identity(rules.exclude)
    for name in rules.decontaminate:
        digests = [storage.identity(uri) for uri in benchmark_shards(run.spec, storage, name)]
        inputs[f"benchmark {name}"] = sha256_of(digests)
    programs = {"parser": parser_version()}
    if rules.text_spotting.mode != "Disabled":
        programs["spotter"] = spotter_version(rules.text_spotting.detector_size)
    return inputs, programs


def execute(context: Context) -> Outcome | None:
    """Filter this worker's shards; the outcome of the stage where all shards are done."""
    shards = input_shards(context.run.spec, context.storage)
    mine = share(shards, context.worker, context.workers)
    ShardFilter(context, _rules(context.run), shards).run(mine)
    found = [_done_scores(context, shard) for shard in shards]
    finished = [item for item in found if item is not None]
    return _finish(context, shards, finished) if len(finished) == len(shards) else None


def check_supported(rules: Filter) -> None:
    """Refuse what would otherwise be ignored.

    Raises:
        UserError: naming the field.
    """
    refused = {
        "output: KeepList": rules.output == "KeepList",
    }
    for name, wanted in refused.items():
        if wanted:
            raise UserError(f"spec.filter.{name} is not supported by this version: leave it out")


def _rules(run: DihtRun) -> Filter:
    assert run.spec.filter is not None, "run_stage checks that the stage is there"
    return run.spec.filter


def _identity(storage: Storage, shard: Shard) -> str:
    return storage.identity(shard.uri) + ("" if shard.filtered else " not filtered")


def _done_scores(context: Context, shard: Shard) -> tuple[Scores, Artefact] | None:
    uri = context.layout.scores(shard.name)
    if not context.storage.exists(uri):
        return None
    data = context.storage.read_bytes(uri)
    scores = open_scores(data, uri)
    path = f"scores/{shard.name}.parquet"
    return (
        (scores, Artefact(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
        if is_done(scores, context)
        else None
    )


def _finish(context: Context, shards: list[Shard], found: list[tuple[Scores, Artefact]]) -> Outcome:
    """Add up the shards' counts, judge the whole, write the report."""
    total, per_shard, artefacts = Summary(), list[dict[str, Any]](), list[Artefact]()
    for shard, (scores, scores_artefact) in zip(shards, found, strict=True):
        summary = Summary.from_json(scores.header["summary"])
        summary.check()
        assert scores.file.metadata.num_rows == summary.input, "one row for every sample"
        total.merge(summary)
        per_shard.append({"name": shard.name, "source": shard.source, **summary.counts()})
        artefacts += [scores_artefact, Artefact(path=f"kept/{shard.name}.tar", **scores.header["kept"])]
    total.check()
    _check_result(total, _rules(context.run))
    header = {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": sha256_of(context.config),
        "inputs": context.config["inputs"],
    }
    document = report(total, _rules(context.run), header)
    uri = context.layout.report(context.stage)
    context.storage.write_bytes(uri, json.dumps(document, indent=1, ensure_ascii=False).encode())
    artefacts.append(artefact(context.storage, context.layout, context.stage, "report.json"))
    return Outcome(artefacts, {"shards": per_shard, "counts": total.counts()})


def _check_result(total: Summary, rules: Filter) -> None:
    """Stop where the input is too bad, or nothing is left.

    Raises:
        DataError: with the counts.
    """
    percent = 100 * total.bad.total() / total.input
    if percent > rules.max_bad_percent:
        raise DataError(
            f"{total.bad.total()} of {total.input} samples are bad ({_listed(total.bad)}), {percent:.3g} % and more than "
            f"maxBadPercent {rules.max_bad_percent:g}: mend the shards, or raise spec.filter.maxBadPercent"
        )
    if total.kept == 0:
        raise DataError(
            f"the filter keeps none of {total.input} samples (dropped: {_listed(total.dropped)}; bad: {_listed(total.bad)}): "
            "lower spec.filter.minComplexity or minActions, or check that the captions are English"
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "none"
