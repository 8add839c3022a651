"""The class names and templates of a benchmark: those given, else those beside its shards, else an installed package's.

clip-benchmark and DataComp put `classnames.txt` and `zeroshot_classification_templates.txt` into the folder above
`test/`; both that folder and the shards' own are looked at. For packages see `packaged_texts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.evaluate import Benchmark
from diht_k8s.api.layout import join
from diht_k8s.recipe.evaluate.answers import ANSWER, QUESTION
from diht_k8s.recipe.evaluate.packaged_texts import packaged_names, packaged_templates
from diht_k8s.recipe.shards.storage import Storage

CLASS_NAMES: Final = "classnames.txt"
TEMPLATES: Final = "zeroshot_classification_templates.txt"
MAX_TEMPLATES: Final = 256
OPENAI_TEMPLATES: Final = "openai80"
ARTICLE: Final = "{A}"
"""Place for `A` or `An` before the text; DataComp's prompt for the cues of WinoGAViL has one."""
CUE_TEMPLATE: Final = f"{ARTICLE} {{}}"


@dataclass(frozen=True)
class Texts:
    """Lines and where they come from, as the page says it."""

    lines: list[str]
    source: str


def file_beside(storage: Storage, benchmark: Benchmark, name: str) -> str | None:
    """A file in the folder of the benchmark's shards or in the one above, None if there is none."""
    folder = benchmark.shards[0].rpartition("/")[0]
    places = [place for place in (folder, folder.rpartition("/")[0]) if place]
    return next((uri for place in places if storage.exists(uri := join(place, name))), None)


def class_names(storage: Storage, benchmark: Benchmark) -> Texts:
    """Class names in the order of the indexes, or the answers to choose from; none for other benchmarks.

    Raises:
        UserError: a Classification benchmark has no names, they are fewer than two, or a line between them is empty.
    """
    uri = benchmark.class_names
    if uri is None and benchmark.type == "Classification":
        uri = file_beside(storage, benchmark, CLASS_NAMES)
        if uri is None and (packaged := packaged_names(benchmark.name)) is not None:
            return Texts(*packaged)
        if uri is None:
            raise UserError(
                f"evaluate.benchmarks {benchmark.name}: no class names; set classNames to a text file with one class "
                f"name a line, or put {CLASS_NAMES} beside the shards"
            )
    if uri is None:
        return Texts([], "")
    names = [line.strip() for line in storage.read_text(uri).rstrip().splitlines()]
    if len(names) < 2 or not all(names):
        raise UserError(f"{uri}: {benchmark.name} needs one class name a line, two or more, none empty")
    return Texts(names, uri)


def templates_of(storage: Storage, benchmark: Benchmark) -> Texts:
    """The templates, the name `openai80` replaced by OpenAI's 80 for ImageNet (as open_clip ships them).

    Raises:
        UserError: a template has no placeholder for the text (for AnswerRanking: for the answer).
    """
    if benchmark.type == "AnswerRanking":
        return Texts(_answer_templates(benchmark), "the run document" if benchmark.templates else "the default")
    given, source = list(benchmark.templates), "the run document"
    if not given and benchmark.type == "Classification":
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
    return Texts(templates, source)


def read_templates(storage: Storage, uri: str) -> list[str]:
    """The templates in a file, one a line."""
    return [line.strip() for line in storage.read_text(uri).splitlines() if line.strip()][:MAX_TEMPLATES]


def _answer_templates(benchmark: Benchmark) -> list[str]:
    templates = [f"{QUESTION} {ANSWER}" if template == "{}" else template for template in benchmark.templates]
    without = next((template for template in templates if ANSWER not in template), None)
    if without is not None:
        raise UserError(
            f"evaluate.benchmarks {benchmark.name}: template {without!r} has no {ANSWER}: write {QUESTION} and {ANSWER}"
        )
    return templates or [f"{QUESTION} {ANSWER}"]
