"""Any CLIP-type model, ready to encode: our export, an open_clip folder, name or checkpoint file. Never runs code from a file.

Heavy libraries are imported when a model is loaded, not when this module is.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.api.layout import join
from diht_k8s.recipe.evaluation.architecture import infer_config
from diht_k8s.recipe.evaluation.released import check_digest
from diht_k8s.recipe.shards.storage import Storage

if TYPE_CHECKING:
    import torch
    from PIL import Image

CONFIG_NAME: Final = "open_clip_config.json"
WEIGHT_SUFFIXES: Final = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
"""In order of preference; all but the first are read with torch's `weights_only`."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with what turns pictures and texts into its input."""

    model: torch.nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]
    name: str
    """for reports."""
    config: dict[str, Any]
    """its `model_cfg`, as open_clip writes it."""
    trained: bool = True
    """False for an open_clip name without a tag: random weights."""

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature, exp of the stored parameter."""
        return float(cast("torch.Tensor", self.model.logit_scale).detach().exp().mean())

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_model(source: str, storage: Storage | None = None, *, architecture: str | None = None) -> LoadedModel:
    """Load a model for evaluation, on the GPU where there is one.

    Args:
        source: a folder with `open_clip_config.json` (ours, or any open_clip export; `local-dir:` may stand before it),
            a checkpoint file (.safetensors, or .pt/.pth/.bin/.ckpt read with weights_only; the released DiHT files are such
            .ckpt, and the SHA-256 in such a name is checked), an open_clip `NAME/TAG` (open_clip fetches the weights of
            published tags), or a bare open_clip NAME, which has random weights.
        storage: how to reach it; None for local paths.
        architecture: open_clip name of a checkpoint file's architecture. Unset: `open_clip_config.json` beside the file,
            else what the shapes of its weights tell (CLIP with exact GELU and heads of width 64).

    Raises:
        UserError: no such model, or a pickle that holds more than tensors (it is refused, its code does not run).
        DataError: the weights are damaged, are not those that the file's name promises, or do not fit (the first key is named).
    """
    storage = storage or Storage()
    source = source.removeprefix("local-dir:")
    suffix = PurePosixPath(source).suffix
    if suffix in WEIGHT_SUFFIXES and storage.exists(source):
        return _from_file(source, storage, architecture)
    if storage.exists(join(source, CONFIG_NAME)):
        return _from_folder(source, storage)
    if suffix in WEIGHT_SUFFIXES or storage.exists(source) or "://" in source:
        raise UserError(f"{source} is no model: give a folder with {CONFIG_NAME} or a checkpoint file that exists")
    return _from_name(source)


def _from_folder(folder: str, storage: Storage) -> LoadedModel:
    import open_clip

    weights = [name for name in storage.names(folder) if PurePosixPath(name).suffix in WEIGHT_SUFFIXES]
    if not weights:
        raise UserError(f"{folder} holds {CONFIG_NAME} but no weights (*.safetensors): export the model again")
    with _local_folder(folder, [CONFIG_NAME, *weights], storage) as path, _weight_errors(folder):
        name = f"local-dir:{path}"
        model, _, transform = open_clip.create_model_and_transforms(name, device=_device(), weights_only=True)
        config = _read_config(join(folder, CONFIG_NAME), storage)["model_cfg"]
        return _loaded(model, transform, open_clip.get_tokenizer(name), _short(folder), config)


def _from_file(uri: str, storage: Storage, architecture: str | None) -> LoadedModel:
    import open_clip

    beside = join(uri.rpartition("/")[0] or ".", CONFIG_NAME)
    with _local_file(uri, storage) as path, tempfile.TemporaryDirectory() as folder, _weight_errors(uri):
        check_digest(path, uri)
        weights: Any = open_clip.factory.load_state_dict(str(path), weights_only=True)
        if architecture is not None:
            document = {"model_cfg": _known_config(architecture)}
        elif storage.exists(beside):
            document = _read_config(beside, storage)
        else:
            document = {"model_cfg": infer_config({key: tuple(value.shape) for key, value in weights.items()}, uri)}
        Path(folder, CONFIG_NAME).write_text(json.dumps(document))
        name = f"local-dir:{folder}"
        model, _, transform = open_clip.create_model_and_transforms(name, device=_device())
        open_clip.factory.load_checkpoint(cast("Any", model), str(path), weights_only=True)
        return _loaded(model, transform, open_clip.get_tokenizer(name), _short(uri), document["model_cfg"])


def _from_name(source: str) -> LoadedModel:
    import open_clip
    import torch

    name, _, tag = source.removeprefix("open_clip/").partition("/")
    config = _known_config(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise UserError(f"{name} has no weights {tag!r}: choose one of {', '.join(tags) or 'none'}, or give a folder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are at least the same each time
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=tag or None, device=_device())
    return _loaded(model, transform, open_clip.get_tokenizer(name), source, config, trained=bool(tag))


def _loaded(
    model: Any, transform: Any, tokenizer: Any, name: str, config: dict[str, Any], *, trained: bool = True
) -> LoadedModel:
    return LoadedModel(model.eval(), transform, tokenizer, name, config, trained)


def _known_config(name: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), 1)
        hint = f"did you mean {near[0]}?" if near else "`open_clip.list_models()` has the names"
        raise UserError(f"{name} is neither a model that open_clip knows nor a path that exists: {hint}")
    return config


def _read_config(uri: str, storage: Storage) -> dict[str, Any]:
    try:
        document = json.loads(storage.read_text(uri))
        return {"model_cfg": document["model_cfg"], "preprocess_cfg": document.get("preprocess_cfg", {})}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged ({error!r}): it must hold model_cfg") from error


@contextlib.contextmanager
def _local_folder(folder: str, names: list[str], storage: Storage) -> Iterator[Path]:
    local = storage.local_path(folder)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            Path(temporary, name).write_bytes(storage.read_bytes(join(folder, name)))
        yield Path(temporary)


@contextlib.contextmanager
def _local_file(uri: str, storage: Storage) -> Iterator[Path]:
    local = storage.local_path(uri)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, PurePosixPath(uri).name)
        path.write_bytes(storage.read_bytes(uri))
        yield path


@contextlib.contextmanager
def _weight_errors(uri: str) -> Iterator[None]:
    """What open_clip, torch and safetensors raise, as one line that names the first key."""
    from safetensors import SafetensorError

    try:
        yield
    except DihtError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{uri} is refused: it is damaged or holds more than tensors, and code from a file is never run; "
            "save its state_dict as .safetensors"
        ) from error
    except (SafetensorError, EOFError) as error:
        raise DataError(f"{uri} is damaged ({error}): fetch or export it again") from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{uri} does not fit its architecture: {_first_key(str(error))}") from error


def _first_key(message: str) -> str:
    """The first key that torch's long message about weights names, with what is wrong with it."""
    patterns = (
        (r'Missing key\(s\) in state_dict: "([^"]+)"', "{} is missing"),
        (r"size mismatch for ([^\s:]+):", "{} has another shape"),
        (r'Unexpected key\(s\) in state_dict: "([^"]+)"', "{} is not known"),
    )
    for pattern, text in patterns:
        if (found := re.search(pattern, message)) is not None:
            return text.format(found.group(1))
    return " ".join(message.split())[:200]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _short(uri: str) -> str:
    """The last parts of a path: reports are shown to others, whom the rest does not concern."""
    return "/".join(uri.rstrip("/").split("/")[-2:])
