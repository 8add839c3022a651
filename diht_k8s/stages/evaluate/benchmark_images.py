"""The step `read`: the images of a benchmark's shards, with captions, classes, questions, groups and cues.

Shards are WebDataset tars. Several captions of one image are lines of the .txt or a list `captions` in the .json. The
class is the number in a .cls member or `cls` in the .json; several are a list `classes` there, and those that count
neither way a list `ignored_classes`. Questions are in the .json: `question` with `answer` or `answers` (and
`candidates`), or a list `questions` of such objects. For groups see `group_of`; the cues for which an image is a
candidate are a list `cues` of `group`, `cue`, `associated` (and `candidates`, their number).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeGuard

import numpy as np
from PIL import Image

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.images import BadImageError, Decoder, decode, prefetch
from diht_k8s.data.shards.samples import Sample, storable
from diht_k8s.models.features import IMAGE_BATCH

if TYPE_CHECKING:
    import torch

MAX_TEXTS: Final = 4096
"""Captions, questions or cues of an image. All stand in the header of its shard's features, so a file of somebody else
must not hold any number; sets have up to some hundred. A list that is cut would ask other questions, so a longer one is
an error.
"""
MAX_GROUP_NAME: Final = 60
PREFETCHED_IMAGES: Final = 2 * IMAGE_BATCH
"""Images that are preprocessed, or being so, before the model asks for them."""

TAR_BLOCK: Final = 512

Transform = Callable[[Image.Image], "torch.Tensor"]


@dataclass(frozen=True)
class VisualQuestion:
    """One question about an image."""

    text: str
    answers: tuple[str, ...]
    """one for each annotator."""
    candidates: tuple[str, ...] = ()
    """answers to choose from; empty: the benchmark's list."""


@dataclass(frozen=True)
class Cue:
    """A cue for which an image is a candidate."""

    group: str
    text: str
    associated: bool
    candidates: int = 0
    """number of images among which to choose; 0: as many as there are."""


@dataclass(frozen=True)
class BenchmarkImage:
    """One image of a benchmark, without its pixels."""

    uri: str
    """its shard."""
    key: str
    uid: str
    captions: tuple[str, ...]
    label: int | None
    questions: tuple[VisualQuestion, ...] = ()
    group: str | None = None
    """accuracy is also reported by it: a region, an income."""
    digest: str = ""
    """SHA-256 of the image's bytes; finds the same image among the training pairs."""
    cues: tuple[Cue, ...] = ()
    no_caption: str = ""
    """why it has none: a gallery leaves it out and counts it by this reason; "" with captions."""
    classes: tuple[int, ...] | None = None
    """all classes that it shows; None where nothing says it."""
    ignored_classes: tuple[int, ...] = ()
    """classes for which it counts neither way: Pascal VOC's with nothing but difficult objects."""
    lacks_first: bool = False
    """whether the first of its captions, for some tasks the right one, is empty."""
    unusable_questions: int = 0
    """that were left out, see `questions_of`."""
    unusable_captions: dict[str, int] = field(default_factory=dict)
    """captions that were left out, by reason."""
    unusable_cues: tuple[str, ...] = ()
    """groups of the cues that were left out, see `unusable_cues`."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as the model takes it, or why it cannot be used."""

    pixels_CHW: torch.Tensor | None
    bad: str = ""
    digest: str = ""
    """SHA-256 of the encoded bytes."""


def prepare_image(sample: Sample, transform: Transform, decoder: Decoder = decode) -> PreparedImage:
    """Decode and preprocess one image; a benchmark's image needs no caption, so a bad one is no reason to drop it."""
    if sample.problem is not None and not sample.problem.startswith("caption_"):
        return PreparedImage(None, sample.problem)
    try:
        image = decoder(sample.image)
    except BadImageError as error:
        return PreparedImage(None, error.reason)
    return PreparedImage(transform(image), digest=hashlib.sha256(sample.image).hexdigest())


