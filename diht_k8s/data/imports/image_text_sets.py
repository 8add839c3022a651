"""Image-text benchmarks in their own files: VQAv2, SNLI-VE, SugarCrepe and Winoground."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.annotation_files import image_folder_of, read_json, read_json_lines, text_of
from diht_k8s.data.imports.caption_annotations import FOLDERS
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
)
from diht_k8s.data.imports.source_files import SourceFile

ENTAILMENT: Final = ("entailment", "neutral", "contradiction")
ANSWERS_FILE: Final = ("questions", "annotations")
"""VQAv2 names its files v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json."""


def is_vqa(document: Any) -> bool:
    """Whether a JSON document holds VQAv2's questions."""
    listed_questions = document.get("questions") if isinstance(document, Mapping) else None
    first = next(iter(listed_questions), None) if isinstance(listed_questions, list) else None
    return isinstance(first, Mapping) and "question_id" in first


def is_sugar_crepe(document: Any) -> bool:
    """Whether a JSON document holds captions with negatives."""
    first = next(iter(document.values()), None) if isinstance(document, Mapping) else None
    return isinstance(first, Mapping) and {"filename", "caption", "negative_caption"} <= first.keys()


def read_vqa(path: Path, document: Any, options: ReaderOptions) -> RecordSource:
    """VQAv2: questions with the answers of ten people. The commonest answers of the file are the candidates.

    Raises:
        UserError: the answers or the images are not found, or an entry lacks a field.
        DataError: a question has no answers.
    """
    answers_path = options.annotations or _answers_beside(path)
    answers: dict[int | str, list[str]] = {}
    for entry in _entries(read_json(answers_path), "annotations", answers_path):
        given = entry.get("answers", [])
        if not isinstance(given, list):
            raise _lacks(entry, "annotations", "list answers", answers_path)
        answers[_question(entry, "annotations", answers_path)] = [
            text_of(each, "answer", answers_path) for each in given
        ]
    subtype = document.get("data_subtype", "val2014")
    by_image: dict[int, list[dict[str, Any]]] = {}
    for entry in _entries(document, "questions", path):
        number = _question(entry, "questions", path)
        if not (given := answers.get(number)):
            raise DataError(
                f"question {number} of {path} has no answers in {answers_path}: name the file of the same split by --annotations"
            )
        question = {"question": text_of(entry, "question", path), "answers": given}
        by_image.setdefault(_image(entry, path), []).append(question)
    if not by_image:
        raise DataError(f"{path} has no questions: fetch it again")
    said = Counter(answer for asked in by_image.values() for each in asked for answer in each["answers"])
    commonest = sorted(said, key=lambda answer: (-said[answer], answer))[: options.candidates]
    asked = [each for questions in by_image.values() for each in questions]
    covered = sum(any(answer in set(commonest) for answer in each["answers"]) for each in asked)
    names = [(f"COCO_{subtype}_{image:012d}.jpg", by_image[image]) for image in sorted(by_image)]
    note = (
        f"the {len(commonest)} commonest answers are the candidates; {covered} of {len(asked)} questions "
        f"({100 * covered / len(asked):.1f} %) have a right one among them"
    )
    return _source("vqav2", path, options, names, tuple(commonest), note)


def _entries(document: Any, name: str, path: Path) -> list[Mapping[str, Any]]:
    """The entries of one of VQAv2's files."""
    listed = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        raise UserError(
            f"{path} has no list {name}, as VQAv2's files have: name another file, the answers' by --annotations"
        )
    if (other := next((entry for entry in listed if not isinstance(entry, Mapping)), None)) is not None:
        raise UserError(f"{path}: an entry of {name} is no object ({repr(other)[:80]}): fetch the file again")
    return listed


def _question(entry: Mapping[str, Any], listed: str, path: Path) -> int | str:
    value = entry.get("question_id")
    if not isinstance(value, int | str):
        raise _lacks(entry, listed, "question_id", path)
    return value


def _image(entry: Mapping[str, Any], path: Path) -> int:
    """The number of an image of COCO, which a text may hold."""
    value = entry.get("image_id")
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    raise _lacks(entry, "questions", "whole number image_id", path)


