"""The clip score, a rule on each pair, and the share of the pool with the highest scores, the last rule of all.

In: decoded images with their captions. Out: the cosine similarity of image and caption by a CLIP-type model of
open_clip, in fp32 and in batches, as its `encode_image` and `encode_text` give it with the preprocessing of the model
(the filter of LAION and of DataComp's baselines). The model runs on the accelerator if there is one. On a CPU it runs
in one thread, as text spotting does: several workers of one thread each are faster than one of several, and the scores
do not depend on the number of cores.

`clipScore.keepShare` (reason `clip_share`): one worker finds the score at which the pool is cut
(`filter/clip_share.json`), then workers drop what lies below it, shard by shard. The cut is exact. The share counts the
pairs with a clip score that every other rule keeps, repeats dropped, and rounds up. Pairs are ordered by score, then
uid, then place in the input, so no two tie. Two passes find the cut in memory that does not grow with the pool: the
first counts pairs by score in narrow bins, the second orders those of one bin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError, DihtError
from diht_k8s.api.filter import ClipScore, Filter
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.kept_pairs import GlobalRule
from diht_k8s.stages.filter.scores import Scores, read_columns

if TYPE_CHECKING:
    from PIL import Image

    from diht_k8s.models.loading import LoadedModel

REASON: Final = "clip_score"
BATCH: Final = 64
"""Maximum number of images in one batch of the model."""
MAX_PIXELS_AT_ONCE: Final = 64_000_000
"""Maximum number of pixels of the images that wait for their batch (192 MB). A single image may have more."""


class ClipScorer:
    """The model of a run's `clipScore`, loaded at the first use."""

    def __init__(self, rule: ClipScore, storage: Storage) -> None:
        """Create a scorer; nothing is loaded yet.

        Args:
            rule: names the model.
            storage: reads its files.
        """
        self._rule, self._storage = rule, storage
        self._model: LoadedModel | None = None

    def load(self) -> LoadedModel:
        """The model; loaded once.

        Raises:
            UserError: it cannot be loaded safely.
            DataError: its files are damaged, or do not fit its architecture.
        """
        if self._model is None:
            import torch

            from diht_k8s.models.loading import load_model

            if not torch.cuda.is_available():
                torch.set_num_threads(1)
            try:
                self._model = load_model(self._rule.model, self._storage, architecture=self._rule.architecture)
            except DihtError as error:
                raise type(error)(f"spec.filter.clipScore: {error}") from error
        return self._model

    def scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """The scores of pairs, which pass the model as one batch.

        Args:
            images: RGB images.
            captions: the caption of each.

        Raises:
            DataError: a score is not finite.
        """
        from diht_k8s.models.features import encode_pixels, encode_texts

        model = self.load()
        images_BD = encode_pixels(model, [model.transform(image) for image in images])
        texts_BD = encode_texts(model, captions)
        scores_B = np.einsum("bd,bd->b", images_BD, texts_BD, dtype=np.float64)
        if not np.isfinite(scores_B).all():
            raise DataError(
                f"spec.filter.clipScore: {self._rule.model} gives scores that are not finite: check its weights"
            )
        return scores_B.tolist()


BINS: Final = 1 << 16
"""Bins of scores from -1 to 1: some thousand pairs in one at 438 million."""


class Rank(NamedTuple):
    """The order of the pairs of the pool: the best one is the smallest."""

    negative_score: float
    uid: str
    shard: int
    row: int


