"""`spec.train`: model, optimiser, loss, distillation and gang. Numbers are our defaults unless stated otherwise."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from diht_k8s.api.base import PLACEMENT, Count, Fraction, Model, Text, Uri
from diht_k8s.api.data import FewEnough, Shards
from diht_k8s.api.pods import Pods

Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
WEIGHT_SUFFIXES: Final = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
"""Of files of weights, in order of preference; all but the first are read with torch's `weights_only`."""
FEW_PAIRS: Final = (
    "train.batchSize must be at least 2 and numNodes x processesPerNode, so that processes have pairs: raise it, "
    "or lower these"
)
LOCKED_FEATURES: Final = (
    "train.features Stored needs lockImageTower: true: the features of a tower that learns change in each step"
)
STORED_VIEWS: Final = (
    "train.featureViews needs features: Stored, of which it is the number: remove it, or store features"
)
RIDGE_START: Final = (
    "train.textStart Ridge needs lockImageTower: true and features: Stored, which are at hand before the first step"
)
WORDS_START: Final = "train.words needs textStart: Ridge, which reads it: remove words, or set textStart: Ridge"
REGRESSION_WORDS: Final = (
    "train.distillation.regression needs train.words and textStart: Ridge, from which it is fitted: give both, or "
    "remove it"
)
INTERPOLATE_HELD_OUT: Final = (
    "train.interpolate needs train.validation, whose pairs choose the share: give its shards, or remove interpolate"
)
NO_DROPPED_PATCHES: Final = (
    "train.patchDropout does not go with lockImageTower, whose tower sees all patches: give only one of them"
)
TEXT_EMBEDDINGS: Final = (
    "train.distillation.embeddings needs a teacher of images and captions: give label.teacher.textEmbeddings: true, or "
    "train.labels of a run that had it"
)
OWN_CAPTIONS: Final = (
    "train.distillation.embeddings does not go with train.captions Drawn: the teacher has read each pair's own "
    "caption: give captions: First"
)
MANY_NODES: Final = "train.minNodes must be at most numNodes, which is the wish: lower it, or raise numNodes"
ELASTIC_QUEUE: Final = (
    "train.minNodes does not go with a queue of Kueue in which each attempt waits again: give pods.queueing: "
    "PerRun, or "
    "remove minNodes"
)
ELASTIC_TOPOLOGY: Final = (
    "train.minNodes does not go with pods.topology, by which Kueue chooses the places of all nodes at once: give "
    "only one "
    "of them"
)
DECAY_SHARE: Final = 0.2
DECAY_OF_WSD: Final = "train.schedule.decayShare is of type WSD alone: give type: WSD, or remove it"
LATE_WARMUP: Final = (
    "train.schedule.warmupSamples reaches into the decay of WSD, the last decayShare of train.samples: give "
    "fewer, or a smaller decayShare"
)
STAGE_SAMPLES: Final = "train.stages must have train.samples in all: change the samples of a stage, or train.samples"
STAGE_SIZES: Final = (
    "train.stages must not fall in imageSize, of which the last is the model's: give the smaller ones first"
)
STAGES_HAVE_SIZES: Final = (
    "train.imageSize does not go with train.stages, whose last imageSize is the model's: remove it"
)
STAGES_LEARN: Final = (
    "train.stages does not go with lockImageTower, whose tower was trained at one size: give only one of them"
)
CLIPS_ONLY: Final = "the training has CLIP's text tower and tokenizer only, choose such a model"


def few_pairs(batch_size: int, processes: int) -> str | None:
    """What is wrong with a batch that leaves a process without a pair, or one pair without another; None if nothing
    is.
    """
    return None if batch_size >= max(2, processes) else f"{FEW_PAIRS} ({batch_size} pairs, {processes} processes)"


class Optimizer(Model):
    """AdamW."""

    lr: Positive = 5.0e-4
    """lr at the schedule's peak."""
    weight_decay: NotNegative = 0.2
    """weightDecay, not applied to gains, biases and the logit scale."""
    beta1: Fraction = 0.9
    """beta1 of AdamW."""
    beta2: Fraction = 0.98
    """beta2 of AdamW."""
    eps: Positive = 1.0e-6
    """eps of AdamW."""
    gradient_clip_norm: NotNegative = 1.0
    """gradientClipNorm: the global norm at which gradients are clipped; 0 switches it off."""


