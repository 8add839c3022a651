"""The layout of the released DiHT checkpoints: a plain state dict whose file name ends in its own SHA-256.

`diht_vitb32_224px_<64 hex digits>.ckpt` is written by torch.save and holds the weights of one of four CLIP-like models
under open_clip's keys: exact GELU, heads of width 64, no buffers, no configuration. So the shapes determine the model.
(Names and digests: model_zoo.py of the official repository.)
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError

SUFFIX: Final = ".ckpt"
_NAMED_DIGEST: Final = re.compile(r"_([0-9a-f]{64})\.ckpt$")


def names_digest(uri: str) -> bool:
    """Whether a file has the name of a released checkpoint."""
    return _NAMED_DIGEST.search(PurePosixPath(uri).name) is not None


def check_digest(path: Path, uri: str) -> None:
    """Compare a file with the SHA-256 in its name, if it has one.

    Raises:
        DataError: the digests differ.
    """
    named = _NAMED_DIGEST.search(PurePosixPath(uri).name)
    if named is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != named.group(1):
        raise DataError(f"{uri} is damaged: its SHA-256 is {digest[:12]}..., not the one in its name: fetch it again")


def digest_name(stem: str, content: bytes) -> str:
    """The file name under which such a checkpoint is published."""
    return f"{stem}_{hashlib.sha256(content).hexdigest()}{SUFFIX}"


def check_layout(config: dict[str, Any], inferred: dict[str, Any], name: str) -> None:
    """Such a file holds no configuration, so it can hold only models that the shapes of their weights determine.

    Args:
        config: `model_cfg` of the model.
        inferred: from its shapes (`architecture.infer_config`).
        name: of the model, for the error message.

    Raises:
        UserError: the model has a setting that the shapes do not determine.
    """
    import open_clip

    def whole(document: dict[str, Any]) -> dict[str, Any]:
        vision = open_clip.CLIPVisionCfg(**document["vision_cfg"])
        text = open_clip.CLIPTextCfg(**document["text_cfg"])
        rest = {key: value for key, value in document.items() if key not in ("vision_cfg", "text_cfg")}
        return {"quick_gelu": False, **rest, **_prefixed("vision_cfg", vision), **_prefixed("text_cfg", text)}

    ours, found = whole(config), whole(inferred)
    other = sorted(key for key in ours.keys() | found.keys() if ours.get(key) != found.get(key))
    if other:
        raise UserError(
            f"{name} cannot be written as a released DiHT checkpoint: its file holds no configuration, and the shapes "
            f"do not determine {', '.join(other)}: convert it to a folder"
        )


def _prefixed(prefix: str, config: object) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in vars(config).items()}
