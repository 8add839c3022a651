"""`spec.filter`: the CAT filter (paper section 3.1: complexity, action, text spotting)."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from diht_k8s.api.base import PLACEMENT, Keyed, Model, Text, Uri
from diht_k8s.api.pods import Pods

SCORE_OR_SHARE: Final = "filter.clipScore has minScore or keepShare: give exactly one of them"
MIN_STORED_CONFIDENCE: Final = 0.3
"""Spotted texts with a lower confidence are noise: the filter does not store them."""


class TextSpotting(Model):
    """T: drops pairs whose image shows their caption; thresholds as remembered from the paper."""

    mode: Literal["Drop", "ScoreOnly", "Disabled"] = "Drop"
    """mode: Drop removes such pairs, ScoreOnly stores the texts, Disabled runs no OCR."""
    min_confidence: Annotated[float, Field(ge=MIN_STORED_CONFIDENCE, le=1)] = 0.8
    """minConfidence at which a text counts; below 0.3 none is stored."""
    min_matched_characters: Annotated[int, Field(ge=1, le=64)] = 5
    """minMatchedCharacters: letters or digits that caption and image share."""
    match: Literal["Substring", "Positions"] = "Substring"
    """match: Substring counts characters in a row, Positions equal places as the word slides over the caption (two
    readings of the paper)."""
    across_words: bool = False
    """acrossWords joins the caption's words first, which finds more chance matches (ours)."""
    detector_size: Annotated[int, Field(ge=64, le=2048)] = 256
    """detectorSize: the longest side in pixels at which text is detected (ours)."""
    second_detector_size: Annotated[int | None, Field(ge=64, le=2048)] = None
    """secondDetectorSize at which images without a match are read again, for small text and watermarks (ours)."""
    precision: Literal["BF16", "FP32"] = "BF16"
    """precision: BF16 is faster on CPUs with bfloat16 arithmetic, and fp32 on others (ours)."""
    device: Annotated[Literal["CPU", "CUDA"], Field(json_schema_extra=PLACEMENT)] = "CPU"
    """device of the OCR; CUDA needs onnxruntime-gpu and a GPU in each pod."""


class ClipScore(Model):
    """Cosine similarity of image and caption by a CLIP-type model."""

    model: Uri
    """model: a folder with open_clip_config.json, or weights (.safetensors, or .pt with tensors only); nothing is
    downloaded."""
    architecture: Text | None = None
    """architecture of a weights file, such as ViT-B-32; unset takes open_clip_config.json beside it, else the weights'
    shapes."""
    min_score: Annotated[float | None, Field(ge=-1, le=1)] = None
    """minScore: pairs below it are dropped."""
    keep_share: Annotated[float | None, Field(gt=0, le=1)] = None
    """keepShare of the pairs that all other rules keep, the highest scores, rounded up."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.min_score is None) == (self.keep_share is None):
            raise ValueError(SCORE_OR_SHARE)
        return self


class MetadataLimit(Model):
    """A bound on a number in the .json, such as an NSFW or watermark score."""

    name: Text
    """name of the number, such as `punsafe`; pairs without it pass."""
    min: Annotated[float | None, Field(ge=-1e9, le=1e9)] = None
    """min: pairs below it are dropped."""
    max: Annotated[float | None, Field(ge=-1e9, le=1e9)] = None
    """max: pairs above it are dropped."""


class Filter(Model):
    """Which pairs are kept."""

    min_objects: Annotated[int, Field(ge=0, le=100)] = 0
    """minObjects that a caption must name. For small, clean pools use 1 with minComplexity: 0 and minActions: 0
    (ours)."""
    min_complexity: Annotated[int, Field(ge=0, le=100)] = 1
    """minComplexity (C): some object of the caption has at least this many attributes and relations."""
    min_actions: Annotated[int, Field(ge=0, le=100)] = 1
    """minActions (A) that a caption must name."""
    action_rule: Literal["SubjectOrObject", "Subject"] = "SubjectOrObject"
    """actionRule: SubjectOrObject counts verbs with a subject or an object, Subject wants a subject (two readings of
    the paper)."""
    parser: Annotated[Literal["Fast", "Spacy"], Field(json_schema_extra=PLACEMENT)] = "Fast"
    """parser: Fast is spaCy's model in NumPy; if a self-check differs, it warns and uses Spacy."""
    text_spotting: TextSpotting = TextSpotting()
    """textSpotting: the T rule."""
    clip_score: ClipScore | None = None
    """clipScore drops pairs by the similarity of image and caption (ours)."""
    language: Literal["en", "Any"] = "en"
    """language: en drops captions in other languages, which the parser cannot read; Any keeps them (ours)."""
    language_margin: Annotated[float, Field(ge=0, le=1000)] = 18
    """languageMargin by which another language's log-likelihood must exceed English's to drop a caption (ours)."""
    metadata_limits: Annotated[list[MetadataLimit], Keyed("name"), Field(max_length=16)] = []
    """metadataLimits: bounds on numbers of the .json."""
    min_side: Annotated[int, Field(ge=0, le=4096)] = 0
    """minSide of an image in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=0, le=1000)] = 0
    """maxAspectRatio of an image, long to short side; 0 drops none."""
    duplicates: Literal["Exact", "Near"] | None = None
    """duplicates of earlier kept images are dropped: Exact compares files, Near also finds other sizes, encodings and
    brightness."""
    exclude: Uri | None = None
    """exclude: a file of uids, SHA-256 of URLs or images, or a table's paths and rows, to drop, one a line."""
    decontaminate: Annotated[list[Text], Field(max_length=64)] = []
    """decontaminate: benchmarks of spec.evaluate whose images' near-duplicates are dropped."""
    junk_field: Text | None = None
    """junkField: name of the .json's text that says what junk a pair is ("watermark"), for the report only (ours)."""
    scores_from: Annotated[Uri | None, Field(json_schema_extra=PLACEMENT)] = None
    """scoresFrom: another run's filter folder, whose scores are reused with new thresholds."""
    output: Literal["Shards", "KeepList"] = "Shards"
    """output: Shards copies kept pairs into new shards; KeepList lists them, and later stages read the raw shards."""
    workers: Annotated[int, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = 1
    """workers: pods (or processes) that share the shards."""
    max_bad_percent: Annotated[float, Field(ge=0, le=100, json_schema_extra=PLACEMENT)] = 1.0
    """maxBadPercent of unreadable samples, above which the stage ends with exit code 65."""
    pods: Annotated[Pods | None, Field(json_schema_extra=PLACEMENT)] = None
    """pods is merged over spec.pods."""
