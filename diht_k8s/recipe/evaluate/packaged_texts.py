"""Class names and templates that an installed package ships: open_clip for ImageNet, clip-benchmark for many sets.

clip-benchmark is no dependency of this project: its files are read where it is installed, and its code does not run.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from diht_k8s.recipe.evaluate.folder_names import plain_name

IMAGENET: Final = ("imagenet1k", "imagenet-1k", "imagenet", "imagenetv2", "imagenet_sketch")
"""Benchmarks of ImageNet's 1,000 classes in their order."""
TWO_ORDERS: Final = ("caltech101",)
"""Sets whose classes clip-benchmark numbers in two ways: names by the benchmark's name alone could be the wrong ones."""
OPEN_CLIP: Final = "open_clip"
CLIP_BENCHMARK: Final = "clip-benchmark"


def is_imagenet(name: str) -> bool:
    """Whether a benchmark has ImageNet's 1,000 classes by its name: it then needs no names beside its shards."""
    return plain_name(name.lower()) in IMAGENET


def packaged_names(name: str) -> tuple[list[str], str] | None:
    """The class names of a benchmark and the package that ships them; None if none does."""
    if is_imagenet(name):
        import open_clip

        return list(open_clip.IMAGENET_CLASSNAMES), OPEN_CLIP
    found = None if plain_name(name) in TWO_ORDERS else _of_clip_benchmark("en_classnames.json", name)
    return None if found is None else (found, CLIP_BENCHMARK)


def packaged_templates(name: str) -> tuple[list[str], str] | None:
    """The templates of a benchmark and the package that ships them; None if none does."""
    if is_imagenet(name):
        import open_clip

        return [make("{c}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES], OPEN_CLIP
    found = _of_clip_benchmark("en_zeroshot_classification_templates.json", name)
    return None if found is None else (found, CLIP_BENCHMARK)


def _of_clip_benchmark(file: str, name: str) -> list[str] | None:
    """The entry of a set in one of the package's files."""
    found = _read(file).get(plain_name(name))
    return found if isinstance(found, list) and all(isinstance(line, str) for line in found) else None


@cache
def _read(file: str) -> dict[str, Any]:
    spec = importlib.util.find_spec("clip_benchmark")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "datasets" / file
        if path.is_file():
            found = json.loads(path.read_text())
            return found if isinstance(found, dict) else {}
    return {}
