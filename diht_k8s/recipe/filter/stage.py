"""The filter stage: raw shards in; scores, kept shards and `report.json` out. EVERY sample gets scores.

A shard is done when its scores exist with this run's configuration; they are written after its kept pairs. Each worker
starts with its own share of the shards, then takes shards that others have not started or have abandoned (see
`runtime.claims`), so no shard depends on one slow or dead worker. One worker adds up the counts and ends the stage; the
others wait for it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from diht_k8s.api.errors import DataError
from diht_k8s.api.filter import Filter
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import join
from diht_k8s.api.reports import Artefact
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.filter.caption_tables.parts import filter_input, has_tables
from diht_k8s.recipe.filter.caption_tables.survivors import Survivors
from diht_k8s.recipe.filter.caption_tables.table_filter import TableFilter, without_images
from diht_k8s.recipe.filter.caption_tables.uid_index import write_index
from diht_k8s.recipe.filter.decontamination import benchmark_shards
from diht_k8s.recipe.filter.deduplication import Deduplication, is_deduplicated
from diht_k8s.recipe.filter.kept_pairs import KeptPairs
from diht_k8s.recipe.filter.layout_hints import LayoutHints
from diht_k8s.recipe.filter.model_versions import parser_version, spotter_version
from diht_k8s.recipe.filter.report import report
from diht_k8s.recipe.filter.scores import Scores, open_scores
from diht_k8s.recipe.filter.shard_filter import ShardFilter, is_done
from diht_k8s.recipe.filter.summary import Summary
from diht_k8s.recipe.runtime.bad_shards import BadShards, Damage, listed
from diht_k8s.recipe.runtime.commit import artefact
from diht_k8s.recipe.runtime.shared_work import claims_of, until_committed
from diht_k8s.recipe.runtime.stage import Context, Outcome
from diht_k8s.recipe.shards.sources import Shard, share
from diht_k8s.recipe.shards.storage import Storage


def identify(run: DihtRun, storage: Storage) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Identities of the shards, the exclude list and the benchmarks to keep out; versions of parser and spotter."""
    rules = _rules(run)
    inputs = _identities(storage, filter_input(run.spec, storage))
    if rules.exclude is not None:
        inputs["exclude list"] = storage.identity(rules.exclude)
    for name in rules.decontaminate:
        digests = [storage.identity(uri) for uri in benchmark_shards(run.spec, storage, name)]
        inputs[f"benchmark {name}"] = sha256_of(digests)
    versions = {"parser": parser_version()}
    if rules.text_spotting.mode != "Disabled":
        versions["spotter"] = spotter_version(rules.text_spotting.detector_size, rules.text_spotting.precision)
    return inputs, versions


def execute(context: Context) -> Outcome | None:
    """Filter shards until all are done; returns the outcome in the worker that ends the stage, None in the others."""
    shards, claims = filter_input(context.run.spec, context.storage), claims_of(context)
    rules, filter_class = _rules(context.run), TableFilter if has_tables(context.run.spec) else ShardFilter
    shard_filter, deduplication = (
        filter_class(context, rules, shards, claims),
        Deduplication(context, rules, shards, claims),
    )
    others = list[Shard]()
    """shards whose output is of another configuration"""

    def take() -> tuple[bool, int]:
        nonlocal others, deduplication
        if others:
            worked, waiting, others = shard_filter.run(others), len(others), []
            deduplication = Deduplication(context, rules, shards, claims)
            return worked, waiting
        missing = _without_output(context, shards)
        worked, waiting = shard_filter.run(missing), len(missing)
        if not missing and rules.duplicates is not None:
            worked, waiting = deduplication.run()
        return worked, waiting

    def end() -> Outcome | None:
        nonlocal others
        others, outcome = _end(context, shards)
        return outcome

    shard_filter.run(share(shards, context.worker, context.workers))
    return until_committed(context, claims, take, end)


def _without_output(context: Context, shards: Sequence[Shard]) -> list[Shard]:
    """Shards without output files, in reverse order, because their owners start with the first."""
    folders = ["scores"] if _rules(context.run).duplicates is None else ["scores", "fingerprints"]
    existing = [set(context.storage.names(join(context.layout.stage(context.stage), folder))) for folder in folders]
    return [shard for shard in reversed(shards) if any(f"{shard.name}.parquet" not in names for names in existing)]


def _end(context: Context, shards: list[Shard]) -> tuple[list[Shard], Outcome | None]:
    """The outcome, or else the shards whose scores have another configuration (left by an earlier run)."""
    missing, found = list[Shard](), list[tuple[Scores, Artefact]]()
    for shard in shards:
        context.stop.raise_if_requested("finished shards are kept")
        scores = done_scores(context, shard)
        if scores is None:
            missing.append(shard)
        else:
            found.append(scores)
    return missing, None if missing else finish(context, shards, found)


