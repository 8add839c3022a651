"""Every benchmark has its row in benchmarks/README.md, tells its story by --help, and every row names what there is."""

from __future__ import annotations

import re

import pytest

from tests.site import ROOT

PAGE = (ROOT / "benchmarks/README.md").read_text()
FILES = {
    path.parent.name if path.name == "__main__.py" else path.stem: path
    for path in [*ROOT.glob("benchmarks/[a-z]*.py"), *ROOT.glob("benchmarks/*/__main__.py")]
    if '__name__ == "__main__"' in path.read_text()
}
BUILDERS = {"corpus"}
"""What is run as a benchmark is, and has no figures of its own."""
RUNS = [cell.split() for cell in re.findall(r"(?m)^\| (?:<a [^>]*></a>)?`([^`]+)` \|", PAGE)]


@pytest.mark.parametrize("name", sorted(FILES))
def test_benchmark_has_a_row_and_shows_its_docstring(name: str) -> None:
    assert f'make_parser("{name}", __doc__)' in FILES[name].read_text()
    assert name in BUILDERS or PAGE.count(f'<a id="{name}"></a>`{name}') == 1


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_row_names_a_command_with_options_that_there_are(run: list[str]) -> None:
    if run[0] in ("pytest", "python"):
        paths = [word.replace(".", "/") + ".py" if word.startswith(("tests.", "examples.")) else word for word in run]
        files = [path for path in paths if path.endswith(".py")]
        assert files
        assert all((ROOT / path).exists() or (ROOT / path[:-3]).is_dir() for path in files)
    else:
        source = FILES[run[0]].read_text()
        assert [word for word in run[1:] if word.startswith("--") and f'"{word}"' not in source] == []


def test_rows_are_many_and_each_anchor_is_set_once() -> None:
    anchors = re.findall(r'<a id="([^"]+)"', PAGE)
    assert len(anchors) == len(set(anchors)) > 30
    assert len(RUNS) > 40
