"""An import that can be interrupted at any moment: its configuration, finished shards, account and commit marker.

OUTPUT/import/started.json says whose output it is, OUTPUT/import/N.json what shard N holds; COMMITTED.json comes last.
All that was seen is stored, bad, beside a stored image, or ignored, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, DihtError, RetryableError, UserError
from diht_k8s.api.hashing import differences
from diht_k8s.api.layout import LEASE, join
from diht_k8s.data.imports.records import LINKS_ADVICE, OUTSIDE, RecordSource, SeenUnits, Tally
from diht_k8s.data.imports.shard_writer import (
    HEIF_MISSING,
    EmptyShardError,
    Pack,
    ShardFacts,
    can_read_heif,
    heif_advice,
    write_shard,
)
from diht_k8s.data.lease import WorkLease, beating, owner_of
from diht_k8s.data.shards.images import MAX_PIXELS
from diht_k8s.data.shards.storage import Storage, temporary_of

MARKER: Final = "COMMITTED.json"
STARTED: Final = "import/started.json"

Json = dict[str, Any]


@dataclass(frozen=True)
class ImportTarget:
    """Where an import writes."""

    output: str
    name: Callable[[int], str]
    """name of shard N, relative to the output."""
    others: tuple[str, ...] = ()
    """names of the other files that it writes beside the shards, their records and the marker."""
    replace: bool = False
    """remove another import that lies there."""


@contextlib.contextmanager
def sole_writer(storage: Storage, target: ImportTarget, shards: int) -> Iterator[None]:
    """Keep other imports from an output, and remove what this or an earlier one left half-written there on a disk.

    Args:
        storage: where the output is.
        target: the output.
        shards: their number.

    Raises:
        RetryableError: another import writes there now.
    """
    lease = WorkLease(storage, join(target.output, LEASE), {"owner": owner_of(os.environ).id})
    try:
        alone = lease.watch(lambda: None)
    except DihtError:  # the first write says what is wrong; in a whole import on a read-only disk there is none
        yield
        return
    if not alone:
        raise RetryableError(f"another import writes to {target.output} now: wait until it ends, or stop it")
    folder = storage.local_path(target.output)
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
    ours = {name for n in range(shards) for name in _names(target, n)}
    ours |= {MARKER, STARTED, LEASE, *target.others}
    for place in {(folder / name).parent for name in (*_names(target, 0), STARTED, LEASE, *target.others)}:
        for path in place.glob(".*.tmp"):
            if temporary_of(path.relative_to(folder).as_posix()) in ours:
                path.unlink(missing_ok=True)


def resume(
    storage: Storage,
    target: ImportTarget,
    config: Json,
    parts: Sequence[tuple[int, int]],
    begin: Callable[[int, int], object],
) -> tuple[Json | None, list[ShardFacts | None]]:
    """The marker if this import is there already, and what each shard holds (None for those that have to be written).

    Args:
        storage: where the output is.
        target: the output, which belongs to this import from now on.
        config: what the import depends on, with its number of `shards`.
        parts: the first record of each shard and the one after its last.
        begin: called once with the number of records and how many of them are already there.

    Raises:
        UserError: the output holds another import, or shards of somebody else.
    """
    total = parts[-1][1]
    if (marker := _committed_or_begun(storage, target, config)) is not None:
        begin(total, total)
        return marker, []
    done = [_finished(storage, target, number) for number in range(len(parts))]
    begin(total, sum(stop - start for (start, stop), facts in zip(parts, done, strict=True) if facts))
    return None, done


def _committed_or_begun(storage: Storage, target: ImportTarget, config: Json) -> Json | None:
    output = target.output
    started, marker = join(output, STARTED), join(output, MARKER)
    if not storage.exists(started):
        folder = join(output, target.name(0)).rpartition("/")[0]
        if any(name.endswith(".tar") for name in storage.names(folder)):
            raise UserError(f"{output} holds shards that were not imported by diht: choose another OUTPUT")
    elif (before := json.loads(storage.read_bytes(started))) == config:
        found = json.loads(storage.read_bytes(marker)) if storage.exists(marker) else None
        if found is not None and target.replace:
            _remove(storage, target, before)
        elif found is not None and _is_whole(storage, target, found) and not _can_read_more(found["bad"]):
            return found
    elif not target.replace:
        changed = differences({**before, "source": ""}, {**config, "source": ""})  # of which digests say nothing
        what = "; ".join(changed[:4]) or "of another SOURCE, or its files have changed"
        raise UserError(f"{output} holds another import ({what}): choose another OUTPUT, or add --replace")
    else:
        _remove(storage, target, before)
    storage.write_bytes(started, json_bytes(config))
    return None


def _remove(storage: Storage, target: ImportTarget, before: Json) -> None:
    written = [name for n in range(before["shards"]) for name in _names(target, n)]
    storage.remove_files(target.output, [MARKER, *written, *target.others, STARTED])


def _is_whole(storage: Storage, target: ImportTarget, marker: Json) -> bool:
    """Whether each shard of a committed import is still there."""
    there = set(storage.names(join(target.output, target.name(0)).rpartition("/")[0]))
    return all(shard["name"].rpartition("/")[2] in there for shard in marker["shards"])


def _finished(storage: Storage, target: ImportTarget, number: int) -> ShardFacts | None:
    record, shard = (join(target.output, name) for name in (_record(number), target.name(number)))
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


def renewed(storage: Storage, target: ImportTarget, marker: Json, seen: Json) -> Json:
    """The marker of a finished import with what its source shows now: files that are ignored come and go."""
    if marker["seen"] == seen:
        return marker
    marker = {**marker, "seen": seen}
    storage.write_bytes(join(target.output, MARKER), json_bytes(marker))
    return marker


def write_missing(
    storage: Storage,
    target: ImportTarget,
    source: RecordSource,
    parts: Sequence[tuple[int, int]],
    done: Sequence[ShardFacts | None],
    advance: Callable[[], object],
    *,
    pack: Pack,
    empty_shards: bool = False,
) -> list[ShardFacts]:
    """Write the shards that are not finished; what each of all shards holds.

    Args:
        storage: where the output is.
        target: the output.
        source: of the records.
        parts: the first record of each shard and the one after its last.
        done: what `resume` found.
        advance: called after each record.
        pack: makes the samples of a record.
        empty_shards: go on where no record of a shard can be used; no file is written for it.

    Raises:
        DataError: no record of a shard can be used, unless `empty_shards`.
    """
    facts: list[ShardFacts] = []
    for number, (start, stop) in enumerate(parts):
        found = done[number]
        if found is None:
            try:
                found = write_shard(
                    storage,
                    join(target.output, target.name(number)),
                    source,
                    start,
                    stop,
                    advance,
                    pack=pack,
                )
            except EmptyShardError as error:
                if not empty_shards:
                    raise
                found = error.facts
            storage.write_bytes(join(target.output, _record(number)), json_bytes(found.to_json()))
        facts.append(found)
    return facts


def json_bytes(document: Json) -> bytes:
    """A JSON file: sorted keys, so that equal documents are equal bytes."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")


def _names(target: ImportTarget, number: int) -> tuple[str, ...]:
    """The files of a shard."""
    return target.name(number), _record(number)


def _record(number: int) -> str:
    return f"import/{number}.json"


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
