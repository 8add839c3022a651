"""The stage as a whole: what it writes, that it is cached, resumed, fails in parts, and tells of missing stages."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.models.features import encode_texts
from diht_k8s.models.loading import load_model
from diht_k8s.runtime import claims
from diht_k8s.stages.evaluate import encoding
from diht_k8s.stages.evaluate.encoding import read_encoded
from tests.recipe.evaluate.small_run import (
    COLOURS,
    document,
    draw,
    encode_images,
    evaluate,
    heldout,
    make_data,
    page,
    pairs,
    report,
    results,
)
from tests.recipe.filter.shards import tolerating


def test_stage_when_whole_writes_report_and_marker(done: Path) -> None:
    found = report(done)
    assert [benchmark["type"] for benchmark in found["benchmarks"]] == ["Retrieval", "Classification"]
    retrieval, classification = found["benchmarks"]
    assert retrieval["text_to_image"]["chance"] == pytest.approx({"1": 1 / 24, "5": 5 / 24, "10": 10 / 24})
    assert retrieval["references"] == []
    assert classification["classes"] == COLOURS
    assert [point["shots"] for point in classification["few_shot"]["points"]] == [1, 2]
    assert found["missing"] == {}
    assert found["funnel"][-1]["samples"] == 72
    committed = json.loads((done / "out" / "runs/latest/evaluate" / "COMMITTED.json").read_text())
    names = [artefact["path"] for artefact in committed["artefacts"]]
    assert names == [
        *(f"benchmarks/00{number}.{suffix}" for number in range(2) for suffix in ("json", "parquet")),
        "report.json",
        "report.html",
        "README.md",
    ]
    summary = committed["summary"]
    assert summary.pop("samples_per_second") > 0
    times = {name: summary[name] for name in ("wall_seconds", "process_seconds")}
    assert summary == {**times, "processes": 1, "benchmarks": 2, "samples": 48}
    assert set(committed["inputs"]) >= {"train", "filter", "label", "pairs 0", "colours class names"}


def test_report_when_written_has_the_documented_fields(done: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    found, (retrieval, classification) = report(done), report(done)["benchmarks"]
    names = {*found, *found["model"], *retrieval, *classification} - {"schema_version", "references"}
    told = {*re.findall(r"`([a-z0-9_]+)(?:\[\])?`", text.partition("`report.json` has the same")[2])}
    inner = {"classes", "class_pictures", "without_class", "without_caption", "captions", "own_captions", "notes"}
    intervals = {"top1_interval", "balanced_interval"}  # written as `..._interval`
    assert names - told - inner - intervals == set()


def test_report_when_for_programs_holds_no_images(done: Path) -> None:
    assert "data:image" not in (done / "out" / "runs/latest" / "report.json").read_text()
    assert page(done).count("data:image/webp") > 20


def test_page_when_opened_needs_nothing_from_elsewhere_and_is_not_made_again(done: Path) -> None:
    before, text = (done / "out/runs/latest/evaluate/report.html").stat().st_mtime_ns, page(done)
    assert evaluate(document(done)) is not None
    assert (done / "out/runs/latest/evaluate/report.html").stat().st_mtime_ns == before
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert "<script" not in text
    assert len(text.encode()) < 5 << 20
    assert not any(f'{attribute}="http' in text for attribute in ("src", "href"))


def written(output: Path) -> dict[str, bytes]:
    """What the stage made, without markers and claims: those say who made it, and in what time."""
    markers = ("STARTED.json", "COMMITTED.json")
    return {
        path.name: path.read_bytes()
        for path in output.rglob("*.*")
        if path.name not in markers and path.parent.name not in ("objects", "claims")
    }


def several_shards(folder: Path) -> DihtRun:
    for number in range(3):
        write_samples(Storage(), f"{folder}/heldout/{number}.tar", pairs(24, 9000)[number::3])
    shards = [f"{folder}/heldout/{{0..2}}.tar"]
    body = json.loads(document(folder).model_dump_json(by_alias=True, exclude_defaults=True))
    for benchmark in body["spec"]["evaluate"]["benchmarks"]:
        benchmark["shards"] = shards
    return DihtRun.model_validate(body)


def test_stage_when_a_worker_is_lost_ends_in_the_same_bytes_each_shard_encoded_once(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, output, encoded = several_shards(fresh), fresh / "out" / "runs/latest/evaluate", list[str]()
    original = encoding.encode_shard
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)

    def counted(storage: Storage, uri: str, *rest: Any, **check: Any) -> Any:
        found = original(storage, uri, *rest, **check)
        encoded.append(Path(uri).name)
        return found

    def dies_at_the_second(storage: Storage, uri: str, *rest: Any, **check: Any) -> Any:
        if encoded:
            raise RuntimeError("killed")
        return counted(storage, uri, *rest, **check)

    monkeypatch.setattr(encoding, "encode_shard", counted)
    evaluate(run)
    alone = written(output)
    assert len(encoded) == 3  # two benchmarks of the same shards
    shutil.rmtree(output.resolve())
    encoded.clear()
    monkeypatch.setattr(encoding, "encode_shard", dies_at_the_second)
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(run, worker=0, workers=2)
    assert encoded == ["0.tar"]
    monkeypatch.setattr(encoding, "encode_shard", counted)
    assert evaluate(run, worker=1, workers=2) is not None
    shutil.rmtree(output / "claims")  # of the end, which keeps the others off it
    assert written(output) == alone
    assert encoded == ["0.tar", "1.tar", "2.tar"]


def test_features_when_damaged_or_of_another_model_are_made_again(fresh: Path) -> None:
    evaluate(document(fresh, {"fewShot": None}))
    file = fresh / "out" / "runs/latest/evaluate" / "features" / "00000.safetensors"
    whole, found = file.read_bytes(), read_encoded(Storage(), str(file), "another model")
    assert found is None
    for damaged in (False, True):
        file.write_bytes(whole[:-5] if damaged else whole)
        (fresh / "out" / "runs/latest/evaluate" / "COMMITTED.json").unlink()
        committed = evaluate(document(fresh, {"fewShot": None}))
        assert committed is not None
        assert ("samples_per_second" in committed.summary) is damaged, "of what this attempt has encoded"
        assert file.read_bytes() == whole


def questions(folder: Path) -> dict[str, Any]:
    """A benchmark of questions about colours, with candidates of their own, from a list, and such as count for
    nothing.
    """
    samples: list[tuple[str, dict[str, bytes]]] = []
    for row, colour in enumerate(COLOURS * 2):
        asked: list[Any] = [{"question": f"what colour is shape {row}?", "answers": [colour] * 7 + ["grey"] * 3}]
        if row % 2:
            asked.append({"question": "is it round?", "answer": "yes", "candidates": ["yes", "no"]})
        meta = {"uid": f"q{row}", "questions": [*asked, {"question": "unanswered?"}, "junk"]}
        samples.append((f"{row}", {"png": draw(colour, "disc", row), "json": json.dumps(meta).encode()}))
    samples.append(("x", {"png": draw("red", "disc", 77), "txt": b"no question"}))
    write_samples(Storage(), f"{folder}/heldout/q.tar", samples)
    return {
        "name": "questions",
        "type": "AnswerRanking",
        "shards": [f"{folder}/heldout/q.tar"],
        "classNames": f"{folder}/heldout/names.txt",
        "templates": ["question: {question} answer: {answer}", "{}"],
    }


def test_answers_when_ranked_equal_open_clip_question_by_question(fresh: Path) -> None:
    benchmark = questions(fresh)
    evaluate(document(fresh, {"benchmarks": [benchmark], "fewShot": None}))
    (found,) = report(fresh)["benchmarks"]
    assert (found["pictures"], found["questions"], found["without_question"]) == (12, 18, 1)
    assert found["unusable_questions"] == 12
    assert found["templates"][1] == "{question} {answer}"
    # twelve questions over six colours, one of them said by seven of ten; six over yes and no
    assert found["chance"] == pytest.approx((12 / 6 + 6 / 2) / 18)
    assert 0 <= found["accuracy_interval"][0] <= found["accuracy"] <= found["accuracy_interval"][1] <= 1
    assert found["accuracy"] == pytest.approx(by_hand(fresh, benchmark), abs=1e-9)
    assert "Answer ranking" in page(fresh)


def by_hand(folder: Path, benchmark: dict[str, Any]) -> float:
    """The same, one image and one question at a time, with open_clip's own calls."""
    loaded, worths = load_model(f"{folder}/out/runs/latest/train/model"), list[float]()
    for row, colour in enumerate(COLOURS * 2):
        image = encode_images(loaded, [decode(draw(colour, "disc", row))])[0]
        asked = [(f"what colour is shape {row}?", COLOURS, colour)]
        asked += [("is it round?", ["yes", "no"], "yes")] if row % 2 else []
        for text, options, right in asked:
            prompts = [[f"question: {text} answer: {option}", f"{text} {option}"] for option in options]
            features = [encode_texts(loaded, pair).mean(axis=0) for pair in prompts]
            named = options[int(np.argmax([image @ f / np.linalg.norm(f) for f in features]))]
            worths.append(float(named == right))
    return sum(worths) / len(worths)


