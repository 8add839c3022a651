"""Each figure on the first pages is that of the recorded run, or of the benchmark behind its link."""

from __future__ import annotations

import json

import pytest

from tools.recorded_run import ALONE, PHRASES, RECORD, ROOT, problems

FOUND = json.loads((ROOT / RECORD).read_text())
BENCHMARKS = '# B\n| <a id="peers"></a>`peers` | 0.74 | 1,000 |\n| `peers --jobs 9` | 0.5 |\n'


def pages(**more: str) -> dict[str, str]:
    """Pages that say what the record says, and more."""
    said = {
        page: "\n".join(f"So it is: {phrase.format(**FOUND)}." for phrase in phrases)
        for page, phrases in PHRASES.items()
    }
    return {**dict.fromkeys(ALONE, ""), **said, "benchmarks/README.md": BENCHMARKS, **more}


@pytest.mark.parametrize(
    "more",
    [
        "",
        "arXiv 2301.02280, Python 3.11, ZeRO 0 to 3",
        "ViT-B/32, U-2",
        "`--seeds 99`",
        "```\ndiht run --set a=99\n```",
        "| [0.74 of it](benchmarks/README.md#peers) | [1,000](../benchmarks/README.md#peers) |",
    ],
)
def test_page_that_says_what_was_recorded_is_right(more: str) -> None:
    said = pages()
    assert [*problems(FOUND, {**said, "README.md": f"{said['README.md']}\n{more}"})] == []


@pytest.mark.parametrize(
    ("page", "number"), [(page, number) for page, phrases in PHRASES.items() for number in range(len(phrases))]
)
def test_figure_that_is_another_is_found(page: str, number: int) -> None:
    said = pages()
    right = PHRASES[page][number].format(**FOUND)
    digit = next(place for place, each in enumerate(right) if each.isdigit())
    wrong = f"{right[:digit]}{(int(right[digit]) + 1) % 10}{right[digit + 1 :]}"
    found = [*problems(FOUND, {**said, page: said[page].replace(right, wrong)})]
    assert f"{page}: the recorded run says {right!r}" in found


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("It finds 44 % of them.", "nobody says where 44 is from"),
        ("It takes 1,234 seconds", "nobody says where 1,234 is from"),
        ("| faster | 2.5 x |", "nobody says where 2.5 is from"),
        ("[0.75](benchmarks/README.md#peers)", "0.75 is not in benchmarks/README.md#peers"),
        ("[0.5](benchmarks/README.md#peers)", "0.5 is not in benchmarks/README.md#peers"),
        ("0.74, as [measured](benchmarks/README.md#peers)", "nobody says where 0.74 is from"),
        ("[0.74](docs/status.md)", "nobody says where 0.74 is from"),
    ],
)
@pytest.mark.parametrize("page", ALONE)
def test_number_without_a_source_is_found(page: str, more: str, says: str) -> None:
    said = pages()
    assert [*problems(FOUND, {**said, page: f"{said[page]}\n{more}"})] == [f"{page}: {says}"]
