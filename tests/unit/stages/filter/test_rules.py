from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from PIL import Image

from diht_k8s.api.filter import ClipScore, Filter, MetadataLimit, TextSpotting
from diht_k8s.data.shards.samples import Sample, make_sample
from diht_k8s.stages.filter import clip_score
from diht_k8s.stages.filter.captions.graph import Action, Attribute, CaptionGraph, Mention
from diht_k8s.stages.filter.fingerprints import gallery_of
from diht_k8s.stages.filter.rules import RuleChain
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.text_spotting.matching import SpottedText
from diht_k8s.stages.filter.text_spotting.spotter import Spotting, SpottingRequest
from tests.recipe.filter.shards import encoded


def encoded_image(size: tuple[int, int] = (32, 32)) -> bytes:
    return encoded(Image.new("RGB", size, "red"))


def sample(caption: str, *, image: bytes | None = None, url: str = "") -> Sample:
    document = f'{{"caption": "{caption}", "url": "{url}"}}'.encode()
    return make_sample(
        caption.replace(" ", "-") or "none", {"png": encoded_image() if image is None else image, "json": document}
    )


@dataclass
class FakeParser:
    """Complexity = number of words; an action where a word ends in "ing", with a subject unless it comes first."""

    parsed: list[str] = field(default_factory=list)

    def parse(self, captions: Sequence[str]) -> list[CaptionGraph]:
        self.parsed += captions
        return [self._graph(caption.split()) for caption in captions]

    def _graph(self, words: list[str]) -> CaptionGraph:
        actions = tuple(Action(word, index > 0) for index, word in enumerate(words) if word.endswith("ing"))
        return CaptionGraph((Mention("thing", 0, 1),), tuple(Attribute(0, word) for word in words), (), actions)


@dataclass
class FakeSpotter:
    texts: tuple[SpottedText, ...] = ()
    wanted: list[bool] = field(default_factory=list)
    gathers: bool = False
    """consume all requests before the first result, as a spotter with batches does."""

    def spot_all(self, requests: Iterable[SpottingRequest]) -> Iterator[Spotting]:
        taken = list(requests) if self.gathers else requests
        return map(self._spot, taken)

    def _spot(self, request: SpottingRequest) -> Spotting:
        wanted = request.wanted
        self.wanted.append(wanted is not None)
        for index, text in enumerate(self.texts):
            if wanted is not None and wanted(text):
                return Spotting(self.texts[: index + 1], "stopped_early")
        return Spotting(self.texts, "done")


def rule_chain(
    rules: Filter | None = None, spotter: FakeSpotter | None = None, exclusions: Sequence[str] = ()
) -> RuleChain:
    return RuleChain(
        rules=rules or Filter(min_complexity=2, min_actions=0),
        parser=FakeParser(),
        parser_version="p1",
        spotter=spotter or FakeSpotter(),
        exclusions=frozenset(exclusions),
    )


def verdict(it: RuleChain, one: Sample, before: Row | None = None, *, filtered: bool = True) -> Row:
    return it.apply("s", [one], [before], filtered=filtered)[0]


RUNNING = sample("giraffe running fast")


@pytest.mark.parametrize(
    ("rules", "one", "reason"),
    [
        (Filter(min_objects=1, min_complexity=0, min_actions=0), sample("dog"), ""),
        (Filter(min_objects=2), sample("dog"), "objects"),
        (Filter(min_complexity=2, min_actions=0), sample("dog"), "complexity"),
        (Filter(min_complexity=1, min_actions=0), sample("dog"), ""),
        (Filter(min_complexity=1, min_actions=1), sample("small dog"), "action"),
        (Filter(min_complexity=1, min_actions=1), sample("dog running"), ""),
        (Filter(min_complexity=1, min_actions=1, action_rule="Subject"), sample("cooking rice"), "action"),
        (Filter(min_complexity=1, min_actions=1, action_rule="Subject"), sample("dog running"), ""),
        (Filter(min_complexity=9, min_actions=9), sample("dog"), "complexity"),
        (Filter(), sample("", image=b""), "bad:picture_empty"),
        (Filter(min_actions=0), sample("dog", image=b"no image"), "bad:picture_unreadable"),
        (Filter(min_actions=0), sample("dog", image=encoded_image((1, 1))), "bad:picture_too_small"),
        (Filter(min_complexity=2), sample("dog", image=b"no image"), "complexity"),
        (Filter(min_actions=0), make_sample("x" * 300, {"png": encoded_image(), "txt": b"dog"}), "bad:name_too_long"),
    ],
)
def test_first_rule_that_applies_gives_the_reason(rules: Filter, one: Sample, reason: str) -> None:
    row = verdict(rule_chain(rules), one)
    assert (row.reason, row.kept) == (reason, not reason)


