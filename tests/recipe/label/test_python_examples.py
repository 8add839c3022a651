"""The Python examples of the reference and of the tutorial run as they stand, on a run's output and images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

import diht_k8s
from diht_k8s.api.documents import dump
from tests.recipe.evaluate.small_run import export_model
from tests.recipe.label.conftest import Make, label

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE, TUTORIAL = DOCS / "reference/python.md", DOCS / "tutorial/own-images.md"
EXAMPLES, (SEARCH,) = (
    re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL) for page in (PAGE, TUTORIAL)
)
PRINTED = {
    "hn_nce_loss": r"\A\Z",
    "CaptionParser": r"\['dog', 'ball', 'park'\] 4 1\n",
    "TextSpotter": r"\['sale'\]\n",
    "load_model": r"tensor\(\[\[-?\d",
    "open_pairs": r"\S+ .+ \[",
}
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def used(example: str) -> str:
    return next(name for name in diht_k8s.__all__ if f"import {name}" in example)


def test_each_public_name_has_an_example() -> None:
    assert sorted(map(used, EXAMPLES)) == sorted(diht_k8s.__all__)


@pytest.mark.parametrize("example", EXAMPLES, ids=used)
def test_example_runs_and_prints_what_it_should(
    example: str, make_kept: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (320, 160), "white")
    ImageDraw.Draw(picture).text((40, 40), "sale", "black", ImageFont.load_default(72))
    picture.save("photo.png")
    if "load_model" in example:
        export_model(tmp_path / "runs/photos/runs/latest/train/model")
    if "open_pairs" in example:
        run = make_kept(shards=1, pairs=20).write().run()
        label(run)
        Path("run.yaml").write_text(dump(run))
    capsys.readouterr()
    exec(compile(example, str(PAGE), "exec"), {})
    assert re.match(PRINTED[used(example)], capsys.readouterr().out)


def test_search_of_the_tutorial_gives_each_image_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cat.jpg", "white"), ("boat.jpg", "red")):
        Image.new("RGB", (64, 48), colour).save(name)
    export_model(tmp_path / "runs/photos/runs/latest/train/model")
    capsys.readouterr()
    exec(compile(SEARCH, str(TUTORIAL), "exec"), {})
    assert re.match(r"tensor\(\[-?\d\S+, +-?\d\S+\]\)\n\Z", capsys.readouterr().out)