def read_images(
    samples: Iterator[Sample], uri: str, prepare: Callable[[Sample], PreparedImage], bad: Counter[str]
) -> Generator[tuple[BenchmarkImage, torch.Tensor, int], None, None]:
    """The images of a shard that can be used, in order.

    Args:
        samples: of the shard.
        uri: its name.
        prepare: makes pixels of a sample; several are prepared at a time.
        bad: counts the others by reason.

    Yields:
        The image, its pixels C x H x W, and the bytes of the sample's members in the tar.

    Raises:
        DataError: a class or a group cannot be read, or an image has more than `MAX_TEXTS` captions, questions or cues.
    """
    with contextlib.closing(prefetch(samples, prepare, ahead=PREFETCHED_IMAGES)) as images:
        for sample, image in images:
            if image.pixels_CHW is None:
                bad[image.bad] += 1
                continue
            label, questions = label_of(sample), questions_of(sample)
            captions, group = captions_of(sample), group_of(sample)
            cues, unusable = cues_of(sample), unusable_captions(sample)
            why = "" if captions else next(iter(unusable), sample.problem or "caption_empty")
            classes, ignored = classes_of(sample, "classes"), classes_of(sample, "ignored_classes") or ()
            item = BenchmarkImage(
                uri,
                sample.key,
                storable(sample.uid),
                captions,
                label,
                questions,
                group,
                image.digest,
                cues,
                why,
                classes,
                ignored,
                lacks_first_caption(sample),
                unusable_questions(sample),
                unusable,
                unusable_cues(sample),
            )
            yield item, image.pixels_CHW, _bytes_in_tar(sample)


