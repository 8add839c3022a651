"""The table of what this runs with: it is what record and pins give, each row says how, and a failed run is no row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import compatibility
from tools.compatibility import PAGE, RECORD, ROOT, Row, every_change, main, recorded, schema_only


def test_page_shows_what_is_recorded_and_pinned() -> None:
    assert main(["--check"]) == 0, "python -m tools.compatibility"


def test_every_supported_minor_of_kubernetes_has_a_row_that_says_whether_it_ran() -> None:
    rows = [*every_change(), *recorded()]
    rest = schema_only(rows)
    run = {row.version.rpartition(".")[0] for row in rows if row.what == "Kubernetes"}
    assert sorted([*run, *rest.version.split(", ")]) == [f"1.{minor}" for minor in range(31, 38)]
    assert rest.how.startswith("schema only")
    assert all(row.how.startswith("run") for row in rows)


PINNED = (
    "constraints.txt",
    "tests/cluster/kube/go.mod",
    "tests/cluster/extra",
    ".github/workflows/test.yml",
    "helm/diht-operator/Chart.yaml",
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of record, page and pins, to be changed."""
    for path in (RECORD, PAGE, *PINNED):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text())
    monkeypatch.setattr(compatibility, "ROOT", tmp_path)
    return tmp_path


def test_record_and_page_that_differ_are_found_and_written(tree: Path) -> None:
    rows = [{**Row("Kubernetes", "1.31.14", "run: so", "9 tests")._asdict(), "on": "2026-01-01"}]
    (tree / RECORD).write_text(json.dumps(rows))
    assert main(["--check"]) == 1
    compatibility.record(Row("Kubernetes", "1.31.14", "run: otherwise", "10 tests"))
    assert [row.passed for row in recorded()] == ["10 tests"]
    assert main([]) == 0 == main(["--check"])
    assert "| Kubernetes | 1.31.14 | run: otherwise | 10 tests |" in (tree / PAGE).read_text()


def test_row_of_what_is_pinned_since_is_shown_once_and_local_versions_are_recorded(tree: Path) -> None:
    pinned = next(row.version for row in every_change() if row.what == "torch")
    for version in ("99.0.0+cpu", "99.0.0rc1", pinned):
        compatibility.record(Row("torch", version, "run", "1 tests"))
    assert [row.version for row in recorded() if row.version.startswith("99.")] == ["99.0.0rc1", "99.0.0+cpu"]
    assert main([]) == 0
    assert (tree / PAGE).read_text().count(f"| torch | {pinned} |") == 1


@pytest.mark.parametrize(
    "body", ["def test_a(): assert 0\ndef test_b(): pass", "", "import pytest\n@pytest.mark.skip\ndef test_a(): pass"]
)
def test_run_in_which_a_test_fails_or_none_passes_is_no_row(tmp_path: Path, body: str) -> None:
    (tmp_path / "test_it.py").write_text(body)
    with pytest.raises(SystemExit, match="not recorded"):
        compatibility._pytest([sys.executable], str(tmp_path))
