"""What will fail is said before a run starts, and its advice works when it is followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.cli.stage_folders import stage_folders
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.inspection.run_checks import check_run
from diht_k8s.stages.filter import CaptionParser
from tests.recipe.imports.loose_pairs import drawn, jpeg
from tests.recipe.inspection.data import diht


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [(f"k{n}", {"jpg": jpeg(n), "txt": drawn(n)[1].encode()}) for n in range(60)]
    write_samples(Storage(), "web/0.tar", pairs)


def document(**train: Any) -> dict[str, Any]:
    spec = {
        "data": {"sources": [{"name": "web", "shards": ["web/*.tar"]}], "output": "out"},
        "filter": {},
        "label": {"topK": 2, "vocabulary": {"minCount": 2}},
        "train": {"model": "ViT-B-32", "samples": 640, "batchSize": 16, **train},
    }
    return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}, "spec": spec}


def with_label(label: dict[str, Any]) -> dict[str, Any]:
    made = document()
    made["spec"]["label"] = label
    return made


def without_stages(*names: str) -> dict[str, Any]:
    made = document(batchSize=128, distillation={"mode": "Disabled"})
    for name in names:
        del made["spec"][name]
    return made


FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "the default topK": (
        with_label({"vocabulary": {"minCount": 2}}),
        "spec.label.topK: 10 is more than the classes of",
    ),
    "the default minCount": (with_label({"vocabulary": {"minCount": 40}, "topK": 4}), "at minCount 40"),
    "the default batch": (
        document(batchSize=32768, samples=65536),
        "32768 is more than the 5[0-9] pairs whose captions pass",
    ),
    "more processes than half of the pairs": (
        document(batchSize=128, processesPerNode=40),
        "write train.batchSize: 40",
    ),
    "a batch without a filter": (without_stages("filter", "label"), "128 is more than the 60 pairs of its shards"),
    "fewer samples than a batch": (document(samples=10), "spec.train.samples: 10 are fewer than one batch of 16"),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_will_fail_is_said_at_once_and_its_advice_works(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    made, said = FAILING[case]
    Path("run.yaml").write_text(yaml.safe_dump(made))
    code, _, problem = diht(capsys, "diht validate run.yaml")
    assert code == UserError.exit_code
    assert re.search(said, problem)
    assert re.match(r"run.yaml: line \d+: spec\.", problem)
    with pytest.raises(UserError, match=said):
        stage_folders(load(Path("run.yaml").read_text(), name="run.yaml"))
    assert not Path("out").exists()
    advised = re.findall(r"([a-zA-Z.]+): (\d+)", problem.partition("write ")[2])
    assert advised
    overrides = " ".join(f"--set {field}={value}" for field, value in advised)
    assert diht(capsys, f"diht validate run.yaml {overrides}")[0] == 0


def test_a_run_that_fits_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(document()))
    assert diht(capsys, "diht validate run.yaml")[0] == 0


def test_shards_on_s3_are_not_listed_again_since_none_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    listings = list[Any]()
    monkeypatch.setattr(Storage, "list_sources", lambda self, groups: listings.append(groups) or [[] for _ in groups])
    for pattern, count in (("s3://corpus/{000000..099999}.tar", 0), ("web/*.tar", 1)):
        made = document(samples=10)
        made["spec"]["data"]["sources"][0]["shards"] = [pattern]
        run = load(yaml.safe_dump(made), name="run")
        (found,) = check_run(run, Storage(), CaptionParser)
        assert "fewer than one batch" in found.message
        assert len(listings) == count
