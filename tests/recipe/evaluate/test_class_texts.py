"""Names and templates that lie beside the shards are used, and the report says where each came from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.evaluate import Benchmark
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.class_texts import CLASS_NAMES, TEMPLATES, class_names, templates_of


def benchmark(folder: Path, name: str = "pets", **fields: object) -> Benchmark:
    return Benchmark.model_validate(
        {"name": name, "type": "Classification", "shards": [f"{folder}/test/0.tar"], **fields}
    )


@pytest.mark.parametrize("beside", [".", "test"])
def test_texts_when_they_lie_beside_the_shards_are_used(tmp_path: Path, beside: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / beside / CLASS_NAMES).write_text("cat\ndog\n")
    (tmp_path / beside / TEMPLATES).write_text("a photo of a {c}.\na {c}\n")
    names, templates = class_names(Storage(), benchmark(tmp_path)), templates_of(Storage(), benchmark(tmp_path))
    assert (names.lines, templates.lines) == (["cat", "dog"], ["a photo of a {c}.", "a {c}"])
    assert names.source.endswith(CLASS_NAMES)
    assert templates.source.endswith(TEMPLATES)


def test_texts_when_a_file_begins_with_a_byte_order_mark_are_without_it(tmp_path: Path) -> None:
    for name, content in ((CLASS_NAMES, "cat\r\ndog\r\n"), (TEMPLATES, "{c}\r\na {c}\r\n")):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
    names, templates = (read(Storage(), benchmark(tmp_path)).lines for read in (class_names, templates_of))
    assert (names, templates) == (["cat", "dog"], ["{c}", "a {c}"])


def test_texts_when_given_win_over_those_beside_the_shards(tmp_path: Path) -> None:
    (tmp_path / CLASS_NAMES).write_text("cat\ndog\n")
    (tmp_path / TEMPLATES).write_text("a photo of a {c}.\n")
    (tmp_path / "mine.txt").write_text("Katze\nHund\n")
    given = benchmark(tmp_path, classNames=f"{tmp_path}/mine.txt", templates=["{}"])
    assert class_names(Storage(), given).lines == ["Katze", "Hund"]
    assert templates_of(Storage(), given).lines == ["{}"]


def test_texts_when_there_are_none_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pets: no class names; set classNames .* or put classnames\.txt beside"):
        class_names(Storage(), benchmark(tmp_path))
    assert templates_of(Storage(), benchmark(tmp_path)).lines == ["{}"]


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("AnswerRanking", [], ["{question} {answer}"]),
        ("AnswerRanking", ["{}", "is it {answer}?"], ["{question} {answer}", "is it {answer}?"]),
        ("Association", [], ["{A} {}"]),
        ("Association", ["a photo of {}"], ["a photo of {}"]),
        ("Retrieval", [], ["{}"]),
        ("Retrieval", ["a {c}", "the {}"], ["a {c}", "the {}"]),
        ("PairMatching", ["{A} {c}"], ["{A} {c}"]),
        ("CaptionChoice", ["{A} {}, {other}"], ["{A} {}, {other}"]),
    ],
)
def test_templates_when_benchmarks_are_of_other_types_are_theirs(
    tmp_path: Path, kind: str, given: list[str], expected: list[str]
) -> None:
    made = Benchmark.model_validate(
        {"name": "b", "type": kind, "shards": [f"{tmp_path}/0.tar"], **({"templates": given} if given else {})}
    )
    assert templates_of(Storage(), made).lines == expected


@pytest.mark.parametrize(
    ("kind", "template", "message"),
    [
        ("AnswerRanking", "a photo", "template 'a photo' has no {answer}"),
        ("Retrieval", "a photo", "template 'a photo' has no {} for the"),
        (
            "Classification",
            "{A} {}",
            "b: template '{A} {}' has {A}, which Classification does not fill: write {} or {c}",
        ),
        ("MultiLabel", "{c} {question}", "has {question}, which MultiLabel does not fill: write {} or {c}"),
        ("Retrieval", "{answer} {}", "has {answer}, which Retrieval does not fill: write {} or {c}"),
        ("Association", "{question} {}", "has {question}, which Association does not fill: write {} or {c} or {A}"),
        ("AnswerRanking", "{} {answer}", "has {}, which AnswerRanking does not fill: write {question} or {answer}"),
        ("AnswerRanking", "{A} {answer}", "has {A}, which AnswerRanking does not fill"),
        ("PairMatching", "{c} or {}", "template '{c} or {}' has {} and {c}: keep one"),
    ],
)
def test_template_when_its_places_are_not_those_of_the_type_is_refused(
    tmp_path: Path, kind: str, template: str, message: str
) -> None:
    made = Benchmark.model_validate(
        {
            "name": "b",
            "type": kind,
            "shards": [f"{tmp_path}/0.tar"],
            "classNames": "names.txt",
            "templates": [template],
        }
    )
    with pytest.raises(UserError, match=re.escape(message)):
        templates_of(Storage(), made)


@pytest.mark.parametrize("lines", ["one\n", "one\n\nthree\n", ""])
def test_class_names_when_they_are_too_few_or_a_line_is_empty_are_refused(tmp_path: Path, lines: str) -> None:
    (tmp_path / CLASS_NAMES).write_text(lines)
    with pytest.raises(UserError, match="needs one class name a line, two or more, none empty"):
        class_names(Storage(), benchmark(tmp_path))