def _lacks(entry: Mapping[str, Any], listed: str, what: str, path: Path) -> UserError:
    return UserError(f"{path}: an entry of {listed} has no {what} ({repr(entry)[:80]}): fetch the file again")


def read_snli_ve(path: Path, options: ReaderOptions) -> RecordSource:
    """SNLI-VE: hypotheses about Flickr30k's images, answered by one of three labels.

    Raises:
        UserError: the images are not found.
        DataError: an entry lacks a field.
    """
    by_image: dict[str, list[dict[str, Any]]] = {}
    unlabelled = 0
    for entry in read_json_lines(path):
        label = text_of(entry, "gold_label", path)
        if label not in ENTAILMENT:  # "-": the annotators disagree
            unlabelled += 1
            continue
        question = {"question": text_of(entry, "sentence2", path), "answers": [label]}
        by_image.setdefault(text_of(entry, "Flickr30K_ID", path), []).append(question)
    if not by_image:
        raise DataError(f"{path} has no hypothesis with a label: fetch it again")
    names = [(name if name.endswith(".jpg") else f"{name}.jpg", asked) for name, asked in by_image.items()]
    note = f"{unlabelled} hypotheses without an agreed label are left out" if unlabelled else ""
    return _source("snli-ve", path, options, names, ENTAILMENT, note)


def read_sugar_crepe(path: Path, document: Any, options: ReaderOptions) -> RecordSource:
    """SugarCrepe: a right caption and a wrong one for each image of COCO; the right one is stored first.

    Raises:
        UserError: the images are not found.
        DataError: an entry lacks a field.
    """
    entries = [
        (text_of(entry, "filename", path), (text_of(entry, "caption", path), text_of(entry, "negative_caption", path)))
        for entry in document.values()
    ]
    folder, roots = image_folder_of(path, options.images, FOLDERS, [entries[0][0]]), options.roots(path.parent)
    records = [
        ImageRecord(
            str(folder / name), SourceFile(folder / name, roots), captions=captions, meta={"uid": f"{path.stem}-{key}"}
        )
        for key, (name, captions) in zip(document, entries, strict=True)
    ]
    return RecordSource.listed("sugar-crepe", "CaptionChoice", records, entries)


def _source(
    kind: str,
    path: Path,
    options: ReaderOptions,
    asked: list[tuple[str, list[dict[str, Any]]]],
    candidates: tuple[str, ...],
    note: str,
) -> RecordSource:
    folder, roots = image_folder_of(path, options.images, FOLDERS, [asked[0][0]]), options.roots(path.parent)
    records = [
        ImageRecord(str(folder / name), SourceFile(folder / name, roots), meta={"questions": questions})
        for name, questions in asked
    ]
    said, notes = [asked, list(candidates)], (note,) if note else ()
    return RecordSource.listed(kind, "AnswerRanking", records, said, class_names=candidates, notes=notes)


def _answers_beside(path: Path) -> Path:
    name = path.name.replace("OpenEnded_", "").replace(*ANSWERS_FILE)
    for place in (path.parent / name, path.with_name(path.name.replace(*ANSWERS_FILE))):
        if place != path and place.is_file():
            return place
    raise UserError(f"the answers to {path} are not beside it as {name}: name their file by --annotations")


def read_winoground(path: Path, options: ReaderOptions) -> RecordSource:
    """Two records an example: its images with their own captions, in one group.

    Raises:
        UserError: the images are not found.
        DataError: an entry lacks a field.
    """
    pairs = [
        (entry.get("id", number), side, text_of(entry, f"image_{side}", path), text_of(entry, f"caption_{side}", path))
        for number, entry in enumerate(read_json_lines(path))
        for side in (0, 1)
    ]
    if not pairs:
        raise DataError(f"{path} has no examples: fetch it again")
    folder, roots = (
        image_folder_of(path, options.images, ("images",), [f"{pairs[0][2]}.png"]),
        options.roots(path.parent),
    )
    records = [
        ImageRecord(
            str(folder / f"{name}.png"),
            SourceFile(folder / f"{name}.png", roots),
            captions=(caption,),
            meta={"group": group, "uid": f"{group}-{side}"},
        )
        for group, side, name, caption in pairs
    ]
    return RecordSource.listed("winoground", "PairMatching", records, pairs)
