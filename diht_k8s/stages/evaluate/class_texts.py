"""The class names and templates of a benchmark: those given, else those beside its shards, else an installed package's,
and their prompts.

clip-benchmark and DataComp put `classnames.txt` and `zeroshot_classification_templates.txt` into the folder above
`test/`; both that folder and the shards' own are looked at. open_clip ships the texts of ImageNet, clip-benchmark those
of many sets; it is no dependency of this project: its files are read where it is installed, and its code does not run.

Shapes: T texts (class names, captions, answers), P prompts, D features.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import UserError
from diht_k8s.api.evaluate import Benchmark
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.catalogue import plain_name

IMAGENET: Final = ("imagenet1k", "imagenet-1k", "imagenet", "imagenetv2", "imagenet_sketch")
"""Benchmarks of ImageNet's 1,000 classes in their order."""
TWO_ORDERS: Final = ("caltech101",)
"""Sets whose classes clip-benchmark numbers in two ways: names by the benchmark's name alone could be the wrong
ones.
"""
OPEN_CLIP: Final = "open_clip"
CLIP_BENCHMARK: Final = "clip-benchmark"


CLASS_NAMES: Final = "classnames.txt"
TEMPLATES: Final = "zeroshot_classification_templates.txt"
MAX_TEMPLATES: Final = 256
BYTE_ORDER_MARK: Final = "\ufeff"
"""Windows' editors write it at the beginning of a text file."""
OPENAI_TEMPLATES: Final = "openai80"
TEXT: Final = "{}"
CLASS: Final = "{c}"
"""Placeholders of the text; clip-benchmark writes the second."""
QUESTION: Final = "{question}"
ANSWER: Final = "{answer}"
"""Placeholders of a question and of one candidate answer (AnswerRanking)."""
ARTICLE: Final = "{A}"
"""Placeholder of `A` or `An` before the text; DataComp's prompt for the cues of WinoGAViL has one."""
PLACES: Final = (TEXT, CLASS, QUESTION, ANSWER, ARTICLE)
WITH_CLASSES: Final = ("Classification", "MultiLabel")
"""Types whose prompts are of class names."""
OF_GROUPS: Final = (TEXT, CLASS, ARTICLE)
FILLED: Final = {
    "AnswerRanking": (QUESTION, ANSWER),
    "PairMatching": OF_GROUPS,
    "CaptionChoice": OF_GROUPS,
    "Association": OF_GROUPS,
}
"""Type of a benchmark -> the placeholders that it fills, where these are not the text's alone."""
SHOWN_TWINS: Final = 5
CUE_TEMPLATE: Final = f"{ARTICLE} {{}}"


@dataclass(frozen=True)
class SourcedTexts:
    """Lines and where they come from, as the page says it."""

    lines: list[str]
    source: str


@dataclass(frozen=True)
class BenchmarkTexts:
    """The texts that a benchmark brings to a model."""

    class_names: SourcedTexts
    """of a benchmark with classes, or the answers to choose from."""
    templates: SourcedTexts


def read_texts(storage: Storage, benchmark: Benchmark) -> BenchmarkTexts:
    """Both kinds of texts.

    Raises:
        UserError: see `templates_of` and `class_names`.
    """
    templates = templates_of(storage, benchmark)
    return BenchmarkTexts(class_names(storage, benchmark), templates)


