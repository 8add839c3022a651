"""Redaction of run documents: literal values stay in the user's document and in pod specs.

Everything else that shows a document (artefacts, reports, `DIHT_RUN`, `diht plan`, errors, status) leaves them out.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from diht_k8s.api.base import FieldPath, is_array, is_dict, is_object

REDACTED: Final = "REDACTED"
STAGES: Final = ("filter", "label", "train", "evaluate")
MIN_SECRET_LENGTH: Final = 8
"""Shorter values (`1`, `INFO`) are too common in messages to be replaced there."""
_SECRET_NAME: Final = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIAL", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY: Final = re.compile(r"(?<=\?)[^\s?\"']*=[^\s\"']*")
_OVERRIDE: Final = re.compile(r"(?:--set=)?(?:spec\.)?(?:(?:filter|label|train|evaluate)\.)?pods[.=]")
_PODS: Final = "pods"
_FREE_TEXT: Final = ("env", "annotations", "volumes")


def redacted_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a run document (as JSON) without literal values: those of `pods.env`, of annotations and of CSI
    volumes.
    """
    copy = deepcopy(dict(document))
    for pods in _all_pods(copy):
        for _, variable in _literal_variables(pods):
            variable["value"] = REDACTED
        _redact_values(pods, "annotations")
        for volume in pods.get("volumes") or ():
            for source in volume.values():
                if is_dict(source):
                    _redact_values(source, "volumeAttributes")
                    _redact_values(source, "options")
    return copy


def literals(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The literal values of `pods.env` that are long enough to be recognised in a text, longest first."""
    values = {str(variable["value"]) for pods in _all_pods(document) for _, variable in _literal_variables(pods)}
    return tuple(sorted((value for value in values if len(value) >= MIN_SECRET_LENGTH), key=len, reverse=True))


def redacted_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A text without these secrets, and without credentials and queries of URIs."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _QUERY.sub(REDACTED, _CREDENTIALS.sub(REDACTED, text))


def redacted_override(argument: str) -> str:
    """A command-line argument, without the value where it is an override `PATH=VALUE` of pods."""
    if _OVERRIDE.match(argument):
        head, separator, _ = argument.removeprefix("--set=").partition("=")
        return f"{'--set=' if argument.startswith('--set=') else ''}{head}{separator}{REDACTED if separator else ''}"
    return redacted_text(argument)


def holds_literals(path: FieldPath) -> bool:
    """Whether the value at a path of a document may be a literal value."""
    return _PODS in path and any(name in path for name in _FREE_TEXT)


def suspicious(document: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str]]:
    """The paths of literal values whose name looks like a secret, each with the name."""
    for path, pods in _pods_with_path(document):
        for index, variable in _literal_variables(pods):
            if variable["value"] and _SECRET_NAME.search(variable["name"]):
                yield (*path, "env", index, "value"), variable["name"]


def _literal_variables(pods: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    env = pods.get("env")
    for index, variable in enumerate(env if is_array(env) else ()):
        if is_dict(variable) and variable.get("value") is not None:
            yield index, variable


def _redact_values(owner: dict[str, Any], key: str) -> None:
    if is_dict(owner.get(key)):
        owner[key] = dict.fromkeys(owner[key], REDACTED)


def _all_pods(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (pods for _, pods in _pods_with_path(document))


def _pods_with_path(document: Mapping[str, Any]) -> Iterator[tuple[FieldPath, dict[str, Any]]]:
    spec = document.get("spec")
    if not is_object(spec):
        return
    if is_dict(spec.get(_PODS)):
        yield ("spec", _PODS), spec[_PODS]
    for stage in STAGES:
        config = spec.get(stage)
        if is_object(config) and is_dict(config.get(_PODS)):
            yield ("spec", stage, _PODS), config[_PODS]
