"""`load_model` for any CLIP-type model: our export, an open_clip folder, name or checkpoint file. No code in a file
runs.

Heavy libraries are imported when a model is loaded, not when this module is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast

from diht_k8s.api.errors import DataError, DihtError, UserError, in_one_line, suggestion
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import (
    CONFIG_NAME,
    folder_of,
    is_weights,
    texts_in,
    weights_in,
    without_prefix,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image

ASSUMED: Final = "exact GELU and attention heads of width 64"
"""What shapes do not determine. True of the released DiHT models, not of OpenAI's, which need a configuration."""
HEAD_WIDTH: Final = 64
"""Width of an attention head in all published CLIP models; the shapes do not determine it."""
_NAMED_DIGEST: Final = re.compile(r"_([0-9a-f]{64})\.ckpt$")
"""Released DiHT checkpoints are plain state dicts, written by torch.save, whose file name ends in their own SHA-256
(`diht_vitb32_224px_<64 hex digits>.ckpt`; model_zoo.py of the official repository).
"""
PREPROCESSING: Final = ("mean", "std", "interpolation", "resize_mode")

Shapes = Mapping[str, tuple[int, ...]]
Document = dict[str, Any]
"""Content of `open_clip_config.json`: `model_cfg` and `preprocess_cfg`."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its image transform and its tokenizer."""

    model: torch.nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]
    name: str
    """for reports."""
    config: dict[str, Any]
    """its `model_cfg`, as open_clip writes it."""
    trained: bool = True
    """False for an open_clip name without a tag: random weights."""
    assumed: str = ""
    """what was assumed about a checkpoint without a configuration, for reports."""

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature, exp of the stored parameter."""
        return float(cast("torch.Tensor", self.model.logit_scale).detach().exp().mean())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load_model(source: str, storage: Storage | None = None, *, architecture: str | None = None) -> LoadedModel:
    """Load a model for evaluation, on the GPU if there is one.

    Args:
        source: a folder with `open_clip_config.json` (ours, or any open_clip export; `local-dir:` may stand before it),
            a checkpoint file (.safetensors, or .pt/.pth/.bin/.ckpt read with weights_only; the released DiHT files are
            .ckpt, and the SHA-256 in their name is checked), an open_clip `NAME/TAG` (open_clip fetches the weights of
            published tags), or a bare open_clip NAME, which has random weights.
        storage: how to reach it; None for local paths.
        architecture: open_clip name of a checkpoint file's architecture. Unset: `open_clip_config.json` beside it,
            else inferred from the shapes of its weights (CLIP with exact GELU and heads of width 64).

    Raises:
        UserError: no such model, or a pickle that holds more than tensors (it is refused; its code does not run).
        DataError: the weights are damaged, differ from the digest in the name, or do not fit (the first key is named).
    """
    storage, source = storage or Storage(), without_prefix(source)
    weights = find_weights(source, storage)
    if weights is None:
        return _from_name(source)
    return _from_file(weights, storage, architecture, _short_name(source))


def find_weights(source: str, storage: Storage) -> str | None:
    """The weights file of a model, which is not read; None for what can only be a name of open_clip's.

    Raises:
        UserError: no such file, or a folder without a model.
    """
    if is_weights(source) and storage.exists(source):
        return source
    if storage.exists(join(source, CONFIG_NAME)):
        return weights_in(source, storage)
    if is_weights(source) or storage.exists(source) or "://" in source or source.startswith(("/", ".", "~")):
        raise UserError(f"{source} is not a model: give a folder with {CONFIG_NAME} or a checkpoint file that exists")
    return None


def _from_file(uri: str, storage: Storage, architecture: str | None, name: str) -> LoadedModel:
    import open_clip

    with tempfile.TemporaryDirectory() as temporary, _model_errors(uri):
        folder = Path(temporary)
        weights = _fetched(uri, folder, storage)
        _check_digest(weights, uri)
        document, assumed = _configuration(uri, weights, storage, architecture)
        (folder / CONFIG_NAME).write_text(json.dumps(document))
        place = f"local-dir:{folder}"
        made: Any = open_clip.create_model_from_pretrained(place, device=_device(), weights_only=True)
        model, transform = made
        tokenizer = open_clip.get_tokenizer(architecture or place)
        return LoadedModel(_prepared(model), transform, tokenizer, name, document["model_cfg"], assumed=assumed)


def _prepared(model: Any) -> torch.nn.Module:
    """In evaluation mode; convolutional towers use channels-last memory, 1.4 x as fast with equal results."""
    import torch

    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.visual.modules())
    if convolutions > 1:  # the only one of a transformer embeds the patches
        model.visual.to(memory_format=torch.channels_last)
    return model.eval()


def _fetched(uri: str, folder: Path, storage: Storage) -> Path:
    """Weights and tokenizer files, copied to a folder under names that open_clip looks for."""
    suffix = ".safetensors" if uri.endswith(".safetensors") else ".bin"
    place, beside = folder / f"open_clip_model{suffix}", folder_of(uri)
    texts = [(join(beside, name), folder / name) for name in texts_in(beside, storage)]
    for source, target in [(uri, place), *texts]:
        if (local := storage.local_path(source)) is not None:
            target.symlink_to(local)
        else:
            target.write_bytes(storage.read_bytes(source))
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    return place


def _configuration(uri: str, weights: Path, storage: Storage, architecture: str | None) -> tuple[Document, str]:
    """The configuration of a weights file (named, else beside it, else inferred from shapes), and what it assumes."""
    beside = join(folder_of(uri), CONFIG_NAME)
    document = _read_config(beside, storage) if storage.exists(beside) else None
    if architecture is not None:
        preprocessing = document["preprocess_cfg"] if document is not None else _published_preprocessing(architecture)
        return {"model_cfg": _known_config(architecture), "preprocess_cfg": preprocessing}, ""
    if document is not None:
        return document, ""
    import open_clip

    content: Any = open_clip.factory.load_state_dict(str(weights), weights_only=True)
    config = _infer_config({key: tuple(value.shape) for key, value in content.items()}, uri)
    return {"model_cfg": config, "preprocess_cfg": {}}, ASSUMED if _named_digest(uri) is None else ""


def _named_digest(uri: str) -> str | None:
    """The SHA-256 in the name of a released checkpoint."""
    named = _NAMED_DIGEST.search(PurePosixPath(uri).name)
    return None if named is None else named.group(1)


def _check_digest(path: Path, uri: str) -> None:
    """Compare a file with the SHA-256 in its name, if it has one.

    Raises:
        DataError: the digests differ.
    """
    named = _named_digest(uri)
    if named is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != named:
        raise DataError(f"{uri} is damaged: its SHA-256 is {digest[:12]}..., not the one in its name: fetch it again")


def _infer_config(shapes: Shapes, uri: str) -> dict[str, Any]:
    """The configuration of a plain CLIP (ViT or ModifiedResNet image tower, GPT-like text tower, exact GELU).

    Args:
        shapes: key of the state dict -> shape.
        uri: for the error message.

    Raises:
        UserError: the weights are of another kind of model.
    """
    try:
        width = shapes["ln_final.weight"][0]
        return {
            "embed_dim": shapes["text_projection"][1],
            "quick_gelu": False,
            "vision_cfg": _vit(shapes) if "visual.proj" in shapes else _resnet(shapes),
            "text_cfg": {
                "context_length": shapes["positional_embedding"][0],
                "vocab_size": shapes["token_embedding.weight"][0],
                "width": width,
                "heads": max(1, width // HEAD_WIDTH),
                "layers": _blocks(shapes, "transformer.resblocks."),
            },
        }
    except KeyError as error:
        raise UserError(
            f"{uri}: its shapes do not determine its architecture ({error.args[0]} is missing): "
            "put open_clip_config.json beside it, or name the architecture"
        ) from error


def _vit(shapes: Shapes) -> dict[str, Any]:
    width, _, _, patch = shapes["visual.conv1.weight"]
    grid = isqrt(shapes["visual.positional_embedding"][0] - 1)
    return {
        "width": width,
        "patch_size": patch,
        "image_size": patch * grid,
        "layers": _blocks(shapes, "visual.transformer.resblocks."),
        "head_width": min(HEAD_WIDTH, width),
    }


def _resnet(shapes: Shapes) -> dict[str, Any]:
    grid = isqrt(shapes["visual.attnpool.positional_embedding"][0] - 1)
    return {
        "width": shapes["visual.layer1.0.conv1.weight"][0],
        "image_size": grid * 32,
        "layers": [_blocks(shapes, f"visual.layer{number}.") for number in (1, 2, 3, 4)],
    }


def _blocks(shapes: Shapes, prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})


def _published_preprocessing(architecture: str) -> Document:
    """Mean, deviation and resizing if all published weights of an architecture share them, else {} (CLIP's)."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    found = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    shared = [{key: tag[key] for key in PREPROCESSING} for tag in found]
    return shared[0] if shared and all(each == shared[0] for each in shared) else {}


def _from_name(source: str) -> LoadedModel:
    import open_clip
    import torch

    name, tag, config = published(source)
    # open_clip only warns if weights trained with QuickGELU meet a configuration with exact GELU
    quick = bool(tag and open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")) or config.get("quick_gelu", False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random weights every time
        made: Any = open_clip.create_model_and_transforms(
            name, pretrained=tag or None, device=_device(), force_quick_gelu=quick
        )
    model, _, transform = made
    config = {**config, "quick_gelu": True} if quick else config
    return LoadedModel(_prepared(model), transform, open_clip.get_tokenizer(name), source, config, trained=bool(tag))


def published(source: str) -> tuple[str, str, dict[str, Any]]:
    """Name, tag ("" for random weights) and `model_cfg` of what open_clip publishes as `NAME` or `NAME/TAG`.

    Raises:
        UserError: open_clip has no such model, or no such weights of it.
    """
    import open_clip

    name, _, tag = source.removeprefix("open_clip/").partition("/")
    config = _known_config(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise UserError(f"{name} has no weights {tag!r}: choose one of {', '.join(tags) or 'none'}, or give a folder")
    return name, tag, config


def _known_config(name: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        hint = suggestion(name, open_clip.list_models(), "`open_clip.list_models()` has the names")
        raise UserError(f"{name} is neither an open_clip model nor an existing path: {hint}")
    return config


def _read_config(uri: str, storage: Storage) -> Document:
    try:
        document = json.loads(storage.read_text(uri))
        return {"model_cfg": document["model_cfg"], "preprocess_cfg": document.get("preprocess_cfg", {})}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged ({error!r}): it must hold model_cfg") from error


@contextlib.contextmanager
def _model_errors(uri: str) -> Iterator[None]:
    """Turns errors of open_clip, torch and safetensors into one line that names the first key."""
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
        raise DataError(f"{uri} is damaged ({str(error) or 'it ends too early'}): fetch or export it again") from error
    except OSError as error:  # a text tower of another library, whose tokenizer is not in this folder
        raise UserError(
            f"{uri}: its tokenizer cannot be made ({_first_key(str(error))}): put its files beside"
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{uri} is refused: it is a TorchScript program; save its state_dict as .safetensors"
            ) from error
        raise DataError(f"{uri} does not fit its architecture: {_first_key(str(error))}") from error


def _first_key(message: str) -> str:
    """The first key in torch's long message about weights, and what is wrong with it."""
    patterns = (
        (r'Missing key\(s\) in state_dict: "([^"]+)"', "{} is missing"),
        (r"size mismatch for ([^\s:]+):", "{} has another shape"),
        (r'Unexpected key\(s\) in state_dict: "([^"]+)"', "{} is not known"),
    )
    for pattern, text in patterns:
        if (found := re.search(pattern, message)) is not None:
            return text.format(found.group(1))
    return in_one_line(message)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _short_name(uri: str) -> str:
    """The last parts of a path: reports are shared, and the rest is private."""
    return "/".join(uri.rstrip("/").split("/")[-2:])
