"""Class names and templates of installed packages: open_clip's, and clip-benchmark's where it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest

from diht_k8s.api.evaluate import Benchmark
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate.class_texts import (
    class_names,
    is_imagenet,
    packaged_names,
    packaged_templates,
    templates_of,
)
from tests.recipe.evaluate.imports import originals


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of clip-benchmark's name that would fail if it were imported."""
    folder = tmp_path / "site" / "clip_benchmark" / "datasets"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('its code must not run')")
    names = {"mnist": [f"digit {n}" for n in range(10)], "caltech101": ["x"] * 102, "pets": ["cat"], "odd": {"a": 1}}
    (folder / "en_classnames.json").write_text(json.dumps(names))
    templates = {"mnist": ['a photo of the number: "{c}".'], "pets": ["a pet, {c}."]}
    (folder / "en_zeroshot_classification_templates.json").write_text(json.dumps(templates))
    monkeypatch.syspath_prepend(tmp_path / "site")
    class_texts._read.cache_clear()
    yield
    class_texts._read.cache_clear()


def benchmark(name: str) -> Benchmark:
    return Benchmark.model_validate({"name": name, "type": "Classification", "shards": ["nowhere/test/0.tar"]})


@pytest.mark.parametrize("name", ["imagenet1k", "wds/imagenet1k", "wds_imagenetv2_test", "ImageNet", "imagenet_sketch"])
def test_imagenet_when_spelled_by_any_tool_has_open_clips_texts(name: str) -> None:
    assert is_imagenet(name)
    names, templates = packaged_names(name), packaged_templates(name)
    assert names == (list(open_clip.IMAGENET_CLASSNAMES), "open_clip")
    assert templates is not None
    assert (len(templates[0]), templates[0][0]) == (80, "a bad photo of a {c}.")


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r", "tiny_imagenet", "mnist"])
def test_imagenet_when_classes_are_others_is_not_taken_for_it(name: str) -> None:
    assert not is_imagenet(name)


@pytest.mark.usefixtures("package")
def test_texts_when_clip_benchmark_is_installed_are_its_and_its_code_does_not_run() -> None:
    found = class_names(Storage(), benchmark("wds_mnist_test"))
    assert (found.lines[3], found.source) == ("digit 3", "clip-benchmark")
    prompts = templates_of(Storage(), benchmark("mnist"))
    assert (prompts.lines, prompts.source) == (['a photo of the number: "{c}".'], "clip-benchmark")
    assert "clip_benchmark" not in sys.modules
    assert packaged_names("odd") is None
    assert packaged_names("unknown") is None


@pytest.mark.usefixtures("package")
def test_names_when_a_set_is_numbered_in_two_ways_are_not_guessed() -> None:
    assert packaged_names("caltech101") is None


@pytest.mark.usefixtures("package")
def test_import_when_a_package_has_as_many_names_as_classes_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, expected in (("mnist", "digit 4"), ("pets", "Blue Cat")):
        source = getattr(originals, name)(tmp_path / name)
        output = tmp_path / f"out-{name}"
        assert main(["benchmarks", "import", str(source), str(output), "--format", name]) == 0
        assert (output / "classnames.txt").read_text().splitlines()[4 if name == "mnist" else 2] == expected
    said = capsys.readouterr().out
    assert "class names from clip-benchmark" in said
    assert "class names from the data set" in said
    assert (tmp_path / "out-pets/zeroshot_classification_templates.txt").read_text() == "a pet, {c}.\n"
