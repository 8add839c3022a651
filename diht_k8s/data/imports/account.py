"""The account of an import: all that was seen is stored, bad, beside a stored image, or ignored, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.data.imports.image_bytes import HEIF_MISSING, heif_advice
from diht_k8s.data.imports.records import RecordSource, SeenUnits
from diht_k8s.data.imports.shard_writer import ShardFacts
from diht_k8s.data.imports.source_files import LINKS_ADVICE, OUTSIDE
from diht_k8s.data.imports.tally import Tally
from diht_k8s.data.shards.images import MAX_PIXELS

Json = dict[str, Any]
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