def _rules(run: DihtRun) -> Filter:
    assert run.spec.filter is not None, "run_stage checks that the run has this stage"
    return without_images(run.spec.filter) if has_tables(run.spec) else run.spec.filter


def _identities(storage: Storage, shards: Sequence[Shard]) -> dict[str, str]:
    """For each shard a string that changes whenever its samples, as the filter reads them, change."""
    files = {uri: storage.identity(uri) for uri in dict.fromkeys(shard.uri for shard in shards)}
    return {shard.name: _identity(files[shard.uri], shard) for shard in shards}


def _identity(file: str, shard: Shard) -> str:
    keys = {"image": shard.image_key, "caption": shard.caption_key}
    read_as = "".join(f" {name} {key}" for name, key in keys.items() if key is not None)
    part = "" if shard.part is None else f" from {shard.part.start} to {shard.part.stop}"
    return file + part + read_as + ("" if shard.filtered else " not filtered")


def done_scores(context: Context, shard: Shard) -> tuple[Scores, Artefact] | None:
    """Scores of a shard with their digest; None if missing, of another configuration or with repeats still to drop."""
    uri = context.layout.scores(shard.name)
    if not context.storage.exists(uri):
        return None
    data = context.storage.read_bytes(uri)
    scores = open_scores(data, uri)
    path = f"scores/{shard.name}.parquet"
    if not is_done(scores, context) or (_rules(context.run).duplicates is not None and not is_deduplicated(scores)):
        return None
    return scores, Artefact(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def finish(
    context: Context, shards: Sequence[Shard], found: Sequence[tuple[Scores, Artefact]], *, check: bool = True
) -> Outcome:
    """Add up the counts of the shards, `check` the totals and write the report.

    Raises:
        DataError: too many samples are bad, or no sample is kept.
    """
    total, per_shard, artefacts = Summary(), list[dict[str, Any]](), list[Artefact]()
    hints, damaged = defaultdict[str, LayoutHints](LayoutHints), dict[str, Damage]()
    kept = _kept_files(context)
    for shard, (scores, scores_artefact) in zip(shards, found, strict=True):
        summary = Summary.from_json(scores.header["summary"])
        summary.check()
        assert scores.file.metadata.num_rows == summary.input, "one row per sample"
        total.merge(summary)
        hints[shard.source].merge(summary.hints)
        if "damage" in scores.header:
            damaged[shard.name] = Damage(**scores.header["damage"])
        per_shard.append({"name": shard.name, "source": shard.source, **summary.counts()})
        artefacts += [scores_artefact, Artefact(path=kept.path(shard.name), **scores.header["kept"])]
    total.check()
    if check:
        BadShards(context.run.spec.data.max_bad_shards, len(shards)).add_all(damaged)
        _check_result(total, _rules(context.run), hints)
    header = {
        "schema_version": SCHEMA_VERSION,
        "config_sha256": context.config_sha256,
        "inputs": context.config["inputs"],
    }
    document = {**report(total, _rules(context.run), header), **listed(damaged)}
    uri = context.layout.report(context.stage)
    context.storage.write_bytes(uri, json.dumps(document, indent=1, ensure_ascii=False).encode())
    names = ["report.json"]
    if isinstance(kept, Survivors):
        names += write_index(
            context.storage, context.layout.stage(context.stage), [kept.uids(shard.name) for shard in shards]
        )
    artefacts += [artefact(context.storage, context.layout, context.stage, name) for name in names]
    summary = {"shards": per_shard, "counts": total.counts(), **listed(damaged)}
    return Outcome(artefacts, summary)


def _kept_files(context: Context) -> KeptPairs | Survivors:
    rules = _rules(context.run)
    if has_tables(context.run.spec):
        return Survivors(context.storage, context.layout, [limit.name for limit in rules.metadata_limits])
    return KeptPairs(context.storage, context.layout, rules.output)


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
            f"{total.bad.total()} of {total.input} samples are bad ({_listed(total.bad)}), {percent:.3g} % "
            f"and more than maxBadPercent {rules.max_bad_percent:g}: fix the shards, or raise spec.filter.maxBadPercent{hint}"
        )
    if total.kept == 0:
        raise DataError(
            f"the filter keeps none of {total.input} samples "
            f"(dropped: {_listed(total.dropped)}; bad: {_listed(total.bad)}): "
            f"lower spec.filter.minComplexity or minActions, or check that the captions are English{hint}"
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "none"
