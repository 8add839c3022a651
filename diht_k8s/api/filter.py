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
    """T: drop a pair whose image shows its own caption. Thresholds as remembered of the paper."""

    mode: Literal["Drop", "ScoreOnly", "Disabled"] = "Drop"
    """mode: Drop removes such pairs, ScoreOnly writes the found texts only, Disabled runs no OCR."""
    min_confidence: Annotated[float, Field(ge=MIN_STORED_CONFIDENCE, le=1)] = 0.8
    """minConfidence of a spotted text for it to count, 0.3 to 1 (texts below 0.3 are not stored)."""
    min_matched_characters: Annotated[int, Field(ge=1, le=64)] = 5
    """minMatchedCharacters: the number of consecutive letters or digits that caption and image must share."""
    match: Literal["Substring", "Positions"] = "Substring"
    """match: Substring wants the characters in a row; Positions slides the word over the caption and counts equal
    places (our two readings of the paper)."""
    across_words: bool = False
    """acrossWords joins the caption's words before matching; more chance matches, so off by default (our choice)."""
    detector_size: Annotated[int, Field(ge=64, le=2048)] = 256
    """detectorSize is the longest side in pixels at which text is detected (our choice)."""
    second_detector_size: Annotated[int | None, Field(ge=64, le=2048)] = None
    """secondDetectorSize: an image that does not show its caption at detectorSize is read again at this size, upright for
    small text and turned both ways for translucent marks; unset reads it once (our choice)."""
    precision: Literal["BF16", "FP32"] = "BF16"
    """precision: BF16 lets CPUs with bfloat16 arithmetic read images in it, in three fifths of the time; other CPUs and
    GPUs use fp32. FP32 makes all of them use fp32 (our choice)."""
    device: Annotated[Literal["CPU", "CUDA"], Field(json_schema_extra=PLACEMENT)] = "CPU"
    """device that reads the images: CUDA needs an image with onnxruntime-gpu and a GPU for each pod, and ends the stage
    if it cannot be used."""


class ClipScore(Model):
    """The cosine similarity of image and caption by a CLIP-type model, as other filters threshold it (DataComp's, LAION's)."""

    model: Uri
    """model that scores: a folder with open_clip_config.json, or a weights file (.safetensors, or .pt with tensors
    alone). Nothing is downloaded. Its digest identifies the scores."""
    architecture: Text | None = None
    """architecture is open_clip's name of a weights file's architecture, for example ViT-B-32; unset takes
    open_clip_config.json beside the file, else what the shapes of the weights say."""
    min_score: Annotated[float | None, Field(ge=-1, le=1)] = None
    """minScore: pairs whose score is below it are dropped."""
    keep_share: Annotated[float | None, Field(gt=0, le=1)] = None
    """keepShare: of the pairs that all other rules keep, this share has the highest scores and stays. It is counted over
    the whole input when all shards are filtered, and rounded up; ties are broken by uid."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.min_score is None) == (self.keep_share is None):
            raise ValueError(SCORE_OR_SHARE)
        return self


class MetadataLimit(Model):
    """A bound on a number that the input's .json carries, such as an NSFW or watermark score."""

    name: Text
    """name of the number in the .json, for example `punsafe` or `pwatermark`. Pairs without it pass."""
    min: Annotated[float | None, Field(ge=-1e9, le=1e9)] = None
    """min: pairs whose number is below it are dropped."""
    max: Annotated[float | None, Field(ge=-1e9, le=1e9)] = None
    """max: pairs whose number is above it are dropped."""


class Filter(Model):
    """Which pairs are kept."""

    min_objects: Annotated[int, Field(ge=0, le=100)] = 0
    """minObjects: the caption names at least this many objects (ours: not in the paper). With minComplexity: 0 and minActions: 0,
    1 is a rule for small, clean pools: it drops file names and foreign captions, and keeps bare names. 0 switches it off."""
    min_complexity: Annotated[int, Field(ge=0, le=100)] = 1
    """minComplexity: at least one object of the caption has at least this many attributes and relations (C)."""
    min_actions: Annotated[int, Field(ge=0, le=100)] = 1
    """minActions: the caption names at least this many actions of objects (A). 0 switches the rule off."""
    action_rule: Literal["SubjectOrObject", "Subject"] = "SubjectOrObject"
    """actionRule: SubjectOrObject counts a verb with a subject or an object; Subject wants a subject (our two
    readings)."""
    parser: Annotated[Literal["Fast", "Spacy"], Field(json_schema_extra=PLACEMENT)] = "Fast"
    """parser reads the captions: Fast is spaCy's model in NumPy at twice the speed, and falls back to Spacy, with a
    warning, where the two differ on 20 fixed captions. Both give the same scores."""
    text_spotting: TextSpotting = TextSpotting()
    """textSpotting sets the T rule."""
    clip_score: ClipScore | None = None
    """clipScore drops pairs by the similarity of image and caption; unset computes none (ours: not in the paper)."""
    language: Literal["en", "Any"] = "en"
    """language: en drops captions in other languages, which the parser cannot read; Any keeps them (our choice)."""
    language_margin: Annotated[float, Field(ge=0, le=1000)] = 18
    """languageMargin: a caption is dropped as foreign if another language is likelier than English by more than this, as
    the natural logarithm of the ratio of likelihoods; by more than three times this if it has an English function word
    ("the", "with"; our choice)."""
    metadata_limits: Annotated[list[MetadataLimit], Keyed("name"), Field(max_length=16)] = []
    """metadataLimits are bounds on numbers of the .json (NSFW, watermark and similarity scores of other tools); names
    are unique."""
    min_side: Annotated[int, Field(ge=0, le=4096)] = 0
    """minSide drops images whose shorter side has fewer pixels; 0 drops none."""
    max_aspect_ratio: Annotated[float, Field(ge=0, le=1000)] = 0
    """maxAspectRatio drops images whose sides have a larger ratio than this, long to short; 0 drops none."""
    duplicates: Literal["Exact", "Near"] | None = None
    """duplicates drops pairs whose image repeats that of an earlier kept pair of the whole input: Exact compares the
    files, Near also finds the image in another size, encoding or brightness; unset keeps all."""
    exclude: Uri | None = None
    """exclude lists uids, SHA-256 of URLs or SHA-256 of images that must go, one a line."""
    decontaminate: Annotated[list[Text], Field(max_length=64)] = []
    """decontaminate names benchmarks of spec.evaluate: near-duplicates of their images are dropped and counted."""
    junk_field: Text | None = None
    """junkField names the text in the .json by which a pool with known junk tells its kind, a short label ("watermark");
    pairs without it are wanted. For the report only, which shows what each rule drops of each kind; tables of captions
    have none (ours: not in the paper)."""
    scores_from: Annotated[Uri | None, Field(json_schema_extra=PLACEMENT)] = None
    """scoresFrom is the filter folder of another run whose scores are used again under the thresholds of this one."""
    output: Literal["Shards", "KeepList"] = "Shards"
    """output: Shards copies the kept pairs into new shards; KeepList lists them only, and later stages read the raw
    shards by it (nothing is copied, but all is read in each epoch)."""
    workers: Annotated[int, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = 1
    """workers is the number of pods (or processes) that share the shards."""
    max_bad_percent: Annotated[float, Field(ge=0, le=100, json_schema_extra=PLACEMENT)] = 1.0
    """maxBadPercent: above this share of unreadable samples the stage fails with exit code 65."""
    pods: Annotated[Pods | None, Field(json_schema_extra=PLACEMENT)] = None
    """pods overrides spec.pods for this stage."""
