"""The CAT rules on batches of samples; the first rule that drops a sample gives the reason.

Order: bad, exclude, language, metadata, objects, C (complexity), A (action), then the image: readable, size, benchmark,
clip score, T (text).

Cheap rules come first, so only images of the remaining samples are decoded, scored and searched for text. The clip
score stands before T: on an accelerator it takes a small part of T's time, and on a CPU, where a ViT-B/32 takes some
five times T's, it makes up for most of that, since it drops more. Scores of an earlier
run are reused where they suffice: the same rules then give the same verdicts without parser and spotter.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from PIL import Image

from diht_k8s.api.filter import Filter, MetadataLimit
from diht_k8s.api.layout import Layout, join
from diht_k8s.data.imports.provenance import source_of
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.samples import Sample, storable
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import fits_tar
from diht_k8s.stages.filter import clip_score
from diht_k8s.stages.filter.captions.language import is_english
from diht_k8s.stages.filter.fingerprints import Gallery, fingerprint
from diht_k8s.stages.filter.scores import BAD, Row
from diht_k8s.stages.filter.text_spotting.matching import MatchRule, shows_caption
from diht_k8s.stages.filter.text_spotting.spotter import SpottingRequest, TextSpotter

if TYPE_CHECKING:
    from diht_k8s.stages.filter.captions.parser import CaptionParser

_UNFILTERED: Final = Filter()
"""Defaults, which have no rule on image shapes; used for sources that are not filtered."""


MAX_JUNK_KIND: Final = 60
"""Characters of a kind of junk."""


class _Pair(NamedTuple):
    """A pair that no rule has dropped so far, with its image if a rule needs it."""

    row: Row
    sample: Sample
    image: Image.Image | None
    needs_score: bool
    """whether the CLIP model must score it."""
    needs_spotting: bool
    """whether it must be searched for text."""


@dataclass(frozen=True, kw_only=True)
class RuleChain:
    """The filter rules of one run with their models, applied in order; the first that fails gives the reason."""

    rules: Filter
    parser: CaptionParser
    parser_version: str
    spotter: TextSpotter
    exclusions: frozenset[str] = frozenset()
    gallery: Gallery | None = None
    """images of benchmarks; their near-duplicates must not be trained on."""
    scorer: clip_score.ClipScorer | None = None
    """the model of `clipScore`, if the run has one."""

    def apply(
        self, shard: str, samples: Sequence[Sample], earlier: Sequence[Row | None], *, filtered: bool
    ) -> list[Row]:
        """Score a batch and decide which samples to keep.

        Args:
            shard: name of the shard, for the rows.
            samples: pairs in shard order.
            earlier: for each sample its row of earlier scores, or None. The columns of another parser or spotter are
                empty.
            filtered: False for an unfiltered source. It is scored, but only bad samples, excluded samples and
                near-duplicates of benchmark images are dropped.
        """
        rows, known = self.apply_to_captions(shard, samples, earlier, filtered=filtered)
        for row, before in zip(rows, known, strict=True):
            if before is not None and row.parser_version:
                row.ocr, row.ocr_state, row.clip_score = before.ocr, before.ocr_state, before.clip_score
        self._apply_image_rules(rows, samples, known, filtered=filtered)
        for row in rows:
            row.kept = not row.reason
        return rows

    def apply_to_captions(
        self, shard: str, samples: Sequence[Sample], earlier: Sequence[Row | None], *, filtered: bool
    ) -> tuple[list[Row], list[Row | None]]:
        """Apply the rules that need no image; what `apply` takes and, beside the rows, those of `earlier` that are of
        the same sample.
        """
        rows = [new_row(shard, sample) for sample in samples]
        if (name := self.rules.junk_field) is not None:
            for row, sample in zip(rows, samples, strict=True):
                row.junk = _junk_kind(sample.meta.get(name))
        known = [
            row if row is not None and row.same_sample(new) else None for row, new in zip(earlier, rows, strict=True)
        ]
        for row, sample in zip(rows, samples, strict=True):
            row.reason = self._first_reason(sample, filtered=filtered)
            if row.reason == EXCLUDED:
                row.forget()
        self._score_captions(rows, samples, known)
        for row in rows:
            if not row.reason and filtered:
                row.reason = caption_reason(row, self.rules)
        return rows, known

    def _first_reason(self, sample: Sample, *, filtered: bool) -> str:
        if sample.problem is not None:
            return BAD + sample.problem
        if not fits_tar(sample):
            return BAD + "name_too_long"
        if is_excluded(sample, self.exclusions):
            return EXCLUDED
        return sample_reason(sample, self.rules) if filtered else ""

    def _score_captions(self, rows: Sequence[Row], samples: Sequence[Sample], known: Sequence[Row | None]) -> None:
        new: list[tuple[Row, str]] = []
        for row, sample, before in zip(rows, samples, known, strict=True):
            if row.reason:
                continue
            if before is not None and before.parser_version == self.parser_version:
                row.take_caption_scores(before)
            else:
                new.append((row, sample.caption))
        if new:
            graphs = self.parser.parse([caption for _, caption in new])
            for (row, _), graph in zip(new, graphs, strict=True):
                row.describe(graph, self.parser_version)

    def _apply_image_rules(
        self, rows: Sequence[Row], samples: Sequence[Sample], known: Sequence[Row | None], *, filtered: bool
    ) -> None:
        """Check the images of the rows that are still kept. The spotter pulls the images that it has to read."""
        unread = deque[tuple[Row, Sample, Image.Image]]()

        def requests() -> Iterator[SpottingRequest]:
            for pair in self._above_min_score(self._pairs(rows, samples, known, filtered=filtered)):
                if pair.needs_spotting and pair.image is not None:
                    unread.append((pair.row, pair.sample, pair.image))
                    yield self._request(pair.image, pair.sample.caption)
                else:
                    self._finish(pair.row, pair.sample, pair.image)

        for found in self.spotter.spot_all(requests()):
            row, sample, image = unread.popleft()
            row.ocr, row.ocr_state = found.texts, found.state
            row.matched = shows_caption(sample.caption, found.texts, match_rule(self.rules))
            self._finish(row, sample, image)

    def _pairs(
        self, rows: Sequence[Row], samples: Sequence[Sample], known: Sequence[Row | None], *, filtered: bool
    ) -> Iterator[_Pair]:
        """The pairs that neither the rules on captions nor those on the shape of the image drop."""
        for row, sample, before in zip(rows, samples, known, strict=True):
            if row.reason:
                continue
            needs_score = filtered and self.scorer is not None and row.clip_score is None
            needs_spotting = filtered and not self._has_low_score(row) and self._must_read(row, sample)
            image = self._opened(row, sample, before, needed=needs_score or needs_spotting, filtered=filtered)
            if not row.reason:
                yield _Pair(row, sample, image, needs_score, needs_spotting)

    def _above_min_score(self, pairs: Iterator[_Pair]) -> Iterator[_Pair]:
        """Score the pairs in batches, as far as no earlier scores say it; those that are left, in order."""
        for together in _gathered(pairs) if self.scorer is not None else ([pair] for pair in pairs):
            self._score(together)
            for pair in together:
                if self._has_low_score(pair.row):
                    pair.row.reason = clip_score.REASON
                else:
                    yield pair

    def _score(self, pairs: Sequence[_Pair]) -> None:
        new = [(pair, pair.image) for pair in pairs if pair.needs_score and pair.image is not None]
        if new and self.scorer is not None:
            images, captions = [image for _, image in new], [pair.sample.caption for pair, _ in new]
            for (pair, _), score in zip(new, self.scorer.scores(images, captions), strict=True):
                pair.row.clip_score = score

    def _has_low_score(self, row: Row) -> bool:
        """Whether the clip score is known and drops the pair."""
        rule = self.rules.clip_score
        if rule is None or rule.min_score is None or row.clip_score is None:
            return False
        return row.clip_score < rule.min_score

    def _must_read(self, row: Row, sample: Sample) -> bool:
        """Whether the image must be searched for text because the earlier scores do not suffice; sets `matched` from
        them.
        """
        spotting = self.rules.text_spotting
        if spotting.mode == "Disabled":
            return False
        if row.ocr_state != "not_run":
            row.matched = shows_caption(sample.caption, row.ocr, match_rule(self.rules))
        return not (row.ocr_state == "done" or (row.matched and spotting.mode == "Drop"))

    def _opened(
        self, row: Row, sample: Sample, before: Row | None, *, needed: bool, filtered: bool
    ) -> Image.Image | None:
        """The decoded image; None if no rule needs it, or if it was dropped as unreadable or by its shape."""
        rules = self.rules if filtered else _UNFILTERED
        needs_image = needed or rules.min_side > 0 or rules.max_aspect_ratio > 0 or self.gallery is not None
        needs_image = needs_image or self.rules.duplicates == "Near"
        if not needs_image and _was_readable(before):
            return None
        try:
            image = decode(sample.image)
        except BadImageError as error:
            row.reason = BAD + error.reason
            return None
        row.reason = image_reason(image, rules, self.gallery)
        return None if row.reason else image

    def _request(self, image: Image.Image, caption: str) -> SpottingRequest:
        if self.rules.text_spotting.mode != "Drop":
            return SpottingRequest(image)
        rule = match_rule(self.rules)
        return SpottingRequest(image, lambda text: rule.matches(caption, text))

    def _finish(self, row: Row, sample: Sample, image: Image.Image | None) -> None:
        """Apply the last image rule (T), and set the fingerprint of a kept image."""
        if row.matched and self.rules.text_spotting.mode == "Drop":
            row.reason = "text"
        else:
            row.fingerprint = fingerprint_of(self.rules, sample, image)


def _gathered(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Groups of pairs in order, each with one batch of images to score at most, and few enough pixels for memory."""
    together, scored, pixels = list[_Pair](), 0, 0
    for pair in pairs:
        together.append(pair)
        scored += pair.needs_score
        pixels += 0 if pair.image is None else pair.image.width * pair.image.height
        if scored == clip_score.BATCH or pixels >= clip_score.MAX_PIXELS_AT_ONCE:
            yield together
            together, scored, pixels = [], 0, 0
    if together:
        yield together