FAILURES = {
    "class above the names": "class 5, but there are 3 class names",
    "no class": "no image has a class",
    "class no number": "must hold a number",
    "unreadable": "no image can be used (picture_unreadable 2)",
    "template without place": "has no {} for the text",
    "no shards": "no shard matches",
    "no class names": "missing.txt: it does not exist",
    "empty shard": "holds no samples",
    "captions without images": "no image can be used (picture_missing 2)",
    "no question": "no image has a question",
    "no candidates": "no two answers to choose from",
}


def failing(folder: Path, change: str, number: int) -> dict[str, Any]:
    """A benchmark that fails in this way."""
    (folder / "three.txt").write_text("a\nb\nc\n")
    shard = f"{folder}/failing/{number}.tar"
    part: dict[str, Any] = {"name": change.replace(" ", "-"), "type": "Classification", "shards": [shard]}
    part |= {"classNames": f"{folder}/heldout/names.txt", "templates": ["a {c}"]}
    samples = pairs(24, 9000)
    if change in ("no question", "no candidates"):
        samples = pairs(4, 9000, **({"question": "what?", "answer": "a disc"} if change == "no candidates" else {}))
        part = {key: value for key, value in part.items() if key != "classNames"}
        part |= {"type": "AnswerRanking", "templates": ["{}"]}
    elif change in ("no class", "class no number", "unreadable", "captions without images"):
        image = {"png": b"no image" if change == "unreadable" else draw("red", "disc", 1)}
        cls = {"no class": {}, "class no number": {"cls": b"red"}}.get(change, {"cls": b"0"})
        members = {**({} if change == "captions without images" else image), "txt": b"a disc", **cls}
        samples = [(f"{i}", members) for i in range(2)]
    changes: dict[str, dict[str, Any]] = {
        "class above the names": {"classNames": f"{folder}/three.txt"},
        "no class names": {"classNames": f"{folder}/missing.txt"},
        "no shards": {"shards": [f"{folder}/no-such-*.tar"]},
        "template without place": {"templates": ["a photo"]},
    }
    write_samples(Storage(), shard, [] if change == "empty shard" else samples)
    return part | changes.get(change, {})


