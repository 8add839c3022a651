"""`diht concepts`: what it shows of a vocabulary, and what it says where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.label import Vocabulary as Cuts
from diht_k8s.api.run import Stage
from diht_k8s.cli.main import main
from diht_k8s.stages.label.caption_concepts import KeptCaptions
from diht_k8s.stages.label.vocabulary import ConceptCounts, freeze
from tests.folders import planted

RUN = """\
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {{name: small}}
spec:
  data: {{sources: [{{name: web, shards: ["a.tar"]}}], output: {output}}}
  filter: {{}}
  label: {{}}
"""


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    names = [[f"thing{number:02}" for number in range(45) if row <= number] for row in range(45)]
    captions = KeptCaptions([str(row) for row in range(45)], [[*row, "image"] for row in names], [["red"]] * 45)
    counts = ConceptCounts()
    counts.add(captions)
    run = load(RUN.format(output=tmp_path / "out"), name="run.yaml")
    path = Path(planted(run, Stage.LABEL).vocabulary)
    path.parent.mkdir(parents=True)
    header = {"schema_version": SCHEMA_VERSION, "config_sha256": "c", "inputs": {}}
    path.write_text(json.dumps(freeze(counts, Cuts(min_count=5, max_objects=38)).document(header)))
    return path


def test_concepts_of_a_run_when_labelled_then_shows_commonest_rarest_and_cuts_with_their_reasons(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(RUN.format(output=tmp_path / "out"))
    assert main(["concepts", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "45 captions" in shown
    assert "objects: 38 classes of 46 distinct names" in shown
    assert "commonest\n    thing44 45, thing43 44," in shown
    assert "rarest kept\n    thing07 8, thing08 9," in shown
    assert "stop list): 1\n    image 45" in shown
    assert "in fewer than 5 captions (minCount, minFraction): 4\n    thing03 4" in shown
    assert "beyond the cap (maxObjects, maxAttributes): 3\n    thing06 7" in shown
    assert "attributes: 1 classes of 1 distinct names\n  commonest\n    red 45" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_concepts_of_a_file_when_it_is_a_vocabulary_then_shows_the_same(
    vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["concepts", str(vocabulary)]) == 0
    assert "objects: 38 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        pytest.param("remove", 64, "run the stage label of this run first", id="not-labelled"),
        pytest.param("garble", 64, "is not JSON", id="not-json"),
        pytest.param("edit", 65, "was changed after it was written", id="edited"),
    ],
)
def test_concepts_when_the_vocabulary_is_missing_or_damaged_then_one_line_says_so(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, code: int, message: str
) -> None:
    if change == "remove":
        vocabulary.unlink()
    elif change == "garble":
        vocabulary.write_text("{")
    else:
        vocabulary.write_text(vocabulary.read_text().replace("thing44", "thing99"))
    run = tmp_path / "run.yaml"
    run.write_text(RUN.format(output=tmp_path / "out"))
    assert main(["concepts", str(run)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