def fingerprint_of(rules: Filter, sample: Sample, image: Image.Image | None) -> bytes | None:
    """32 bytes that identify repeats of an image; None if `duplicates` is unset. `Near` needs the decoded image."""
    if rules.duplicates is None:
        return None
    if rules.duplicates == "Exact":
        return hashlib.sha256(sample.image).digest()
    assert image is not None, "the image was decoded for its fingerprint"
    return fingerprint(image).tobytes()


def sample_reason(sample: Sample, rules: Filter) -> str:
    """Reason to drop a sample by its language or by numbers in its .json; "" to keep it."""
    if rules.language == "en" and not is_english(sample.caption, rules.language_margin):
        return "language"
    for limit in rules.metadata_limits:
        value = sample.meta.get(limit.name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not _within(value, limit):
            return "metadata"
    return ""


def _within(value: float, limit: MetadataLimit) -> bool:
    """Whether a number is within its bounds; NaN is not."""
    low = -math.inf if limit.min is None else limit.min
    high = math.inf if limit.max is None else limit.max
    return low <= value <= high


def has_bad_shape(size: tuple[float, float], rules: Filter) -> bool:
    """Whether an image of this width and height is dropped by `minSide` or `maxAspectRatio`."""
    short, long = sorted(size)
    return short < rules.min_side or (rules.max_aspect_ratio > 0 and long > rules.max_aspect_ratio * short)


def image_reason(image: Image.Image, rules: Filter, gallery: Gallery | None) -> str:
    """Reason to drop an image by its size, its shape or the benchmark gallery; "" to keep it."""
    if has_bad_shape(image.size, rules):
        return "size"
    return "benchmark" if gallery is not None and gallery.holds(image) else ""


def caption_reason(row: Row, rules: Filter) -> str:
    """Reason to drop a scored sample by its caption (objects, C, A); "" to keep it."""
    if len(row.objects) < rules.min_objects:
        return "objects"
    if row.complexity < rules.min_complexity:
        return "complexity"
    actions = row.num_actions if rules.action_rule == "SubjectOrObject" else row.num_subject_actions
    return "action" if actions < rules.min_actions else ""


def match_rule(rules: Filter) -> MatchRule:
    """The T rule of a run, or the default T rule for `Filter()`."""
    spotting = rules.text_spotting
    return MatchRule(
        min_confidence=spotting.min_confidence,
        min_characters=spotting.min_matched_characters,
        method=spotting.match,
        across_words=spotting.across_words,
    )


def _was_readable(before: Row | None) -> bool:
    """Whether an earlier run decoded the image without an error."""
    return before is not None and (before.kept or before.ocr_state != "not_run" or before.clip_score is not None)


def _junk_kind(value: object) -> str:
    """The kind of junk of a pair, printable and short: a stranger's text; "" where its .json has none, or null, false
    or NaN.
    """
    if not value or value != value:  # NaN is what tables write where a row has no text
        return ""
    text = "".join(character if character.isprintable() else " " for character in str(value)[: 4 * MAX_JUNK_KIND])
    return " ".join(text.split())[:MAX_JUNK_KIND] or "not printable"


def new_row(shard: str, sample: Sample) -> Row:
    """The row of a sample before it is scored."""
    return Row(
        shard=shard,
        index=storable(sample.key),
        uid=storable(sample.uid),
        caption_sha256=sample.caption_sha256,
        source=source_of(sample.meta),
    )


EXCLUDED: Final = "exclude"
"""Reason of the pairs that a list names."""
URL_KEYS = ("url", "URL")
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")


def read_exclusions(storage: Storage, uri: str | None) -> frozenset[str]:
    """Entries of the list, one per line. Empty lines and lines that start with # are skipped; digests are compared in
    lower case.
    """
    if uri is None:
        return frozenset()
    lines = (line.strip() for line in storage.read_text(uri).splitlines())
    entries = {line for line in lines if line and not line.startswith("#")}
    return frozenset(entries | {entry.lower() for entry in entries if _SHA256.fullmatch(entry)})


def taken_down(storage: Storage, layout: Layout) -> frozenset[str]:
    """Entries of all takedowns of an output, which every later filter applies: no variant brings a pair back."""
    lists = [join(layout.takedowns, name) for name in storage.names(layout.takedowns)]
    return frozenset[str]().union(*(read_exclusions(storage, uri) for uri in lists))


def is_excluded(sample: Sample, entries: frozenset[str]) -> bool:
    """Whether the list names this pair."""
    return bool(entries) and any(name in entries for name in names_of(sample))


def names_of(sample: Sample) -> Iterator[str]:
    """The names that a list may give this pair: its uid, where it came from, the digests of its image and of its
    URLs.
    """
    yield sample.uid
    if (source := source_of(sample.meta)) is not None:
        yield source
    yield hashlib.sha256(sample.image).hexdigest()
    for url in (sample.meta.get(key) for key in URL_KEYS):
        if isinstance(url, str):
            yield hashlib.sha256(url.encode(errors="replace")).hexdigest()
