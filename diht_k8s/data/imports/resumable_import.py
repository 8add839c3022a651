"""An import that can be interrupted at any moment: its configuration, finished shards, account and commit marker.

OUTPUT/STARTED.json says whose output it is, OUTPUT/import/N.json what shard N holds; COMMITTED.json comes last.
All that was seen is stored, bad, beside a stored image, or ignored, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, DihtError, RetryableError, UserError
from diht_k8s.api.hashing import differences
from diht_k8s.api.layout import LEASE, MARKER, STARTED, join
from diht_k8s.data.imports.provenance import storable_path
from diht_k8s.data.imports.records import LINKS_ADVICE, OUTSIDE, RecordSource, SeenUnits, Tally
from diht_k8s.data.imports.shard_writer import (
    HEIF_MISSING,
    EmptyShardError,
    Pack,
    ShardFacts,
    can_read_heif,
    heif_advice,
    shard_bounds,
    write_shard,
)
from diht_k8s.data.lease import WorkLease, beating, owner_of
from diht_k8s.data.markers import find_started, start
from diht_k8s.data.shards.images import MAX_PIXELS
from diht_k8s.data.shards.storage import Storage, temporary_of

VERSION: Final = 2
AGAIN: Final = "start the import again"

Json = dict[str, Any]


@dataclass(frozen=True)
class ImportPlan:
    """Where an import goes, and how."""

    output: str
    per_shard: int = 1000
    replace: bool = False
    """remove another import that lies there."""
    links: tuple[str, ...] = ()
    """folders outside of the source in which its files may lie."""


@dataclass(frozen=True)
class ImportTarget:
    """What becomes of a source."""

    name: Callable[[int], str]
    """name of shard N, relative to the output."""
    pack: Pack
    """makes the samples of a record."""
    config: Json
    """what the content depends on beside the source and the number of shards."""
    facts: Json
    """fields of the marker that tell more."""
    others: Mapping[str, bytes | None] = field(default_factory=dict)
    """files beside the shards, their records and the markers; None where this import makes none of that name."""
    empty_shards: bool = False
    """go on where no record of a shard can be used; no file is written for it."""

    def files(self, number: int) -> tuple[str, str]:
        """A shard and its record."""
        return self.name(number), f"import/{number}.json"


def run_import(
    source: RecordSource,
    plan: ImportPlan,
    target: ImportTarget,
    storage: Storage,
    begin: Callable[[int, int], object],
    advance: Callable[[], object],
) -> Json:
    """Write what the output lacks; the content of its marker.

    Args:
        source: what is imported.
        plan: where to, and how.
        target: what becomes of it.
        storage: where the output is.
        begin: called once with the number of records and how many of them are already there.
        advance: called after each record.

    Raises:
        UserError: the output holds another import, or shards of somebody else.
        RetryableError: another import writes there now.
        DataError: no record can be used, or something that was seen is not accounted for.
    """
    parts = shard_bounds(source.total, plan.per_shard)
    config: Json = {
        "version": VERSION,
        "kind": source.kind,
        "records": source.total,
        "source": source.fingerprint,
        "shards": len(parts),
        "links": [storable_path(link) for link in plan.links],
        **target.config,
    }
    with _sole_writer(storage, plan.output, target, len(parts)):
        if (found := _committed_or_begun(storage, plan, target, config)) is not None:
            begin(source.total, source.total)
            return _renewed(storage, plan.output, found, seen_json(seen_units(source)))
        done = [_finished(storage, plan.output, target, number) for number in range(len(parts))]
        begin(source.total, sum(stop - start for (start, stop), facts in zip(parts, done, strict=True) if facts))
        for name, content in target.others.items():
            if content is not None:
                storage.write_bytes(join(plan.output, name), content)
        facts = [
            each or _written(storage, plan.output, target, number, source, parts[number], advance)
            for number, each in enumerate(done)
        ]
        _require_samples(facts, source)
        marker = {
            "schema_version": 1,
            "config": config,
            "type": source.type,
            "kind": source.kind,
            **settle(source, facts, plan.output),
            "shards": [{"name": target.name(n), **each.to_json()} for n, each in enumerate(facts) if each.samples],
            "notes": list(source.notes),
            **target.facts,
        }
        storage.write_bytes(join(plan.output, MARKER), _json_bytes(marker))
    return marker


@contextlib.contextmanager
def _sole_writer(storage: Storage, output: str, target: ImportTarget, shards: int) -> Iterator[None]:
    """Keep other imports from an output, and remove what this or an earlier one left half-written there on a disk.

    Raises:
        RetryableError: another import writes there now.
    """
    lease = WorkLease(storage, join(output, LEASE), {"owner": owner_of(os.environ).id})
    try:
        alone = lease.watch(lambda: None)
    except DihtError:  # the first write says what is wrong; in a whole import on a read-only disk there is none
        yield
        return
    if not alone:
        raise RetryableError(f"another import writes to {output} now: wait until it ends, or stop it")
    folder = storage.local_path(output)
    try:
        if folder is not None:
            _remove_temporary(folder, target, shards)
        with beating(lease.keep):
            yield
    finally:
        with contextlib.suppress(DihtError):  # it stands still from now on, which says the same
            lease.release()
        if folder is not None:  # an interrupt may fall between the making of a file and the `try` that removes it
            _remove_temporary(folder, target, shards)
            with contextlib.suppress(OSError):  # it holds something, as a rule
                folder.rmdir()


def _remove_temporary(folder: Path, target: ImportTarget, shards: int) -> None:
    ours = {MARKER, STARTED, LEASE, *target.others, *(name for n in range(shards) for name in target.files(n))}
    for place in {(folder / name).parent for name in (*target.files(0), STARTED, *target.others)}:
        for path in place.glob(".*.tmp"):
            if temporary_of(path.relative_to(folder).as_posix()) in ours:
                path.unlink(missing_ok=True)


def _committed_or_begun(storage: Storage, plan: ImportPlan, target: ImportTarget, config: Json) -> Json | None:
    """The marker if this import is there already; else the output belongs to it from now on."""
    output, marker = plan.output, join(plan.output, MARKER)
    folder = join(output, target.name(0)).rpartition("/")[0]
    started = find_started(storage, output, AGAIN)
    if started is None:
        if any(name.endswith(".tar") for name in storage.names(folder)):
            raise UserError(f"{output} holds shards that were not imported by diht: choose another OUTPUT")
    elif started.config == config and not storage.exists(marker):
        return None
    elif started.config == config and not plan.replace:
        found = json.loads(storage.read_bytes(marker))
        there = set(storage.names(folder))
        whole = all(shard["name"].rpartition("/")[2] in there for shard in found["shards"])
        return found if whole and not _can_read_more(found["bad"]) else None
    elif not plan.replace:
        # digests of the source say nothing to people
        changed = differences({**started.config, "source": ""}, {**config, "source": ""})
        what = "; ".join(changed[:4]) or "of another SOURCE, or its files have changed"
        raise UserError(f"{output} holds another import ({what}): choose another OUTPUT, or add --replace")
    else:
        written = [name for n in range(started.config["shards"]) for name in target.files(n)]
        storage.remove_files(output, [MARKER, *written, *target.others, STARTED])
    start(storage, output, config, {}, AGAIN)
    return None


def _finished(storage: Storage, output: str, target: ImportTarget, number: int) -> ShardFacts | None:
    shard, record = (join(output, name) for name in target.files(number))
    if not storage.exists(record):
        return None
    facts = ShardFacts.of_json(json.loads(storage.read_bytes(record)))
    if _can_read_more(facts.bad):
        return None
    if not facts.samples:
        return facts
    return facts if storage.exists(shard) and storage.size(shard) == facts.size else None


def _can_read_more(bad: Mapping[str, Any]) -> bool:
    """Whether images were left out for want of a package that is installed now."""
    return HEIF_MISSING in bad and can_read_heif()


def _renewed(storage: Storage, output: str, marker: Json, seen: Json) -> Json:
    """The marker of a finished import with what its source shows now: files that are ignored come and go."""
    if marker["seen"] == seen:
        return marker
    marker = {**marker, "seen": seen}
    storage.write_bytes(join(output, MARKER), _json_bytes(marker))
    return marker


def _written(
    storage: Storage,
    output: str,
    target: ImportTarget,
    number: int,
    source: RecordSource,
    part: tuple[int, int],
    advance: Callable[[], object],
) -> ShardFacts:
    shard, record = (join(output, name) for name in target.files(number))
    try:
        facts = write_shard(storage, shard, source, *part, advance, pack=target.pack)
    except EmptyShardError as error:
        if not target.empty_shards:
            raise
        facts = error.facts
    storage.write_bytes(record, _json_bytes(facts.to_json()))
    return facts


def _require_samples(facts: Sequence[ShardFacts], source: RecordSource) -> None:
    if any(each.samples for each in facts):
        return
    bad = Tally()
    for each in facts:
        bad.merge(each.bad)
    reasons = "; ".join(f"{each['count']} {reason}, for example {each['example']}" for reason, each in bad.items())
    advice = [heif_advice()] if HEIF_MISSING in bad else []
    advice += [LINKS_ADVICE] if any(OUTSIDE in reason for reason in bad) else []
    raise DataError(". ".join([f"none of the {source.total} pairs can be used: {reasons}", *advice]))


def _json_bytes(document: Json) -> bytes:
    """A JSON file: sorted keys, so that equal documents are equal bytes."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")