def _bytes_in_tar(sample: Sample) -> int:
    """Each member has a header, and is filled up to whole blocks."""
    return sum(TAR_BLOCK * (1 + -(-len(member) // TAR_BLOCK)) for member in sample.members.values())


def captions_of(sample: Sample) -> tuple[str, ...]:
    """All captions of a sample with single spaces, without empty ones."""
    return tuple(caption for caption in _lines_of(sample) if caption)


def lacks_first_caption(sample: Sample) -> bool:
    """Whether the first caption of a sample is empty and another one is not."""
    captions = _lines_of(sample)
    return any(captions) and not captions[0]


def unusable_captions(sample: Sample) -> dict[str, int]:
    """How many captions are no text, by reason; empty ones and null are none."""
    found = Counter[str]()
    for caption in _captions(sample):
        if caption is not None and not _is_text(caption):
            found["caption_not_utf8" if isinstance(caption, str) else "caption_no_text"] += 1
    return dict(sorted(found.items()))


def _lines_of(sample: Sample) -> list[str]:
    """Its captions in their places, "" for what is no text."""
    return [" ".join(caption.split()) if _is_text(caption) else "" for caption in _captions(sample)]


def _captions(sample: Sample) -> Sequence[object]:
    """What stands in the places of its captions."""
    text, listed = sample.members.get("txt"), sample.meta.get("captions")
    if text is not None and sample.problem is None:
        lines: Sequence[object] = text.decode().splitlines()
    else:
        lines = listed if isinstance(listed, list) else [sample.caption]
    return _limited(lines, sample, "captions")


def label_of(sample: Sample) -> int | None:
    """The class index, None if the sample has none.

    Raises:
        DataError: the class is not a whole number.
    """
    raw = sample.members.get("cls")
    value = sample.meta.get("cls")
    if raw is not None:
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw.decode(errors="replace")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"sample {sample.key} has class {str(value)[:40]!r}: .cls and `cls` must hold a number from 0")
    return value


def classes_of(sample: Sample, key: str) -> tuple[int, ...] | None:
    """The class numbers that a sample lists under a key of its .json, each once; None without a list of such
    numbers.
    """
    listed = sample.meta.get(key)
    if not isinstance(listed, list) or not all(type(number) is int and number >= 0 for number in listed):
        return None
    return tuple(dict.fromkeys(listed))


def group_of(sample: Sample) -> str | None:
    """The group of an image: `group` in the .json, or the first number of an .npy member (DataComp's shards
    keep WILDS' metadata there).

    Raises:
        DataError: the .npy is not an array of numbers; pickled objects are never loaded.
    """
    raw = sample.members.get("npy")
    if raw is None:
        return _group_name(sample.meta.get("group"))
    try:
        first = float(np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False).reshape(-1)[0])
        return str(int(first)) if first.is_integer() else str(first)
    except (ValueError, TypeError, IndexError, EOFError, OSError) as error:
        raise DataError(
            f"sample {sample.key}: its .npy is not an array of numbers ({error}): write it again"
        ) from error


def _group_name(value: object) -> str | None:
    """The name of a group as it is told; long ones, and those that are no UTF-8, end with a digest: they differ
    anywhere.
    """
    if not isinstance(value, str | int):
        return None
    name = str(value)
    if len(name) <= MAX_GROUP_NAME and _is_text(name):
        return name
    return f"{storable(name[:40])} {hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def questions_of(sample: Sample) -> tuple[VisualQuestion, ...]:
    """The questions about an image, of text and whole numbers, without those that have no answer to compare with."""
    return tuple(question for entry in _asked(sample) if (question := _question(entry)) is not None)


def unusable_questions(sample: Sample) -> int:
    """How many questions `questions_of` leaves out."""
    return sum(_question(entry) is None for entry in _asked(sample))


def _asked(sample: Sample) -> list[Mapping[str, object]]:
    listed = sample.meta.get("questions", [sample.meta])
    entries = _limited(listed, sample, "questions") if isinstance(listed, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("question") is not None]


def _question(entry: Mapping[str, object]) -> VisualQuestion | None:
    text, answers = _text(entry["question"]), _texts(entry.get("answers", [entry.get("answer")]))
    listed = entry.get("candidates")
    candidates = () if listed is None else _texts(listed)
    if text is None or not answers or candidates is None:
        return None
    return VisualQuestion(text.strip(), answers, candidates)


def cues_of(sample: Sample) -> tuple[Cue, ...]:
    """The cues for which an image is a candidate, without incomplete entries."""
    return tuple(cue for entry in _cues(sample) if (cue := _cue(entry)) is not None)


def unusable_cues(sample: Sample) -> tuple[str, ...]:
    """The group of each entry that `cues_of` leaves out, "" where it names none: without it the group is not whole."""
    return tuple(_cue_group(entry) for entry in _cues(sample) if _cue(entry) is None)


def _cues(sample: Sample) -> Sequence[object]:
    listed = sample.meta.get("cues")
    return _limited(listed, sample, "cues") if isinstance(listed, list) else []


def _cue(entry: object) -> Cue | None:
    if not isinstance(entry, dict) or not _is_text(entry.get("cue")) or not isinstance(entry.get("associated"), bool):
        return None
    number = entry.get("candidates", 0)
    candidates = number if isinstance(number, int) else 0
    return Cue(_cue_group(entry), entry["cue"].strip(), entry["associated"], candidates)


def _cue_group(entry: object) -> str:
    """The group that an entry names, else its cue; "" where it has neither."""
    if not isinstance(entry, dict):
        return ""
    cue = entry.get("cue")
    return _group_name(entry.get("group")) or (f"cue {cue.strip()}" if _is_text(cue) else "")


def _limited(listed: Sequence[object], sample: Sample, what: str) -> Sequence[object]:
    """The list, if it is not too long.

    Raises:
        DataError: it is.
    """
    if len(listed) > MAX_TEXTS:
        raise DataError(
            f"sample {sample.key} has {len(listed):,} {what}, and an image may have {MAX_TEXTS:,}: write fewer, or "
            f"leave it out"
        )
    return listed


def _texts(values: object) -> tuple[str, ...] | None:
    """The values of a list without null and empty ones; None if it is no list, or one of them is no text."""
    texts = [_text(value) for value in values if value is not None] if isinstance(values, list) else [None]
    found = [text for text in texts if text is not None]
    return tuple(filter(None, found)) if len(found) == len(texts) else None


def _text(value: object) -> str | None:
    """A text or a whole number as text; None for other values: how a fraction or `true` is spelled is not told."""
    return str(value) if _is_text(value) or (isinstance(value, int) and not isinstance(value, bool)) else None


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that a file can hold: JSON may hold half an emoji, which UTF-8 cannot."""
    return isinstance(value, str) and storable(value) == value
