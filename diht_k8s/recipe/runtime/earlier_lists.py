"""What a stage of an earlier version has written, which kept no lists: recognised by the names that it gives files.

A file counts only if its name has the form of an artefact of the stage, with a shard's name that the run's markers know
where it carries one. Everything else in the folder is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from diht_k8s.api.run import Stage

NAMES: Final[dict[Stage, re.Pattern[str]]] = {
    Stage.FILTER: re.compile(
        r"report\.json|PURGE\.json|claims/end of the stage\.json"
        r"|(scores|fingerprints)/(?P<scores>.+)\.parquet|kept/(?P<kept>.+)\.(tar|parquet)"
        r"|claims/(?P<claim>.+?)( duplicates)?\.json"
    ),
    Stage.LABEL: re.compile(
        r"vocabulary\.json|heads\.json|teacher_heads\.safetensors|report\.json"
        r"|heads/(objects|attributes)\.(safetensors|state)"
        r"|features/(?P<features>.+)\.safetensors|labels/(?P<labels>.+)\.parquet"
    ),
    Stage.TRAIN: re.compile(
        r"metrics\.jsonl|result\.json|concept_heads\.safetensors|not_finite-\d{5}\.json|epochs/\d{6}"
        r"|model/(README\.md|open_clip_config\.json|open_clip_model\.safetensors)"
        r"|tensorboard/events\.out\.tfevents\.0\.diht|profile/rank-\d{5}\.(json\.gz|txt)"
        r"|checkpoints/step-\d{9}/(COMMITTED\.json|state-\d{5}-\d{6}\.safetensors)"
    ),
    Stage.EVALUATE: re.compile(r"report\.(json|html)|benchmarks/\d{3}\.json|features/\d{5}\.safetensors"),
}
"""The files of each stage but its markers; a group is the name of a shard."""
_LABELS: Final = re.compile(r"labels/(?P<shard>.+)\.parquet")


def shard_names(configs: Iterable[Mapping[str, Any]], artefacts: Iterable[str]) -> set[str]:
    """The shards that the markers of a run name.

    Args:
        configs: configurations of the filter, whose inputs are named by shard.
        artefacts: paths of committed files of the stage label.
    """
    names = {str(name) for config in configs for name in config.get("inputs", {})}
    return names | {found["shard"] for path in artefacts if (found := _LABELS.fullmatch(path)) is not None}


def recognised(stage: Stage, files: Iterable[str], shards: Collection[str]) -> list[str]:
    """Those of the files that the stage has written, by their names."""
    return [path for path in files if _is_artefact(stage, path, shards)]


def _is_artefact(stage: Stage, path: str, shards: Collection[str]) -> bool:
    found = NAMES[stage].fullmatch(path)
    return found is not None and all(name in shards for name in found.groupdict().values() if name is not None)
