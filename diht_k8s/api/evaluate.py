"""`spec.evaluate`: zero-shot, retrieval and few-shot benchmarks of a model (paper section 4)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from diht_k8s.api.base import PLACEMENT, Keyed, Model, Text, Uri
from diht_k8s.api.data import Shards
from diht_k8s.api.pods import Pods

Split = Literal["Development", "HeldOut"]
NO_SPLIT: Final = (
    "evaluate.split: no benchmark has this split: give a benchmark this split, or leave evaluate.split out"
)


class Benchmark(Model):
    """One task."""

    name: Text
    """name in the report."""
    type: Literal[
        "Classification", "MultiLabel", "Retrieval", "AnswerRanking", "PairMatching", "CaptionChoice", "Association"
    ]
    """type: MultiLabel is Pascal VOC's mean average precision, AnswerRanking visual question answering over candidates,
    PairMatching Winoground's scores, CaptionChoice SugarCrepe's accuracy, Association WinoGAViL's Jaccard."""
    shards: Shards
    """shards of test images with captions, class indexes (.cls, or `cls` in the .json; several in `classes`),
    questions or groups."""
    templates: Annotated[list[Text], Field(max_length=256)] = []
    """templates around a class name, caption or cue (`{}` or `{c}`), of groups with `{A}` for A or An; of AnswerRanking
    around `{question}` and `{answer}`; others are refused. `openai80` is OpenAI's set. Unset takes
    zeroshot_classification_templates.txt beside the shards, else open_clip's for ImageNet, else those that an installed
    clip-benchmark has under the benchmark's name, else `{}`."""
    class_names: Uri | None = None
    """classNames: a text file with a name a line in class order, or AnswerRanking's answers; unset takes classnames.txt
    beside the shards, else open_clip's for ImageNet, else those that an installed clip-benchmark has under the name."""
    split: Split | None = None
    """split: choose settings on Development, read HeldOut for a final report only."""


class FewShot(Model):
    """The few-shot probe by projected gradient from the zero-shot weights (the paper's, as others quote it)."""

    shots: Annotated[list[Annotated[int, Field(ge=1, le=100000)]], Field(min_length=1, max_length=32)] = [
        1,
        2,
        4,
        8,
        16,
    ]
    """shots per class."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    """seeds: random draws for each number of shots."""


class Evaluate(Model):
    """What is measured."""

    model: Uri | None = None
    """model in place of the trained one: a folder, a checkpoint file, or open_clip's NAME/TAG."""
    benchmarks: Annotated[list[Benchmark], Keyed("name"), Field(min_length=1, max_length=64)]
    """benchmarks to run."""
    split: Split | None = None
    """split to run; unset runs all."""
    few_shot: FewShot | None = None
    """fewShot adds the probe to Classification benchmarks."""
    decode: Literal["Ours", "Reference"] = "Ours"
    """decode: Ours turns images upright, lays transparency on white and drops those over 25 million pixels; Reference
    does as open_clip and clip-benchmark."""
    workers: Annotated[int, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = 1
    """workers: pods (or processes) that share the images."""
    pods: Annotated[Pods | None, Field(json_schema_extra=PLACEMENT)] = None
    """pods is merged over spec.pods."""

    @property
    def chosen(self) -> list[Benchmark]:
        """The benchmarks that `split` leaves."""
        return [each for each in self.benchmarks if self.split in (None, each.split)]
