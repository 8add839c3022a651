"""The catalogue: every entry evaluated on a small shard of its own layout, what is present, and what may not be
averaged.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from diht_k8s.api.errors import UserError
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.catalogue import LISTS, catalogue
from diht_k8s.stages.evaluate.catalogue.discovery import benchmark_of, find_benchmark
from tests.recipe.evaluate.layouts import lay_out
from tests.recipe.evaluate.small_run import evaluate_alone, measured


@pytest.mark.parametrize("name", LISTS)
def test_entries_when_laid_out_small_are_all_evaluated(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_clip.OPENAI_IMAGENET_TEMPLATES", (lambda c: f"a photo of {c}.",))  # 80,000 texts less
    listed, storage = catalogue(name), Storage()
    for number, entry in enumerate(listed.benchmarks):
        lay_out(tmp_path / "wds", entry, prefix="wds_" if number % 2 else "")
    found = [find_benchmark(entry, f"{tmp_path}/wds", storage) for entry in listed.benchmarks]
    assert [(item.shards, item.problem) for item in found] == [(2, None)] * len(found)
    parts = [benchmark_of(item, storage).model_dump(by_alias=True, mode="json") for item in found]
    results = measured(stage := evaluate_alone(tmp_path, parts))
    assert [result["name"] for result in results] == [entry.name for entry in listed.benchmarks]
    for entry, result in zip(listed.benchmarks, results, strict=True):
        assert "error" not in result, result
        assert result["pictures"] == 6
        if entry.type == "Classification":
            assert len(result["classes"]) == entry.classes
    page = (stage / "report.html").read_text()
    assert len(page.encode()) <= 5 << 20
    assert ("Beside published figures" in page) == (name != "vtab")
    assert "No average over benchmarks is given" in page


def test_catalogue_when_counted_has_the_papers_tasks_and_says_what_is_certain() -> None:
    listed = catalogue("diht29")
    tasks = {
        kind: sum(entry.tasks for entry in listed.benchmarks if entry.type == kind)
        for kind in ("Classification", "Retrieval", "PairMatching", "AnswerRanking")
    }
    assert tasks == {"Classification": 17, "Retrieval": 8, "PairMatching": 2, "AnswerRanking": 2}
    assert sum(entry.tasks for entry in listed.benchmarks) == listed.tasks == 29
    certain = {"imagenet1k", "mscoco_captions", "flickr30k"}
    assert {entry.name for entry in listed.benchmarks if entry.verified} == certain
    assert not listed.averaged
    assert len(catalogue("datacomp38").benchmarks) == 38
    assert catalogue("datacomp38").entry("imagenet1k").guessing == 0.001


@pytest.mark.parametrize(("name", "near"), [("cifar11", "cifar10"), ("image_net1k", "imagenet1k")])
def test_entry_when_unknown_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {near}"):
        catalogue("diht29").entry(name)


def test_command_when_a_root_is_given_says_what_is_whole_and_writes_it_as_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = catalogue("diht29")
    lay_out(tmp_path, listed.entry("cifar10"))
    lay_out(tmp_path, listed.entry("mscoco_captions"), prefix="wds_")
    (lay_out(tmp_path, listed.entry("cars")) / "classnames.txt").write_text("one\ntwo\n")
    (lay_out(tmp_path, listed.entry("stl10")) / "test" / "nshards.txt").write_text("7")
    (lay_out(tmp_path, listed.entry("dtd")) / "classnames.txt").unlink()
    assert main(["benchmarks", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for part in ("has 2 names, not 196", "says 7 shards", "classnames.txt is missing", "2 of 24 sets are complete"):
        assert part in text
    assert "no average over 29 tasks is printed" in text
    assert main(["benchmarks", str(tmp_path), "--yaml"]) == 0
    first, second = yaml.safe_load(capsys.readouterr().out)["evaluate"]["benchmarks"]
    assert first["templates"] == ["a photo of {c}.", "{c}"]
    assert (second["name"], second["templates"]) == ("mscoco_captions", ["a photo of {}."])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "datacmp"], "did you mean datacomp38"),
        (["--yaml"], "needs a ROOT"),
        (["--only", "cifra10"], "did you mean cifar10"),
        (["no-such-folder", "--yaml"], "no-such-folder is not a folder"),
        ([str(Path(__file__).parent), "--yaml"], "holds no complete benchmark of diht29"),
    ],
)
def test_command_when_used_wrongly_says_what_to_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmarks", *arguments]) == 64
    assert message in capsys.readouterr().err
