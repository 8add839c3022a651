"""The worth of an answer, and figures of answer ranking."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from diht_k8s.stages.evaluate.answer_ranking import answer_ranking, answer_score, rank_answers, texts_of
from diht_k8s.stages.evaluate.benchmark_images import VisualQuestion
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.scores import rate_interval
from tests.unit.stages.evaluate.stubs import image, one_hot


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("red", ["red"], 1.0),
        ("red", ["blue"], 0.0),
        ("red", ["Red. ", "blue"], 1.0),
        ("3.5", ["3.5."], 1.0),
        ("35", ["3.5"], 0.0),
        ("yes", ["Yes ."], 1.0),
    ],
)
def test_worth_when_fewer_than_four_people_answer_is_whether_one_says_it_but_for_case_and_a_final_stop(
    answer: str, answers: list[str], expected: float
) -> None:
    assert answer_score(answer, answers) == expected


def test_worth_when_ten_people_answer_is_the_mean_over_all_nines() -> None:
    for said in range(11):
        answers = ["a"] * said + ["b"] * (10 - said)
        nines = [min(1.0, nine.count("a") / 3) for nine in itertools.combinations(answers, 9)]
        assert answer_score("a", answers) == pytest.approx(np.mean(nines))


def test_ranking_when_scores_tie_names_the_first_and_counts_a_draw_among_them() -> None:
    questions = [VisualQuestion("?", ("b",)), VisualQuestion("?", ("a",)), VisualQuestion("?", ("b",))]
    found = answer_ranking(
        questions,
        np.array([0, 0, 1]),
        [["a", "b"]] * 3,
        [np.array(s) for s in ([1, 1], [2, 1], [0, 1])],
        np.random.default_rng(0),
    )
    assert found.named == ["a", "a", "b"]
    assert found.score_Q.tolist() == [0.5, 1, 1]
    assert found.accuracy == pytest.approx(2.5 / 3)
    assert (found.chance, found.majority) == (pytest.approx(0.5), pytest.approx(2 / 3))
    assert found.interval.low <= found.accuracy <= found.interval.high


def test_each_question_is_answered_from_its_own_texts_and_mistakes_are_answers_that_nobody_gave() -> None:
    known = {text: row for row, text in enumerate(("1 red", "1 blue", "2 red", "2 blue"))}
    people = ("red",) * 1 + ("blue",) * 9
    items = [image(row, questions=(VisualQuestion(str(row), people, ("red", "blue")),)) for row in (1, 2)]
    images = EncodedImages(items, np.eye(4, dtype=np.float32)[[0, 3]])
    found = rank_answers(images, [], ["{question} {answer}"], one_hot(known.__getitem__, 4), [0])
    assert found.per_image.figures["accuracy"][0].tolist() == pytest.approx([0.3, 1.0])
    assert found.figures["mistakes"] == []


@pytest.mark.parametrize("layout", ["one image each", "a copy of the image for each question"])
def test_questions_about_one_image_are_resampled_together_whichever_way_they_are_stored(layout: str) -> None:
    asked = [[VisualQuestion(f"{row} {n}", ("red",), ("red", "blue")) for n in range(5)] for row in range(20)]
    items = [image(row, questions=tuple(each), digest=f"{row}") for row, each in enumerate(asked)]
    if layout != "one image each":
        items = [
            replace(item, uid=f"{item.uid}-{n}", questions=(each,))
            for item in items
            for n, each in enumerate(item.questions)
        ]
    items.insert(0, image(20, digest="3"))
    images = EncodedImages(items, np.eye(2, dtype=np.float32)[[int(item.digest) % 2 for item in items]])
    encode = one_hot(lambda text: int("blue" in text), 2)
    found = rank_answers(images, [], ["{question} {answer}"], encode, [0])
    figures = found.figures
    hits, weights = found.per_image.figures["accuracy"]
    assert (hits.tolist(), weights.tolist()) == ([5.0, 0.0] * 10, [5.0] * 20)
    assert (figures["accuracy"], figures["pictures"], figures["questions"]) == (0.5, 20, 100)
    assert (figures["copies"], figures["without_question"]) == (len(items) - 21, 1)
    assert figures["accuracy_interval"] == list(rate_interval(hits, weights, np.random.default_rng([0])))


def test_texts_when_question_holds_a_place_of_its_own_leaves_it() -> None:
    question = VisualQuestion("what is {answer}?", ("x",))
    assert texts_of(question, ["cat"], ["Q: {question} A: {answer}"]) == ["Q: what is {answer}? A: cat"]


def test_questions_that_cannot_be_used_are_counted() -> None:
    asked = (VisualQuestion("?", ("red",), ("red", "blue")),)
    items = [image(row, questions=asked * (row > 0), unusable_questions=row % 2 + 1) for row in range(3)]
    encode = one_hot(lambda text: int(text == "blue"), 2)
    figures = rank_answers(
        EncodedImages(items, np.eye(2, dtype=np.float32)[[0, 1, 0]]), [], ["{answer}"], encode, [0]
    ).figures
    assert (figures["questions"], figures["unusable_questions"]) == (2, 4)
    assert [note.partition(" question")[0] for note in figures["notes"]] == ["4"]


@pytest.mark.parametrize(("alike", "said"), [(0, []), (1, ["for 1 of 3 questions"]), (3, ["for 3 of 3 questions"])])
def test_questions_when_all_their_candidates_look_alike_are_counted(alike: int, said: list[str]) -> None:
    items = [image(row, questions=(VisualQuestion(f"{row}", ("red",), ("red", "blue")),)) for row in range(3)]
    encode = one_hot(lambda text: int("blue" in text and int(text[0]) >= alike), 2)
    images = EncodedImages(items, np.eye(2, dtype=np.float32)[[0, 1, 0]])
    notes = rank_answers(images, [], ["{question} {answer}"], encode, [0]).figures["notes"]
    assert [note.partition(" the model")[0] for note in notes] == said