ADVICE: Final = {
    "picture_too_large": f"images above {MAX_PIXELS // 1_000_000} million pixels are not read: make them smaller first",
    "caption_not_utf8": "captions that are not UTF-8 are not read: save their files as UTF-8",
}
"""Why a record is bad -> what to do about it."""


def settle(source: RecordSource, facts: Sequence[ShardFacts], output: str) -> Json:
    """The fields of a marker that say what became of everything.

    What was seen is the reader's count (of a walk, a footer, a second reading), the rest are the writer's.

    Args:
        source: that was imported.
        facts: of all shards.
        output: for the message.

    Raises:
        DataError: the two differ.
    """
    seen = seen_units(source)
    bad, captions = Tally(), Tally()
    for each in facts:
        bad.merge(each.bad)
        captions.merge(each.bad_captions)
    stored = sum(each.images for each in facts)
    accounted = stored + bad.total + seen.beside + seen.ignored.total
    if accounted != seen.count:
        raise DataError(
            f"{output}: {seen.count} {seen.unit} were seen, but {accounted} are accounted for ({stored} stored, "
            f"{bad.total} bad, {seen.beside} beside them, {seen.ignored.total} ignored): leave SOURCE alone during an "
            "import, and start it again with --replace"
        )
    return {
        "samples": sum(each.samples for each in facts),
        "images": stored,
        "bad": dict(sorted(bad.items())),
        "bad_captions": dict(sorted(captions.items())),
        "seen": seen_json(seen),
    }


