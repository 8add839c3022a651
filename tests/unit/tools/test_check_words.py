"""The check of `make lint` finds each home-made phrase, each forbidden module name and each import between tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_words


def problems(path: str, text: str) -> list[str]:
    return [hit.problem for hit in check_words.phrase_hits(path, text)]


@pytest.mark.parametrize(
    "line",
    [
        "# this mends the tree",
        '"""Mended by hand."""',
        'raise ValueError("mending")',
        "x = 1  # an untold fault",
        "# we reckon with it",
        "# written anew",
        'help="at most so many"',
        "# it started by half",
        '"a passing fault"',
        '"""One look at one run."""',
        "# each look",
        '"8x is no quantity"',
        "# they are no quantities",
        'f"nobody hears from pod {name}"',
        '"placed here: x"',
        "# Two pictures",
        "def mend_tree(): ...",
        "class SoManyThings: ...",
        "def _reckonUp(): ...",
    ],
)
def test_home_made_phrase_in_prose_is_found(line: str) -> None:
    assert len(problems("diht_k8s/x.py", line + "\n")) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("diht_k8s/x.py", "mend = picture + anew  # variables"),
        ("diht_k8s/x.py", '# we recommend and amend; "many"; it looks like a look-up'),
        ("diht_k8s/x.py", 'row["pictures"] = content.picture  # `pictures` of the report'),
        ("diht_k8s/x.py", 'REASON = "picture_unreadable"'),
        ("diht_k8s/x.py", "def picture(number): ..."),
        ("diht_k8s/x.jinja", "{{ picture(example.picture) }}"),
        ("docs/x.md", "`a picture of {c}`"),
    ],
)
def test_identifiers_artefact_keys_and_other_words_pass(path: str, line: str) -> None:
    assert problems(path, line + "\n") == []


@pytest.mark.parametrize("path", ["docs/x.md", "helm/values.yaml", "Makefile"])
def test_every_line_of_other_files_counts(path: str) -> None:
    assert problems(path, "a\nmend the pictures\n") == [
        '"mend": write fix, correct, normalise',
        '"pictures": write image',
    ]


def test_hit_names_file_and_line_within_a_docstring() -> None:
    (hit,) = check_words.phrase_hits("a.py", '"""One.\n\nMend it.\n"""\n')
    assert str(hit) == 'a.py:3: "Mend": write fix, correct, normalise'


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.md", "one\nat most so\nmany\n\nso\n\nmany"),
        ("a.py", "x = 1\n    # at most so\n    # many of them\n"),
        ("a.py", '\n"""At most so\n    many.\n"""\n'),
        ("a.yaml", "a: 1\n# at most so\n# many\n"),
    ],
)
def test_phrase_that_is_broken_over_two_lines_is_found_once_at_the_first(path: str, text: str) -> None:
    assert [(hit.line, hit.problem) for hit in check_words.phrase_hits(path, text)] == [
        (2, '"so many": write N, at most N')
    ]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("diht_k8s/controller/news.py", True),
        ("diht_k8s/stages/views/page.py", True),
        ("diht_k8s/stages/filter/rules.py", False),
        ("tests/unit/test_rank.py", False),
        ("diht_k8s/stages/train/ranks.py", False),
    ],
)
def test_forbidden_module_names(path: str, found: bool) -> None:
    assert bool(check_words.module_hits([path])) is found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from tests.unit.test_x import helper", True),
        ("import tests.s3.test_reading", True),
        ("from tests.unit import test_x", True),
        ("from . import test_x", True),
        ("from .test_x import helper", True),
        ("from test_x import helper", True),
        ("from torch.testing import test_thing", False),
        ("from tests.cluster.operators import world", False),
    ],
)
def test_import_of_a_test_module(line: str, found: bool) -> None:
    assert bool(check_words.import_hits("tests/unit/test_y.py", line)) is found


def test_check_reads_scanned_files_and_skips_those_that_name_the_words(tmp_path: Path) -> None:
    texts = {"a.md": "mend", "constraints.txt": "mend", "a.png": "mend", "b.py": "from tests.test_x import y"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert [hit.path for hit in check_words.check(tmp_path, sorted(texts))] == ["a.md", "b.py"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("diht_k8s/stages/filter/captions/tree.py", "diht_k8s/stages/filter"),
        ("diht_k8s/api/run.py", "diht_k8s/api"),
        ("docs/method.md", "docs"),
        ("README.md", "README.md"),
    ],
)
def test_room_of_a_file(path: str, name: str) -> None:
    assert check_words.room(path) == name
