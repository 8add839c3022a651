"""What the report says of the benchmarks' images, of the other stages, and of groups of images."""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from diht_k8s.api.run import DihtRun
from diht_k8s.report.overview import explained_reference
from diht_k8s.stages.evaluate.results import QUERIES
from diht_k8s.stages.label import features
from tests.recipe.evaluate.small_run import (
    COLOURS,
    CONFIG,
    add_teacher_features,
    document,
    evaluate,
    heldout,
    page,
    pairs,
    report,
)


def test_report_when_captions_and_names_hold_html_shows_it_as_text(fresh: Path) -> None:
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    samples = [(key, {**m, "txt": f"{evil} {key}".encode()}) for key, m in pairs(24, 9000)]
    heldout(fresh, *samples)
    (fresh / "heldout" / "names.txt").write_text("".join(f"{evil}{n}\n" for n in range(6)))
    evaluate(document(fresh))
    text = page(fresh)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)" in text


def test_page_when_opened_begins_with_queries_drawn_by_digest_and_the_images_found(done: Path) -> None:
    retrieval, classification = report(done)["benchmarks"]
    drawn = retrieval["examples"]["text_to_image"]["drawn"]
    smallest = sorted((f"9000-{n}" for n in range(24)), key=lambda uid: hashlib.sha256(uid.encode()).digest())[:QUERIES]
    assert [query["picture"] for query in drawn] == smallest
    for query in drawn:
        right = [hit["item"] for hit in query["top"] if hit["right"]]
        assert (len(query["top"]), right) == (5, [query["picture"]] if query["rank"] <= 5 else [])
    opening = page(done).partition('<main id="main"')[2].partition("</section>")[0]
    assert opening.strip().startswith('class="wrap">\n<section id="queries">')
    shown = [len(query["top"]) + (query["rank"] > 5) for query in drawn]
    assert opening.count("data:image/webp") == sum(shown) + 6 * 5
    text = re.sub(r"<[^>]+>", "", opening).replace("\N{NO-BREAK SPACE}", " ")
    share = 100 * retrieval["text_to_image"]["recall"]["5"]
    hits = sum(query["rank"] <= 5 for query in drawn)
    assert (
        f"Here {hits} of {QUERIES} find it among the first five; of all 24 captions {share:.1f} % do, and by "
        f"chance 20.8 %"
    ) in text
    for query in drawn:
        assert query["rank"] <= 5 or f"rank {query['rank']:.0f}" in text
    named = classification["queries"]
    assert {query["query"] for query in named["drawn"]} == set(COLOURS)
    assert named["chance"] == pytest.approx(1 / 6)
    for query in named["drawn"]:
        of_class = [COLOURS[int(hit["item"].partition("-")[2]) % 6] == query["query"] for hit in query["top"]]
        assert [hit["right"] for hit in query["top"]] == of_class
    rights = [hit["right"] for query in named["drawn"] for hit in query["top"]]
    assert named["right"] == pytest.approx(sum(rights) / 30)


def test_reference_when_the_teachers_features_lie_beside_the_labels_is_on_the_page(fresh: Path) -> None:
    run = document(fresh, {"fewShot": None}, label={"teacher": {"imageSize": 32}})
    add_teacher_features(run)
    evaluate(run)
    (reference,) = report(fresh)["benchmarks"][0]["references"]
    assert (reference["name"], reference["pairs"], reference["dimension"]) == ("tokens", 72, CONFIG["embed_dim"])
    assert reference["text_to_image"]["recall"]["10"] > reference["text_to_image"]["chance"]["10"]
    assert "points to the BPE ridge, paired" in page(fresh)
    told = f"{explained_reference(report(fresh))}. Fitted here on 72 pairs, in 16 dimensions."
    assert told in html.unescape(page(fresh))


def test_seen_when_no_benchmark_is_of_retrieval_is_told_without_reading_teacher_features(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heldout(fresh, *pairs(90, 1000)[1:11], *pairs(24, 9000)[10:])
    run = document(fresh, {"fewShot": None}, label={"teacher": {"imageSize": 32}})
    add_teacher_features(run)
    body = json.loads(run.model_dump_json(by_alias=True, exclude_defaults=True))
    del body["spec"]["evaluate"]["benchmarks"][0]
    monkeypatch.setattr(features, "read_teacher_features", lambda *_: pytest.fail("read"))
    evaluate(DihtRun.model_validate(body))
    (found,) = report(fresh)["benchmarks"]
    assert found["seen"] == {"pictures": 8, "of": 24, "pairs": 72}


def test_seen_when_images_stand_several_times_or_do_not_count_is_told_of_those_that_are_measured(fresh: Path) -> None:
    trained, new = pairs(90, 1000)[1:11], pairs(24, 9000)[10:]
    copies = [(f"copy-{key}", members) for key, members in [*trained, *new[:2]]]
    unasked = [(f"unasked-{key}", {"png": members["png"]}) for key, members in pairs(90, 1000)[20:30]]
    heldout(fresh, *trained, *copies, *unasked, *new)
    evaluate(document(fresh, {"fewShot": None}))
    retrieval, classification = report(fresh)["benchmarks"]
    assert (retrieval["pictures"], classification["pictures"]) == (24, 36)
    assert retrieval["seen"] == classification["seen"] == {"pictures": 8, "of": 24, "pairs": 72}
    assert "of its 24 different images, 8 (33.3" in page(fresh)


def arrays(*values: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def test_groups_when_shards_hold_datacomps_metadata_or_names_are_told_apart(fresh: Path) -> None:
    samples = [(key, {**members, "npy": arrays(row % 2, 2017)}) for row, (key, members) in enumerate(pairs(24, 9000))]
    heldout(fresh, *samples)
    evaluate(document(fresh, {"fewShot": None}))
    _, found = report(fresh)["benchmarks"]
    assert {(group["name"], group["pictures"]) for group in found["groups"]} == {("0", 12), ("1", 12)}
    assert sum(group["top1"] * group["pictures"] for group in found["groups"]) / 24 == pytest.approx(found["top1"])
    assert "By group: top-1 from" in page(fresh)
