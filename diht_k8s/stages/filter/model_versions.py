"""What scores depend on: the models behind them, as strings that change whenever the scores would, and which other
filter of the output has scores by the same models, so that other thresholds over the same shards parse no caption
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError, install_line
from diht_k8s.api.filter import ClipScore
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import model_digest
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.model_files import parser_module

PARSER_RULES: Final = 9
"""Increment it with every change of the caption rules."""
LANGUAGE_RULES: Final = 2
"""Increment it with every change of the language rule beside its margin."""
SPOTTER_RULES: Final = 3
"""Increment it with every change of the spotter's settings."""
SECOND_PASS_RULES: Final = 3
"""Increment it with every change of the spotter's second pass alone: runs without one keep their texts."""


@cache
def parser_version() -> str:
    """Version of the rules and of spaCy, and the digest of the model's weights."""
    return f"rules-{PARSER_RULES} spacy-{version('spacy')} {_digest(parser_module(), '**/model')}"


@cache
def language_version() -> str:
    """Version of the rule, of the language identifier, and the digest of its model."""
    return f"rules-{LANGUAGE_RULES} py3langid-{version('py3langid')} {_digest('py3langid', 'data/*')}"


@cache
def spotter_version(detector_size: int, precision: str, second_size: int | None = None) -> str:
    """Settings, versions of RapidOCR and OpenVINO, and the digest of RapidOCR's three models. A release of the runtime
    may move last digits of a confidence over a threshold; a device does no more than that, and is left out.
    """
    digest = _digest("rapidocr", "models/*det*.onnx", "models/*cls*.onnx", "models/*rec*.onnx")
    sizes = f"size-{detector_size}" + (
        "" if second_size is None else f" second-{second_size}-rules-{SECOND_PASS_RULES}"
    )
    programs = " ".join(f"{name}-{version(name)}" for name in ("rapidocr", "openvino"))
    return f"rules-{SPOTTER_RULES} {sizes} {precision} {programs} {digest}"


def clip_version(rule: ClipScore, storage: Storage) -> str:
    """Version of open_clip, the architecture if the run names it, and the digest of the model's files; no threshold.

    Raises:
        UserError: the model does not exist.
    """
    try:
        digest = model_digest(rule.model, storage)[:16]
    except UserError as error:
        raise UserError(f"spec.filter.clipScore.model: {error}") from error
    named = "" if rule.architecture is None else f"{rule.architecture} "
    return f"open_clip-{version('open_clip_torch')} {named}{digest}"


def _digest(package: str, *patterns: str) -> str:
    """16 hex digits over the files of an installed package that match the patterns."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed: {install_line('recipe')}")
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(Path(spec.origin).parent.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


_NO_SHARDS = ("exclude list", "benchmark ")
"""Names of inputs that the scores do not depend on begin so (`filter.stage.identify`)."""


def scored_sibling(storage: Storage, layout: Layout, config: Mapping[str, Any]) -> str | None:
    """The complete filter of an output whose scores save most; None if there is none over the same shards.

    Args:
        storage: of the output.
        layout: with the folder of the filter that begins.
        config: of the filter that begins.

    Returns:
        Its folder relative to the output: with the same models if there is one, the first by name among equals.
    """
    found: list[tuple[int, str]] = []
    for name in storage.folders(join(layout.output, Stage.FILTER.value)):
        other = layout.with_folder(Stage.FILTER, join(layout.output, Stage.FILTER.value, name))
        committed = find_committed(storage, other, Stage.FILTER)
        if committed is None or other == layout or _shards(committed.inputs) != _shards(config["inputs"]):
            continue
        programs = committed.config["programs"]
        missing = sum(programs.get(model) != version for model, version in config["programs"].items())
        if programs.get("parser") == config["programs"]["parser"]:
            found.append((missing, other.relative(Stage.FILTER)))
    return min(found)[1] if found else None


def _shards(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: identity for name, identity in inputs.items() if not name.startswith(_NO_SHARDS)}