@dataclass(frozen=True, kw_only=True)
class ScoreCutoff:
    """The place at which the pool is cut."""

    pairs: int
    """that have a score and that all other rules keep."""
    kept: int
    """of them."""
    last: Rank
    """the last pair that is kept."""

    def figures(self) -> dict[str, Any]:
        """The cut for the report, which names no pair: one may be taken down later."""
        return {"pairs": self.pairs, "kept": self.kept, "score": -self.last.negative_score}

    def to_json(self) -> dict[str, Any]:
        """The cut for `clip_share.json`."""
        return {**self.figures(), "uid": self.last.uid, "shard": self.last.shard, "row": self.last.row}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a stored cut."""
        return cls(
            pairs=data["pairs"],
            kept=data["kept"],
            last=Rank(-data["score"], data["uid"], data["shard"], data["row"]),
        )


def keeps_top_fraction(rules: Filter) -> bool:
    """Whether the run keeps a share of the pool by clip score."""
    return rules.clip_score is not None and rules.clip_score.keep_share is not None


def read_cutoff(storage: Storage, layout: Layout, config_sha256: str) -> ScoreCutoff | None:
    """The cut of a run, if it was found under this configuration."""
    uri = _uri(layout)
    document = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
    return ScoreCutoff.from_json(document["cut"]) if document.get("config_sha256") == config_sha256 else None


def _uri(layout: Layout) -> str:
    return join(layout.stage(Stage.FILTER), "clip_share.json")


class ClipTopFraction(GlobalRule):
    """Cuts the pool, then drops what lies below the cut."""

    mark, claim, reason = "clip_share", "clip share", "clip_share"

    _cut: ScoreCutoff | None = None

    def search(self) -> tuple[bool, int]:
        """Find the cut unless another worker does."""
        self._cut = self._cut or self._find_cut()
        return False, int(self._cut is None)

    def drops(self, number: int, scores: Scores) -> set[int]:
        """The kept pairs below the cut."""
        assert self._cut is not None, "shards are taken once the cut is known"
        last = self._cut.last
        return {
            row
            for row, each in enumerate(scores.rows())
            if each.kept and each.clip_score is not None and Rank(-each.clip_score, each.uid, number, row) > last
        }

    def _find_cut(self) -> ScoreCutoff | None:
        """The cut, which this worker looks for unless another one does; None while that one does."""
        context, rule = self.context, self.rules.clip_score
        assert rule is not None
        assert rule.keep_share is not None, "the stage checks that the run keeps a share"
        found = read_cutoff(context.storage, context.layout, context.config_sha256)
        if found is not None or not self.claims.take(self.claim, counts_deaths=False):
            return found
        cut = find_cutoff(self._read, len(self.shards), rule.keep_share)
        document = {"schema_version": SCHEMA_VERSION, "config_sha256": context.config_sha256, "cut": cut.to_json()}
        context.storage.write_bytes(_uri(context.layout), json.dumps(document, indent=1).encode())
        return cut

    def _read(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of the pairs of a shard among which the share is counted, and `row`, their places."""
        self.pause()
        self.claims.keep()
        uri = self.scores_uri(self.shards[number])
        table = read_columns(self.context.storage, uri, [*columns, "kept", "reason"])
        table = table.append_column("row", pa.array(np.arange(table.num_rows)))
        counted = pc.field("kept") | (pc.field("reason") == self.reason)  # an earlier start may have dropped some
        return table.filter(counted & pc.field("clip_score").is_valid())


def find_cutoff(read: Callable[[int, Sequence[str]], pa.Table], shards: int, share: float) -> ScoreCutoff:
    """Where the pool is cut.

    Args:
        read: gives some columns of the pairs of a shard by its number, and `row`, their places.
        shards: number of shards.
        share: of the pairs that are kept, rounded up.
    """
    counts = np.zeros(BINS, np.int64)
    for number in range(shards):
        counts += np.bincount(_bins(read(number, ["clip_score"])), minlength=BINS)
    pairs = int(counts.sum())
    kept = math.ceil(Fraction(str(share)) * pairs)
    if kept == 0:
        return ScoreCutoff(pairs=0, kept=0, last=Rank(0.0, "", 0, 0))  # no pair has a score to compare with it
    better = np.cumsum(counts[::-1])[::-1]  # pairs in a bin and in those above it
    place = int(np.flatnonzero(better >= kept)[-1])
    candidates = sorted(rank for number in range(shards) for rank in _ranks(read, number, place))
    above = int(better[place] - counts[place])
    return ScoreCutoff(pairs=pairs, kept=kept, last=candidates[kept - above - 1])


def _ranks(read: Callable[[int, Sequence[str]], pa.Table], number: int, place: int) -> Iterator[Rank]:
    """The ranks of a shard's pairs in one bin."""
    table = read(number, ["clip_score", "uid"])
    table = table.filter(pa.array(_bins(table) == place))
    for score, uid, row in zip(*(table[name].to_pylist() for name in ("clip_score", "uid", "row")), strict=True):
        yield Rank(-score, uid, number, row)


def _bins(table: pa.Table) -> NDArray[np.int64]:
    """The bin of each pair; rounding may move a score a little beyond -1 or 1."""
    scores = table["clip_score"].to_numpy()
    return np.clip(np.floor((scores + 1) * (BINS / 2)), 0, BINS - 1).astype(np.int64)
