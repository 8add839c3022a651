"""The files of a model: the weights in a folder, the configuration beside a file, and the identity of both.

This is the one place that knows suffixes: the files that are loaded are the files that are identified, so new weights
never pass for evaluated ones. Names and shapes of the tensors are read without their data (a header of safetensors, an
index of torch's files) as tensors on the meta device: a model on that device takes them as it takes real weights, so
whether they fit is asked of the code that loads them. Nothing heavy is imported before.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import join
from diht_k8s.api.train import WEIGHT_SUFFIXES
from diht_k8s.data.shards.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME: Final = "open_clip_config.json"
TEXT_SUFFIXES: Final = (".json", ".txt", ".model")
"""Configurations, and tokenizer files beside the weights."""
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""
MAX_HEADER = 100_000_000
"""As the library has it."""
_PUBLISHED_NAMES: Final = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of published complete models, in open_clip's order; other files beside them are parts or copies."""


def is_weights(name: str) -> bool:
    """Whether a name is that of a weights file."""
    return PurePosixPath(name).suffix in WEIGHT_SUFFIXES


def without_prefix(source: str) -> str:
    """A source without open_clip's prefix for local folders."""
    return source.removeprefix("local-dir:")


def folder_of(uri: str) -> str:
    """The folder of a file."""
    return uri.rpartition("/")[0] or ("/" if uri.startswith("/") else ".")


def weights_in(folder: str, storage: Storage) -> str:
    """The weights file in a model's folder.

    Raises:
        UserError: there is none, or there are several and the names do not decide.
    """
    names = [name for name in storage.names(folder) if is_weights(name)]
    if not names:
        raise UserError(f"{folder} holds {CONFIG_NAME} but no weights (*.safetensors): export the model again")
    if (published := next((name for name in _PUBLISHED_NAMES if name in names), None)) is not None:
        return join(folder, published)
    best = next(suffix for suffix in WEIGHT_SUFFIXES if any(name.endswith(suffix) for name in names))
    found = [name for name in names if name.endswith(best)]
    if len(found) > 1:
        raise UserError(f"{folder} holds several weights files ({', '.join(found[:4])}): name the one that is meant")
    return join(folder, found[0])


def texts_in(folder: str, storage: Storage) -> list[str]:
    """The names of the configurations and tokenizer files in a folder: they are loaded with the weights there."""
    return [name for name in storage.names(folder) if name.endswith(TEXT_SUFFIXES)]


def model_identity(source: str, storage: Storage) -> str:
    """Changes when the model does: the identity of its files, or the release of open_clip for an open_clip name."""
    source = without_prefix(source)
    if not storage.exists(source):
        return f"{source} open_clip {importlib.metadata.version('open_clip_torch')}"
    return _identity(source, storage, storage.identity)


def model_digest(source: str, storage: Storage) -> str:
    """As `model_identity`, but by the content of the files, which are read: a copy elsewhere has the same one.

    Raises:
        UserError: there is no such model.
    """
    source = without_prefix(source)
    if not storage.exists(source):
        raise UserError(f"{source} does not exist: give a folder with {CONFIG_NAME}, or a weights file")
    return sha256_of(_identity(source, storage, lambda uri: weights_sha256(storage, uri)))


def _identity(source: str, storage: Storage, identity: Callable[[str], str]) -> str:
    if is_weights(source):
        folder = folder_of(source)
        texts = texts_in(folder, storage)
        config = [identity(join(folder, CONFIG_NAME))] if CONFIG_NAME in texts else []
        others = [f"{name} {identity(join(folder, name))}" for name in texts if name != CONFIG_NAME]
        return " ".join([identity(source), *config, *others])
    files = [name for name in storage.names(source) if is_weights(name) or name.endswith(TEXT_SUFFIXES)]
    return sha256_of({name: identity(join(source, name)) for name in files})


def weights_sha256(storage: Storage, uri: str) -> str:
    """SHA-256 (hex) of a weights file, read in small parts."""
    digest = hashlib.sha256()
    with storage.open(uri) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_shapes(storage: Storage, uri: str) -> dict[str, Tensor]:
    """The state dict of a file on the meta device.

    Raises:
        DataError: the file is damaged, cut, or holds more than tensors; no code in it runs.
        UserError: it does not exist.
    """
    try:
        return _of_safetensors(storage, uri) if uri.endswith(".safetensors") else _of_torch(storage, uri)
    except DihtError:
        raise
    except Exception as error:  # json, pickle and torch raise many kinds; all mean the same to the user
        raise DataError(f"{uri} is damaged or no file of weights: fetch or export it again") from error


def _of_safetensors(storage: Storage, uri: str) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import _TYPES  # the library's own table of its names

    length = int.from_bytes(storage.read_range(uri, 0, LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise DataError(f"{uri} is damaged or no safetensors file: fetch or export it again")
    header: dict[str, Any] = json.loads(storage.read_range(uri, LENGTH_BYTES, LENGTH_BYTES + length))
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if storage.size(uri) != LENGTH_BYTES + length + end:
        raise DataError(f"{uri} is cut: its header promises {end:,} bytes of weights: fetch or export it again")
    return {
        key: torch.empty(entry["shape"], dtype=_TYPES[entry["dtype"]], device="meta") for key, entry in header.items()
    }


def _of_torch(storage: Storage, uri: str) -> dict[str, Tensor]:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with storage.open(uri, seekable=True) as file, FakeTensorMode():  # which skips the data
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return {
        key.removeprefix("module."): torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in found.items()
        if isinstance(value, torch.Tensor)
    }