@pytest.mark.parametrize(
    "entry",
    [
        RUNNING.uid,
        hashlib.sha256(RUNNING.image).hexdigest(),
        hashlib.sha256(b"https://example.org/a.png").hexdigest(),
    ],
)
def test_excluded_sample_is_dropped_and_its_caption_is_not_stored(entry: str) -> None:
    one = sample("giraffe running fast", url="https://example.org/a.png")
    row = verdict(rule_chain(exclusions=[entry]), one)
    assert (row.reason, row.objects, row.parser_version) == ("exclude", (), "")


@pytest.mark.parametrize("gathers", [False, True], ids=["one by one", "all at once"])
def test_each_image_gets_its_own_texts_between_others_that_are_not_read(gathers: bool) -> None:
    class WidthSpotter(FakeSpotter):
        def _spot(self, request: SpottingRequest) -> Spotting:
            return Spotting((SpottedText(f"width{request.image.width}", 0.9),), "done")

    captions = ["see width40 here", "dog", "small zebra", "tall giraffe", "small dog"]
    images = [encoded_image((40, 40)), None, b"no image", encoded_image((50, 50)), encoded_image((60, 60))]
    batch = [sample(caption, image=image) for caption, image in zip(captions, images, strict=True)]
    rows = rule_chain(spotter=WidthSpotter(gathers=gathers)).apply("s", batch, [None] * 5, filtered=True)
    assert [row.reason for row in rows] == ["text", "complexity", "bad:picture_unreadable", "", ""]
    assert [text.text for row in rows for text in row.ocr] == ["width40", "width50", "width60"]


def test_text_of_the_caption_in_the_image_drops_and_stops_early() -> None:
    texts = (SpottedText("other", 0.9), SpottedText("GIRAFFE", 0.9), SpottedText("third", 0.9))
    row = verdict(rule_chain(spotter=FakeSpotter(texts)), RUNNING)
    assert (row.reason, row.ocr_state, row.ocr) == ("text", "stopped_early", texts[:2])


@pytest.mark.parametrize(
    ("mode", "asked", "state", "reason"),
    [("Drop", [True], "stopped_early", "text"), ("ScoreOnly", [False], "done", ""), ("Disabled", [], "not_run", "")],
)
def test_text_spotting_mode(mode: str, asked: list[bool], state: str, reason: str) -> None:
    spotter = FakeSpotter((SpottedText("giraffe", 0.9),))
    rules = Filter(min_actions=0, text_spotting=TextSpotting.model_validate({"mode": mode}))
    row = verdict(rule_chain(rules, spotter), RUNNING)
    assert (spotter.wanted, row.ocr_state, row.reason) == (asked, state, reason)


def test_unfiltered_source_is_scored_but_kept() -> None:
    spotter = FakeSpotter((SpottedText("giraffe", 0.9),))
    row = verdict(rule_chain(Filter(min_complexity=50), spotter), RUNNING, filtered=False)
    assert (row.kept, row.complexity, spotter.wanted) == (True, 3, [])


def test_tighter_rules_on_earlier_scores_need_no_parser_no_spotter_and_no_image() -> None:
    before = verdict(rule_chain(), RUNNING)
    tighter = rule_chain(Filter(min_complexity=3, min_actions=1), spotter := FakeSpotter())
    unreadable = replace(RUNNING, members={"png": b"gone"})
    row = verdict(tighter, unreadable, before)
    assert (row, tighter.parser.parsed, spotter.wanted) == (before, [], [])  # type: ignore[attr-defined]