def test_stage_when_one_benchmark_fails_keeps_the_others_and_says_which(fresh: Path) -> None:
    whole = {"name": "whole", "type": "Retrieval", "shards": [f"{fresh}/heldout/0.tar"]}
    broken = [failing(fresh, change, number) for number, change in enumerate(FAILURES)]
    with pytest.raises((DataError, UserError), match=f"{len(FAILURES)} of {len(FAILURES) + 1} benchmarks failed"):
        evaluate(document(fresh, {"benchmarks": [whole, *broken], "fewShot": None}))
    first, *others = results(fresh)["benchmarks"]
    assert "recall" in first["text_to_image"]
    for said, found in zip(FAILURES.values(), others, strict=True):
        assert said in found["error"]
    assert "has no result" in (fresh / "out/runs/latest/evaluate/report.html").read_text()
    assert not (fresh / "out" / "runs/latest/evaluate" / "COMMITTED.json").exists()


def test_benchmark_when_images_have_several_captions_or_cannot_be_read_counts_them(fresh: Path) -> None:
    good = {"png": draw("red", "disc", 1), "txt": b"a red disc\n\nsomething round\n", "cls": b"0"}
    listed = {"png": draw("blue", "bar", 2), "json": json.dumps({"captions": ["a bar", "blue"], "cls": 2}).encode()}
    heldout(fresh, ("0", good), ("1", listed), ("2", {"png": b"", "txt": b"x"}), ("3", {"png": b"junk", "txt": b"x"}))
    evaluate(document(fresh, {"fewShot": None}))
    retrieval, classification = report(fresh)["benchmarks"]
    assert (retrieval["pictures"], retrieval["captions"]) == (2, 4)
    assert retrieval["bad"] == {"picture_empty": 1, "picture_unreadable": 1}
    assert classification["class_pictures"] == [1, 0, 1, 0, 0, 0]
    assert 'Most common class</th><td class="num">50.0' in page(fresh), "of the classes that have images"