class Schedule(Model):
    """The learning rate over samples seen."""

    type: Literal["Cosine", "Constant", "WSD"] = "Cosine"
    """type: after the warm-up Cosine decays all the time, Constant never, WSD at the end, by one minus the square root
    (arXiv 2405.18392)."""
    warmup_samples: Annotated[int, Field(ge=0, le=2**62)] = 0
    """warmupSamples over which lr rises linearly."""
    decay_share: Annotated[float | None, Field(gt=0, le=1)] = None
    """decayShare of train.samples over which WSD decays; unset takes 0.2."""
    min_lr: NotNegative = 0.0
    """minLr at the end of the decay."""

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.decay_share is not None and self.type != "WSD":
            raise ValueError(DECAY_OF_WSD)
        return self

    def decay_begin(self, samples: int) -> float:
        """Samples after which WSD decays, of `samples` in all."""
        return (1.0 - (DECAY_SHARE if self.decay_share is None else self.decay_share)) * float(samples)


class Loss(Model):
    """HN-NCE, from memory of the paper. alpha 1 and beta 0 is InfoNCE."""

    alpha: Fraction = 1.0
    """alpha weighs the positive in the denominator; 0 is the decoupled form."""
    beta: Annotated[float, Field(ge=0, le=16)] = 0.25
    """beta concentrates the weights on hard negatives; 0 weighs all alike."""
    differentiate_weights: bool = True
    """differentiateWeights lets gradients flow through the weights (ours)."""
    max_logit_scale: Positive = 100.0
    """maxLogitScale caps the learned inverse temperature."""
    mask_duplicate_captions: bool = False
    """maskDuplicateCaptions keeps images with the same caption out of the negatives."""


class Embeddings(Model):
    """A CLIP-type teacher's embeddings as a target (ours, after MobileCLIP and TinyCLIP)."""

    weight: NotNegative = 1.0
    """weight beside the contrastive loss."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.01
    """temperature of the teacher's similarities; 0.01 fits most released CLIPs."""


class Regression(Model):
    """A regression from words to the images' embeddings as the texts' teacher (ours)."""

    weight: NotNegative = 100.0
    """weight beside the contrastive loss."""


class Distillation(Model):
    """The student's side of concept distillation."""

    mode: Literal["Concepts", "Disabled"] = "Concepts"
    """mode: Concepts adds two heads and their cross-entropies, Disabled none."""
    weight: NotNegative = 0.5
    """weight of both cross-entropies together (our contrastive loss averages the directions that the paper adds)."""
    head_lr_scale: Positive = 10.0
    """headLrScale multiplies lr for the heads."""
    head_weight_decay_scale: NotNegative = 0.01
    """headWeightDecayScale multiplies weightDecay for the heads."""
    heads_input: Literal["Embedding", "Tower"] = "Embedding"
    """headsInput: Embedding reads the image embedding before normalisation, Tower what its projection reads."""
    embeddings: Embeddings | None = None
    """embeddings adds a loss towards a teacher's image-text similarities; needs labels with
    label.teacher.textEmbeddings."""
    regression: Regression | None = None
    """regression adds a loss towards what a kernel regression on train.words predicts for texts made up of captions and
    words; for small pools; the image embedding stays as it starts."""

    @property
    def reads_labels(self) -> bool:
        """Whether a training reads what the stage label has made."""
        return self.mode == "Concepts" or self.embeddings is not None


class InitFrom(Model):
    """Where the first weights come from."""

    uri: Uri
    """uri of weights (.safetensors, .pt), an exported model (OUTPUT/train/DIGEST/model), a checkpoint
    (OUTPUT/train/DIGEST/checkpoints/step-N), or an installed `timm/NAME`."""
    kind: Literal["Weights", "Checkpoint"] = "Weights"
    """kind: Weights starts a new training, Checkpoint resumes with optimiser and position."""

    @property
    def names_network(self) -> bool:
        """Whether `uri` is `timm/NAME` and no path."""
        path = PurePosixPath(self.uri)
        return path.parts[0] == "timm" and len(path.parts) == 2 and path.suffix not in WEIGHT_SUFFIXES


