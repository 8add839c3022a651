"""Memory of a micro-batch over time, traced through student, loss and backward pass on fake tensors.

No tensor has data, so a model of any size is traced in seconds on any machine. The real step has parts that depend on
data: captions are cut to the longest one (here they fill the context), and equal captions are counted (here none are).

torch's MemTracker reports its peaks alone. ZeRO changes what gradients hold and not what activations do, so that the
estimate needs both at each moment.

On a GPU autocast differs from that on a CPU in what matters to memory: layer norms run in fp32 and keep their fp32
input, and attention runs in 16 bits. The trace imitates both on CPU tensors, because fake CUDA tensors have no backward
pass without a GPU.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import Train
from diht_k8s.stages.train.estimate.footprint import Moment, Sizes, Trace
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import hn_nce_loss_and_statistics, soft_label_loss
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Features, Student, has_batch_statistics
from diht_k8s.stages.train.optimizer import parameter_groups
from diht_k8s.stages.train.precision import DTYPES, attention_in_fp32

STORED_CLASSES = 10
"""Classes stored of a soft label; their number hardly matters to memory."""
_layer_norm = nn.functional.layer_norm


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and release; on real and on fake tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.moments: list[Moment] = []
        self._held: dict[int, int] = {}
        self._references: dict[int, Any] = {}
        self._gradients: set[int] = set()
        self._other, self._of_gradients = 0, 0
        self._known = {parameter.untyped_storage()._cdata for parameter in [*model.parameters(), *model.buffers()]}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._mark)
            for parameter in model.parameters()
            if parameter.requires_grad
        ]

    @property
    def now(self) -> Moment:
        """Bytes that are held now."""
        return Moment(self._other, self._of_gradients)

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        self.moments.append(self.now)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._held or key in self._known:
            return
        self._held[key] = storage.nbytes()
        self._other += storage.nbytes()
        self._references[key] = weakref.ref(storage, lambda _: self._release(key))

    def _release(self, key: int) -> None:
        size = self._held.pop(key)
        del self._references[key]
        if key in self._gradients:
            self._gradients.remove(key)
            self._of_gradients -= size
        else:
            self._other -= size

    def _mark(self, parameter: Tensor) -> None:
        """Count a finished gradient as one."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._held and key not in self._gradients:
            self._gradients.add(key)
            self._other -= self._held[key]
            self._of_gradients += self._held[key]
            self.moments.append(self.now)