def test_images_without_captions_leave_a_gallery_counted_by_reason_and_stay_in_a_classification(fresh: Path) -> None:
    def image(number: int, **rest: bytes) -> tuple[str, dict[str, bytes]]:
        return str(number), {"png": draw("red", "disc", number), "cls": b"0", **rest}

    blank = json.dumps({"captions": [" ", 7], "cls": 0}).encode()
    latin = "une poupée".encode("latin-1")
    named = [image(number, txt=b"a red disc") for number in range(2)]
    heldout(fresh, *named, image(2, txt=b" \n"), image(3, txt=b""), image(4), image(5, json=blank), image(6, txt=latin))
    evaluate(document(fresh, {"fewShot": None}))
    retrieval, classification = report(fresh)["benchmarks"]
    assert (retrieval["pictures"], retrieval["without_caption"]) == (2, 5)
    assert retrieval["no_caption"] == {
        "caption_empty": 2,
        "caption_missing": 1,
        "caption_no_text": 1,
        "caption_not_utf8": 1,
    }
    assert (classification["pictures"], classification["without_class"]) == (7, 0)
    assert (
        "pairs: 5 of 7 images have no caption and do not count "
        "(caption_empty 2, caption_missing 1, caption_no_text 1, caption_not_utf8 1)." in page(fresh)
    )


def test_benchmark_when_a_shard_is_damaged_is_used_up_to_the_damage_within_the_limit(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fresh / "heldout" / "0.tar"
    content = path.read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])
    with pytest.raises(DataError, match=r"0\.tar is damaged after .* raise spec\.data\.maxBadShards \(0;"):
        evaluate(document(fresh, {"fewShot": None}))
    committed = evaluate(tolerating(document(fresh, {"fewShot": None}), "100%"))
    assert committed is not None
    (shard,) = committed.summary["damaged_shards"]
    retrieval = report(fresh)["benchmarks"][0]
    assert 0 < retrieval["pictures"] + sum(retrieval["bad"].values()) == shard["salvaged"] < 24
    assert "1 damaged shards were used up to the damage" in page(fresh)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"diht":"progress"')]
    assert [line for line in lines if line["step"] == "images"][-1]["metrics"]["bad_shards"] == 1


def test_stage_when_training_is_not_committed_says_what_to_run(tmp_path: Path) -> None:
    make_data(tmp_path)
    with pytest.raises(UserError, match="run the stage filter first"):
        evaluate(document(tmp_path))