def test_looser_rules_read_newly_surviving_images_only() -> None:
    one, other = sample("dog"), RUNNING
    first = rule_chain(Filter(min_complexity=2, min_actions=0)).apply("s", [one, other], [None, None], filtered=True)
    looser = rule_chain(Filter(min_complexity=1, min_actions=0), spotter := FakeSpotter())
    rows = looser.apply("s", [one, other], first, filtered=True)
    assert ([row.kept for row in rows], len(spotter.wanted), looser.parser.parsed) == ([True, True], 1, [])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("characters", "reads", "reason"), [(7, 0, "text"), (5, 0, "text"), (8, 1, "")], ids=["same", "tighter", "looser"]
)
def test_image_is_read_again_when_texts_before_an_early_stop_no_longer_match(
    characters: int, reads: int, reason: str
) -> None:
    texts = (SpottedText("giraffe", 0.9), SpottedText("zoo", 0.9))
    seven = Filter(min_actions=0, text_spotting=TextSpotting(min_matched_characters=7))
    before = verdict(rule_chain(seven, FakeSpotter(texts)), RUNNING)
    assert before.ocr_state == "stopped_early"
    rules = Filter(min_actions=0, text_spotting=TextSpotting(min_matched_characters=characters))
    row = verdict(rule_chain(rules, spotter := FakeSpotter(texts)), RUNNING, before)
    assert (len(spotter.wanted), row.reason) == (reads, reason)


def test_texts_of_a_dropped_row_are_kept() -> None:
    before = verdict(rule_chain(spotter=FakeSpotter((SpottedText("zoo", 0.9),))), RUNNING)
    row = verdict(rule_chain(Filter(min_complexity=99)), RUNNING, before)
    assert (row.reason, row.ocr, row.ocr_state) == ("complexity", (SpottedText("zoo", 0.9),), "done")


@pytest.mark.parametrize(
    "change", [{"uid": "other"}, {"index": "other"}, {"caption_sha256": "other"}, {"parser_version": "p0"}]
)
def test_scores_of_another_sample_or_parser_are_not_used(change: dict[str, str]) -> None:
    before = replace(verdict(rule_chain(), RUNNING), **change)
    it = rule_chain()
    verdict(it, RUNNING, before)
    assert it.parser.parsed == ["giraffe running fast"]  # type: ignore[attr-defined]


def test_names_are_stored_without_lone_surrogates() -> None:
    one = make_sample("a\udc80", {"png": encoded_image(), "json": b'{"caption": "small dog", "uid": "\\ud800"}'})
    row = verdict(rule_chain(), one)
    assert (row.index, row.uid) == ("a?", "?")


LIMITS = [
    MetadataLimit(name="punsafe", max=0.5),
    MetadataLimit(name="similarity", min=0.28),
]


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"punsafe": 0.1, "similarity": 0.3}, ""),
        ({"punsafe": 0.9}, "metadata"),
        ({"similarity": 0.1}, "metadata"),
        ({}, ""),
        ({"punsafe": "high"}, ""),
        ({"punsafe": True}, ""),
        ({"punsafe": float("nan")}, "metadata"),
        ({"punsafe": 0.5, "similarity": 0.28}, ""),
    ],
)
def test_numbers_of_the_json_beyond_their_limits_drop_the_sample(meta: dict[str, object], reason: str) -> None:
    one = replace(RUNNING, meta={**RUNNING.meta, **meta})
    assert verdict(rule_chain(Filter(min_actions=0, metadata_limits=LIMITS)), one).reason == reason


@pytest.mark.parametrize(
    ("size", "rules", "reason"),
    [
        ((64, 64), {"min_side": 64}, ""),
        ((64, 63), {"min_side": 64}, "size"),
        ((90, 30), {"max_aspect_ratio": 3}, ""),
        ((91, 30), {"max_aspect_ratio": 3}, "size"),
        ((30, 91), {"max_aspect_ratio": 3}, "size"),
    ],
)
def test_small_and_long_images_are_dropped(size: tuple[int, int], rules: dict[str, int], reason: str) -> None:
    one = sample("giraffe running fast", image=encoded_image(size))
    it = rule_chain(Filter(min_actions=0, **rules))  # type: ignore[arg-type]
    assert verdict(it, one).reason == reason
    assert verdict(it, one, filtered=False).reason == ""


def test_caption_in_another_language_is_dropped_before_it_is_parsed() -> None:
    it = rule_chain(Filter(min_complexity=1, min_actions=0, language="en"))
    row = verdict(it, sample("le chien et la maison"))
    assert (row.reason, row.parser_version, it.parser.parsed) == ("language", "", [])  # type: ignore[attr-defined]
    assert verdict(it, sample("le chien et la maison"), filtered=False).kept