def text_files(storage: Storage, benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    """What the files hold that decide the texts, and where they are: those given and those beside the shards."""
    if benchmark.class_names is not None:
        yield "class names", benchmark.class_names
    if benchmark.type not in WITH_CLASSES:
        return
    if benchmark.class_names is None and (uri := file_beside(storage, benchmark, CLASS_NAMES)) is not None:
        yield "class names", uri
    if not benchmark.templates and (uri := file_beside(storage, benchmark, TEMPLATES)) is not None:
        yield "templates", uri


def packaged_texts(benchmark: Benchmark, files: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """What clip-benchmark brings, and the lines; open_clip's come with every installation.

    Args:
        benchmark: whose texts these are.
        files: what `text_files` has found.
    """
    if benchmark.type not in WITH_CLASSES or is_imagenet(benchmark.name):
        return
    if "class names" not in files and (names := packaged_names(benchmark.name)) is not None:
        yield "class names", names[0]
    given = bool(benchmark.templates) or "templates" in files
    if not given and (templates := packaged_templates(benchmark.name)) is not None:
        yield "templates", templates[0]


def file_beside(storage: Storage, benchmark: Benchmark, name: str) -> str | None:
    """A file in the folder of the benchmark's shards or in the one above, None if there is none."""
    folder = benchmark.shards[0].rpartition("/")[0]
    places = [place for place in (folder, folder.rpartition("/")[0]) if place]
    return next((uri for place in places if storage.exists(uri := join(place, name))), None)


def class_names(storage: Storage, benchmark: Benchmark) -> SourcedTexts:
    """Class names in the order of the indexes, or the answers to choose from; none for other benchmarks.

    Raises:
        UserError: a benchmark with classes has no names, they are fewer than two, or a line between them is empty.
    """
    uri = benchmark.class_names
    if uri is None and benchmark.type in WITH_CLASSES:
        uri = file_beside(storage, benchmark, CLASS_NAMES)
        if uri is None and (packaged := packaged_names(benchmark.name)) is not None:
            return SourcedTexts(*packaged)
        if uri is None:
            raise UserError(
                f"evaluate.benchmarks {benchmark.name}: no class names; set classNames to a text file with one class "
                f"name a line, or put {CLASS_NAMES} beside the shards"
            )
    if uri is None:
        return SourcedTexts([], "")
    names = read_lines(storage, uri)
    if len(names) < 2 or not all(names):
        raise UserError(f"{uri}: {benchmark.name} needs one class name a line, two or more, none empty")
    return SourcedTexts(names, uri)


def templates_of(storage: Storage, benchmark: Benchmark) -> SourcedTexts:
    """The templates, the name `openai80` replaced by OpenAI's 80 for ImageNet (as open_clip ships them).

    Raises:
        UserError: a template has no placeholder for the text (for AnswerRanking: for the answer), or one that the type
            of the benchmark does not fill.
    """
    found = _templates_of(storage, benchmark)
    filled = FILLED.get(benchmark.type, (TEXT, CLASS))
    for template in found.lines:
        places = [place for place in PLACES if place in template]
        if TEXT in places and CLASS in places:
            raise UserError(f"evaluate.benchmarks {benchmark.name}: template {template!r} has {{}} and {{c}}: keep one")
        if (unknown := next((place for place in places if place not in filled), None)) is not None:
            raise UserError(
                f"evaluate.benchmarks {benchmark.name}: template {template!r} has {unknown}, which "
                f"{benchmark.type} does not "
                f"fill: write {' or '.join(filled)}"
            )
    return found


def _templates_of(storage: Storage, benchmark: Benchmark) -> SourcedTexts:
    if benchmark.type == "AnswerRanking":
        return SourcedTexts(_answer_templates(benchmark), "the run document" if benchmark.templates else "the default")
    given, source = list(benchmark.templates), "the run document"
    if not given and benchmark.type in WITH_CLASSES:
        if (uri := file_beside(storage, benchmark, TEMPLATES)) is not None:
            given, source = read_templates(storage, uri), uri
        elif (packaged := packaged_templates(benchmark.name)) is not None:
            given, source = packaged
    if not given and benchmark.type == "Association":
        given, source = [CUE_TEMPLATE], "DataComp's prompt"
    elif not given:
        given, source = ["{}"], "the default"
    templates: list[str] = []
    for template in given:
        if template == OPENAI_TEMPLATES:
            import open_clip

            templates += [make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]
        elif "{}" not in template and "{c}" not in template:
            raise UserError(
                f"evaluate.benchmarks {benchmark.name}: template {template!r} has no {{}} for the text: add it"
            )
        else:
            templates.append(template)
    return SourcedTexts(templates, source)


def read_templates(storage: Storage, uri: str) -> list[str]:
    """The templates in a file, one a line."""
    return [line for line in read_lines(storage, uri) if line][:MAX_TEMPLATES]


def read_lines(storage: Storage, uri: str) -> list[str]:
    """The lines of a file without the white space around them, and without a byte-order mark."""
    return [line.strip() for line in storage.read_text(uri).removeprefix(BYTE_ORDER_MARK).rstrip().splitlines()]


def _answer_templates(benchmark: Benchmark) -> list[str]:
    templates = [f"{QUESTION} {ANSWER}" if template == "{}" else template for template in benchmark.templates]
    without = next((template for template in templates if ANSWER not in template), None)
    if without is not None:
        raise UserError(
            f"evaluate.benchmarks {benchmark.name}: template {without!r} has no {ANSWER}: write {QUESTION} and {ANSWER}"
        )
    return templates or [f"{QUESTION} {ANSWER}"]


def name_notes(names: Sequence[str]) -> list[str]:
    """Notes on class names that a zero-shot classifier makes nothing of."""
    return [note for note in (number_note(names), twins_note(names)) if note is not None]


def twins_note(names: Sequence[str]) -> str | None:
    """Which classes have one name; None where each has its own."""
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(name.casefold(), []).append(number)  # CLIP's tokenizer knows no capitals
    twins = [f"{names[n[0]]!r} ({', '.join(map(str, n))})" for n in places.values() if len(n) > 1]
    if not twins:
        return None
    more = f" and {len(twins) - SHOWN_TWINS:,} more" if len(twins) > SHOWN_TWINS else ""
    return (
        f"classes of one name cannot be told apart (of several the lowest number is named): "
        f"{', '.join(twins[:SHOWN_TWINS])}{more}: "
        "name them apart, unless you compare with figures of these names"
    )


def number_note(names: Sequence[str]) -> str | None:
    """What a zero-shot classifier makes of class names that are numbers; None where there are none."""
    numbers = [name for name in names if name.strip().isdigit()]
    if not numbers:
        return None
    return (
        f"{len(numbers)} of {len(names)} class names are numbers, for example {numbers[0]!r}, "
        "and the model reads them as text: "
        "unless the images show digits, give the names by --class-names of diht benchmarks import"
    )


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


def prompts(texts: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every text in every template, templates of one text together."""
    return [fill(template, text) for text in texts for template in templates]


def fill(template: str, text: str) -> str:
    """A template with its placeholder, `{c}` or `{}`, replaced. Braces in the text stay."""
    return template.replace(CLASS if CLASS in template else TEXT, text)


def ensemble_prompts(features_PD: NDArray[np.float32], texts: int) -> NDArray[np.float32]:
    """The mean of the unit features of each text's prompts, normalised to unit length.

    Args:
        features_PD: unit features of the prompts, as many for each text, prompts of one text together.
        texts: T.

    Returns:
        [T, D], unit length.
    """
    mean_TD = features_PD.reshape(texts, -1, features_PD.shape[1]).mean(axis=1)
    return mean_TD / np.maximum(np.linalg.norm(mean_TD, axis=1, keepdims=True), 1e-12)