def seen_units(source: RecordSource) -> SeenUnits:
    """What was seen of a source; its records, where the layout lists them itself."""
    return source.seen or SeenUnits("images", source.total)


def seen_json(seen: SeenUnits) -> Json:
    """Plain values."""
    ignored = dict(sorted(seen.ignored.items()))
    return {"unit": seen.unit, "count": seen.count, "beside": seen.beside, "ignored": ignored}


def account_lines(marker: Mapping[str, Any]) -> list[str]:
    """What became of everything that was seen, for people."""
    seen, bad, ignored = marker["seen"], Tally(marker["bad"]), Tally(marker["seen"]["ignored"])
    parts = [f"{marker['images']} images stored", f"{bad.total} bad"]
    parts += [f"{seen['beside']} captions beside images"] if seen["beside"] else []
    parts += [f"{ignored.total} ignored"] if ignored else []
    lines = [f"{seen['count']} {seen['unit']} seen: {', '.join(parts)}"]
    lines += [*bad.lines("left out"), *Tally(marker["bad_captions"]).lines("left out of the captions of stored images")]
    lines += ignored.lines("ignored")
    if HEIF_MISSING in bad:
        lines.append(heif_advice())
    lines += [advice for reason, advice in ADVICE.items() if reason in bad or reason in marker["bad_captions"]]
    if any(OUTSIDE in reason for reason in (*bad, *ignored)):
        lines.append(LINKS_ADVICE)
    return lines