class Order(Model):
    """The order of pairs: lanes of blocks that each epoch shuffles, mixed within a window."""

    lanes: Annotated[int | None, Field(ge=1, le=65536)] = None
    """lanes from which each batch takes as many pairs: the largest divisor of batchSize up to this; unset means
    1,024."""
    block: Annotated[int | None, Field(ge=1, le=65536)] = None
    """block of consecutive pairs, one range request; unset means 64."""
    window: Count | None = None
    """window of pairs, over all lanes, to mix; unset takes a hundredth of an epoch less a block a lane, at most
    524,288, but at least 32,768 and two batches."""


class Checkpoint(Model):
    """When the state is saved."""

    every_seconds: Count | None = 900
    """everySeconds between two checkpoints."""
    every_samples: Count | None = None
    """everySamples in place of everySeconds."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """keep this many of the newest."""
    max_failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """maxFailures in a row, after which the training ends with exit code 75."""


class Validation(Model):
    """Held-out loss during training."""

    shards: Shards
    """shards of held-out pairs."""
    every_samples: Count = 100_000_000
    """everySamples between two validations."""


class ResolutionStage(Model):
    """A part of the training at one image size."""

    image_size: Annotated[int, Field(ge=16, le=1024)]
    """imageSize in pixels."""
    samples: Count
    """samples seen at it."""


class Train(Model):
    """How the model is trained."""

    model: Text | None = None
    """model: an architecture by open_clip's name; or set modelConfig."""
    model_config_: Annotated[dict[str, Any] | None, Field(alias="modelConfig", max_length=64)] = None
    """modelConfig: an open_clip configuration (embed_dim, vision_cfg, text_cfg)."""
    shards: Annotated[list[Uri], Field(max_length=256), FewEnough] = []
    """shards in place of the filter's output."""
    labels: Uri | None = None
    """labels of another run, OUTPUT/label/DIGEST."""
    samples: Count
    """samples seen, over all epochs."""
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """seed of weights, order and augmentation, not of filter and labels; unset takes spec.seed."""
    batch_size: Count = 32768
    """batchSize over all processes; gradient caching makes it independent of their memory."""
    micro_batch_size: Annotated[Count | None, Field(json_schema_extra=PLACEMENT)] = None
    """microBatchSize of a process at once, at most; unset takes its share of the batch."""
    image_size: Annotated[int | None, Field(ge=16, le=1024)] = None
    """imageSize in pixels; unset takes the model's; another resizes position embeddings."""
    stages: Annotated[list[ResolutionStage], Field(max_length=16)] = []
    """stages of rising imageSize, the last one the model's, with train.samples in all; smaller images see positions
    resampled (open_clip's own ViT and ResNet)."""
    normalisation: Literal["CLIP", "Network"] | None = None
    """normalisation of pixels: CLIP's, or that of modelConfig's timm Network; unset takes initFrom's (Network for
    `timm/NAME`), else CLIP."""
    optimizer: Optimizer = Optimizer()
    """optimizer: AdamW."""
    schedule: Schedule = Schedule()
    """schedule: the learning rate over time."""
    loss: Loss = Loss()
    """loss: HN-NCE."""
    distillation: Distillation = Distillation()
    """distillation: the concept heads."""
    init_from: InitFrom | None = None
    """initFrom: weights or a checkpoint to start from."""
    order: Order = Order()
    """order: how pairs are shuffled and read."""
    captions: Literal["First", "Drawn"] = "First"
    """captions: First trains on a pair's own caption; Drawn draws one of `captions` in its .json each epoch, by
    `caption_weights`."""
    lock_image_tower: bool = False
    """lockImageTower trains the text side only, and a timm tower's projection."""
    features: Literal["Computed", "Stored"] = "Computed"
    """features of a locked tower: Computed encodes augmented images each step, Stored each image once, into
    OUTPUT/features."""
    feature_views: Annotated[int, Field(ge=1, le=64)] = 1
    """featureViews stored of an image, one an epoch: the whole image, then random crops."""
    text_start: Literal["Random", "Ridge"] = "Random"
    """textStart: Ridge begins with a ridge regression from words to stored features, for small pools."""
    words: Uri | None = None
    """words: a table of words and their vectors for textStart Ridge: .safetensors, or text as GloVe's or fastText's
    (.gz too)."""
    patch_dropout: Fraction = 0.0
    """patchDropout: the share of an image's patches dropped (ViT only)."""
    interpolate: Annotated[list[Fraction], Field(max_length=16)] = []
    """interpolate: shares of the way from the first weights (0) to the last ones (1); the weights that find most of
    validation's pairs are exported; without shares the last ones."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """ema: the decay of averaged weights, which are exported; 0 switches it off."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """precision of the matrix products; master weights stay fp32."""
    deterministic: Annotated[Literal["Auto", "Enabled", "Disabled"], Field(json_schema_extra=PLACEMENT)] = "Auto"
    """deterministic algorithms; Auto: on CPUs only, where a resumed training ends with the same bits."""
    gradient_reduction: Annotated[Literal["fp32", "bf16"], Field(json_schema_extra=PLACEMENT)] = "fp32"
    """gradientReduction: precision of gradients' sums over processes; bf16 halves the traffic."""
    zero_stage: Annotated[int, Field(ge=0, le=3, json_schema_extra=PLACEMENT)] = 1
    """zeroStage of DeepSpeed: 0 replicates, 1 shards optimiser state, 2 gradients too, 3 parameters too."""
    offload: Annotated[Literal["None", "Optimizer", "Parameters"], Field(json_schema_extra=PLACEMENT)] = "None"
    """offload moves optimiser state or parameters to the host's memory."""
    activation_checkpointing: Annotated[bool, Field(json_schema_extra=PLACEMENT)] = False
    """activationCheckpointing recomputes activations: less memory, more time."""
    compile: Annotated[bool, Field(json_schema_extra=PLACEMENT)] = False
    """compile uses torch.compile on residual blocks; needs zeroStage 0 to 2 and a compiler (the image has one)."""
    profile_steps: Annotated[int, Field(ge=0, le=1000, json_schema_extra=PLACEMENT)] = 0
    """profileSteps of each rank to record after the first ten, into train/profile/."""
    loader_workers: Annotated[int | None, Field(ge=0, le=256, json_schema_extra=PLACEMENT)] = None
    """loaderWorkers per process; 0 uses a thread; unset takes the pod's CPUs per process less one on GPUs, 0 on
    CPUs and with features: Stored."""
    collective_timeout_seconds: Annotated[int, Field(ge=30, le=86400, json_schema_extra=PLACEMENT)] = 600
    """collectiveTimeoutSeconds that a rank waits for others before the gang ends with exit code 75."""
    min_bus_bandwidth: Annotated[Positive | None, Field(json_schema_extra=PLACEMENT)] = None
    """minBusBandwidth in GB/s (as nccl-tests counts), below which the gang ends with exit code 75."""
    num_nodes: Annotated[int, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = 1
    """numNodes: pods of the gang; with minNodes those wished for."""
    min_nodes: Annotated[int | None, Field(ge=1, le=4096, json_schema_extra=PLACEMENT)] = None
    """minNodes with which the training goes on while others are missing; unset waits for numNodes."""
    processes_per_node: Annotated[int, Field(ge=1, le=64, json_schema_extra=PLACEMENT)] = 1
    """processesPerNode: ranks in a pod, one a GPU."""
    checkpoint: Annotated[Checkpoint, Field(json_schema_extra=PLACEMENT)] = Checkpoint()
    """checkpoint: when the state is saved."""
    validation: Annotated[Validation | None, Field(json_schema_extra=PLACEMENT)] = None
    """validation: the loss on held-out pairs."""
    pods: Annotated[Pods | None, Field(json_schema_extra=PLACEMENT)] = None
    """pods is merged over spec.pods."""