class TracedStudent:
    """A student without data, to be traced at several micro-batches."""

    def __init__(self, train: Train, *, num_objects: int, num_attributes: int, on_cpu: bool = False) -> None:
        """Make the model.

        Args:
            train: the settings.
            num_objects: classes of the object head; 0: no head.
            num_attributes: classes of the attribute head; 0: no head.
            on_cpu: trace what a CPU would do, in place of a GPU.

        Raises:
            UserError: open_clip refuses the model.
        """
        self._train, self._on_cpu = train, on_cpu
        self._classes = (num_objects, num_attributes)
        self._traces: dict[int, Trace] = {}
        self._config = model_configuration(train)
        self._mode = FakeTensorMode()
        with torch.device("meta"):  # not in the mode, in which timm's networks cannot read their rates of dropping
            self._model = Student(
                self._config,
                num_objects=num_objects,
                num_attributes=num_attributes,
                heads_input=train.distillation.heads_input,
            )
        self._model._apply(self._without_data)
        if train.lock_image_tower:
            self._model.lock_image_tower()
        if train.activation_checkpointing:
            self._model.set_grad_checkpointing()

    def _without_data(self, tensor: Tensor) -> Tensor:
        """A tensor of the meta device as one of the host that has no data."""
        return FakeTensor(self._mode, tensor.detach(), torch.device("cpu"))

    @property
    def has_batch_statistics(self) -> bool:
        """Whether it takes statistics over a batch in training."""
        return has_batch_statistics(self._model)

    @property
    def sizes(self) -> Sizes:
        """Numbers of elements and lengths of the model."""
        model, parameters = self._model, list(self._model.parameters())
        stored, validated = self._train.features == "Stored", self._train.validation is not None
        width = 0
        if stored and model.locked is not None:
            with self._mode:
                width = model.locked(torch.empty(1, 3, model.image_size, model.image_size)).shape[-1]
        groups = parameter_groups(model, weight_decay=0.0, head_lr_scale=1.0, head_weight_decay_scale=1.0)
        return Sizes(
            parameters=sum(parameter.numel() for parameter in parameters),
            trained_sizes=tuple(parameter.numel() for parameter in parameters if parameter.requires_grad),
            groups=tuple(tuple(parameter.numel() for parameter in group["params"]) for group in groups),
            buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
            image_side=model.image_size,
            context_length=model.clip.context_length,
            embed_dim=self._config["embed_dim"],
            classes=sum(self._classes),
            locked=0 if model.locked is None or (stored and not validated) else model.locked.elements,
            feature_width=width,
        )

    def trace(self, micro_batch: int) -> Trace:
        """Pass a micro-batch through the model, forward and backward; once for each size.

        Raises:
            UserError: torch refuses it, as BatchNorm refuses a single value a channel.
        """
        if micro_batch not in self._traces:
            try:
                self._traces[micro_batch] = self._traced(micro_batch)
            except ValueError as error:
                raise UserError(
                    f"a micro-batch of {micro_batch} cannot pass through the model ({error}): set "
                    "train.microBatchSize to 2 or "
                    "more, with fewer processes or a larger batchSize if a process has no more"
                ) from error
        return self._traces[micro_batch]

    def _traced(self, micro_batch: int) -> Trace:
        with self._mode, self._device_rules():
            images, tokens, targets = self._inputs(micro_batch)
            images = images.to(DTYPES[self._train.precision])  # as the engine hands them over
            allocations = Allocations(self._model)
            with allocations:
                features = self._forward(images, tokens)
                forward = allocations.now.activations
                tower = max(moment.activations for moment in allocations.moments) if self._model.locked else 0
                loss = self._loss(features, targets)
                begin = len(allocations.moments)
                loss.backward()
            backward = allocations.moments[begin:]
            del features, loss
            for parameter in self._model.parameters():
                parameter.grad = None
        return Trace(micro_batch, forward, _by_gradient(backward), tower)

    def _inputs(self, pairs: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        sizes = self.sizes
        images = torch.empty(pairs, 3, sizes.image_side, sizes.image_side)
        if self._train.features == "Stored":
            images = torch.empty(pairs, sizes.feature_width)
        tokens = torch.zeros(pairs, sizes.context_length, dtype=torch.long)
        ids = torch.zeros(pairs, STORED_CLASSES, dtype=torch.long)
        return images, tokens, (ids, torch.empty(pairs, STORED_CLASSES), torch.ones(pairs, dtype=torch.bool))

    def _forward(self, images_BCHW: Tensor, tokens_BT: Tensor) -> Features:
        dtype, model = DTYPES[self._train.precision], self._model
        # The longest caption decides how far the real step cuts; fake tokens have no longest one.
        model.encode_text = model.text_features  # type: ignore[method-assign]
        with contextlib.nullcontext() if dtype is torch.float32 else torch.autocast("cpu", dtype):
            return model(images_BCHW, tokens_BT, self._train.loss.max_logit_scale)

    def _loss(self, features: Features, targets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        settings = HnNceSettings.of(self._train.loss)
        image_BD, text_BD = features.image_BD, features.text_BD
        if len(image_BD) == 1:  # the other pairs of the batch are of other ranks or micro-batches
            image_BD, text_BD = torch.cat([image_BD] * 2), torch.cat([text_BD] * 2)
        total, _ = hn_nce_loss_and_statistics(image_BD, text_BD, features.logit_scale, settings, None)
        for logits in (features.object_logits_BC, features.attribute_logits_BC):
            if logits is not None:
                total = total + soft_label_loss(logits, *targets)
        return total

    @contextlib.contextmanager
    def _device_rules(self) -> Iterator[None]:
        """Imitate the device's autocast."""
        if self._train.precision == "fp32":
            yield
        elif self._on_cpu:
            with attention_in_fp32():
                yield
        else:
            nn.functional.layer_norm = _layer_norm_in_fp32
            try:
                yield
            finally:
                nn.functional.layer_norm = _layer_norm


def _layer_norm_in_fp32(input: Tensor, *rest: Any, **options: Any) -> Tensor:  # torch's name
    """CUDA's autocast: input widened, output in fp32."""
    with torch.autocast("cpu", enabled=False):
        return _layer_norm(input.float(), *rest, **options)


def _by_gradient(moments: list[Moment]) -> tuple[Moment, ...]:
    """The largest activations since each finished gradient."""
    kept: list[Moment] = []
    for moment in moments:
        if not kept or moment.gradients != kept[-1].gradients:
            kept.append(moment)
        elif moment.activations > kept[-1].activations:
            kept[-1] = moment
    return tuple(kept)
