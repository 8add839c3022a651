"""`diht schema`, `crd`, `samples` and `chart` print or write the files that the package brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.documents import check
from diht_k8s.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = sorted(path.stem for path in (ROOT / "manifests/samples").glob("*.yaml"))


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_that_is_printed_is_valid(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["samples", name]) == 0
    run, problems = check(capsys.readouterr().out)
    assert run is not None, problems
    assert run.metadata.name


@pytest.mark.parametrize(("name", "hint"), [("minmal", "did you mean minimal?"), ("xyz", "there are captions-first, ")])
def test_unknown_sample_names_the_nearest_or_all(capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
    assert main(["samples", name]) == 64
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("words", [["samples"], ["samples", "laptop.yaml"]])
def test_samples_are_written_into_a_folder(tmp_path: Path, words: list[str]) -> None:
    assert main([*words, "--output", str(tmp_path / "new")]) == 0
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == (["laptop.yaml"] if len(words) > 1 else [f"{name}.yaml" for name in SAMPLES])


def test_chart_is_written_whole_and_a_second_time_as_well(tmp_path: Path) -> None:
    for _ in range(2):
        assert main(["chart", str(tmp_path / "chart")]) == 0
    source = ROOT / "helm/diht-operator"
    files = {
        path.relative_to(source) for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path.relative_to(tmp_path / "chart") for path in (tmp_path / "chart").rglob("*") if path.is_file()} == files


def test_file_with_other_content_is_not_overwritten_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "minimal.yaml").write_text("mine\n")
    assert main(["samples", "--output", str(tmp_path)]) == 64
    assert "minimal.yaml is there with other content: remove it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["minimal.yaml"]
    assert (tmp_path / "minimal.yaml").read_text() == "mine\n"