def test_image_of_a_benchmark_is_dropped_even_from_an_unfiltered_source() -> None:
    stripes = Image.new("RGB", (64, 64), "white")
    for x in range(0, 64, 16):
        stripes.paste((0, 0, 0), (x, 0, x + 8, 64))
    it = replace(rule_chain(Filter(min_actions=0)), gallery=gallery_of([encoded(stripes)]))
    one = sample("giraffe running fast", image=encoded(stripes))
    assert [verdict(it, one, filtered=filtered).reason for filtered in (True, False)] == ["benchmark", "benchmark"]
    assert verdict(it, RUNNING).kept


@dataclass
class WidthScorer:
    """The score of an image is its width in hundreds of pixels."""

    batches: list[int] = field(default_factory=list)

    def scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        assert len(images) == len(captions)
        self.batches.append(len(images))
        return [image.width / 100 for image in images]


def scoring_chain(rules: Filter, scorer: WidthScorer, spotter: FakeSpotter | None = None) -> RuleChain:
    return replace(rule_chain(rules, spotter), scorer=scorer)


def clip_rules(min_score: float = 0.5, **more: object) -> Filter:
    rule = ClipScore(model="m", min_score=min_score)
    return Filter.model_validate({"minComplexity": 2, "minActions": 0, **more}).model_copy(update={"clip_score": rule})


def widths(*sizes: int) -> list[Sample]:
    return [sample(f"tall giraffe{size}", image=encoded_image((size, 40))) for size in sizes]


def test_clip_score_comes_after_cheap_rules_and_before_text() -> None:
    scorer, spotter = WidthScorer(), FakeSpotter((SpottedText("giraffe60", 0.9),))
    zebra = sample("small zebra", image=encoded_image((80, 40)))
    bad = sample("small dog", image=b"no image")
    batch = [*widths(40, 60), zebra, *widths(20), sample("giraffe"), bad]
    rows = scoring_chain(clip_rules(minSide=30), scorer, spotter).apply("s", batch, [None] * 6, filtered=True)
    assert [row.reason for row in rows] == ["clip_score", "text", "", "size", "complexity", "bad:picture_unreadable"]
    assert [row.clip_score for row in rows] == [0.4, 0.6, 0.8, None, None, None]
    assert (scorer.batches, len(spotter.wanted)) == ([3], 2)


@pytest.mark.parametrize(
    ("batch", "pixels", "expected"),
    [(2, 10**9, [2, 2, 1]), (5, 10**9, [5]), (9, 60 * 40, [1, 1, 1, 1, 1]), (9, 100 * 40, [2, 2, 1])],
    ids=["by number", "one whole batch", "by pixels", "two by pixels"],
)
def test_images_are_scored_in_batches_and_keep_their_order(
    monkeypatch: pytest.MonkeyPatch, batch: int, pixels: int, expected: list[int]
) -> None:
    monkeypatch.setattr(clip_score, "BATCH", batch)
    monkeypatch.setattr(clip_score, "MAX_PIXELS_AT_ONCE", pixels)
    samples = widths(60, 61, 62, 63, 64)
    rows = scoring_chain(clip_rules(), scorer := WidthScorer()).apply("s", samples, [None] * 5, filtered=True)
    assert scorer.batches == expected
    assert [row.clip_score for row in rows] == [0.6, 0.61, 0.62, 0.63, 0.64]


def test_known_clip_scores_open_no_image_under_other_thresholds() -> None:
    samples = widths(40, 60)
    before = scoring_chain(clip_rules(), WidthScorer()).apply("s", samples, [None, None], filtered=True)
    unreadable = [replace(one, members={**one.members, "png": b"gone"}) for one in samples]
    it = scoring_chain(clip_rules(0.7), scorer := WidthScorer(), spotter := FakeSpotter())
    rows = it.apply("s", unreadable, before, filtered=True)
    assert [row.reason for row in rows] == ["clip_score", "clip_score"]
    assert (scorer.batches, spotter.wanted) == ([], [])


def test_image_kept_without_a_clip_score_is_opened_and_scored() -> None:
    one = widths(60)[0]
    before = verdict(rule_chain(), one)
    row = verdict(scoring_chain(clip_rules(), scorer := WidthScorer()), one, before)
    assert (row.clip_score, scorer.batches) == (0.6, [1])


def test_unfiltered_source_gets_no_clip_score() -> None:
    row = verdict(scoring_chain(clip_rules(1), scorer := WidthScorer()), widths(60)[0], filtered=False)
    assert (row.kept, row.clip_score, scorer.batches) == (True, None, [])
