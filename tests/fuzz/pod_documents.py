"""What a generated run document has below `spec.pods`: rules that the schema does not say, and damage."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

SOURCES = (
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "gcePersistentDisk",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "portworxVolume",
    "projected",
    "secret",
    "vsphereVolume",
)
REFERENCES = ("secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef", "fileKeyRef")
TYPED = ("tolerations", "affinity", "env", "volumes", "volumeMounts")
"""Fields of `pods` that hold objects of Kubernetes."""
OWN_VOLUMES = ("dshm", "tmp")


def correct_pods(rng: random.Random, spec: dict[str, Any]) -> None:
    """Make the rules between the fields of pods hold in all pods of a spec."""
    common = spec.get("pods", {})
    stages = [
        spec[stage]["pods"] for stage in ("filter", "label", "train", "evaluate") if "pods" in spec.get(stage, {})
    ]
    for pods in (common, *stages):
        _correct_values(rng, pods)
        if "volumes" in pods and pods is not common:  # they replace the common ones, which mounts may name
            pods.setdefault("volumeMounts", [])
        names = [volume["name"] for volume in pods.get("volumes", common.get("volumes", []))]
        for mount in pods.get("volumeMounts", []):
            mount["name"] = rng.choice((*OWN_VOLUMES, *names))


def _correct_values(rng: random.Random, pods: dict[str, Any]) -> None:
    for variable in pods.get("env", []):
        if "value" in variable:
            variable.pop("valueFrom", None)
    for key in ("securityContext", "podSecurityContext"):
        if (pods.get(key) or {}).get("runAsUser") == 0:
            del pods[key]["runAsUser"]
    if "topology" in pods:
        _keep_one(rng, pods["topology"], ("required", "preferred", "unconstrained"))
        if ("sliceRequired" in pods["topology"]) != ("sliceSize" in pods["topology"]):
            pods["topology"].pop("sliceRequired", None)
            pods["topology"].pop("sliceSize", None)


def _keep_one(rng: random.Random, value: dict[str, Any], names: tuple[str, ...]) -> None:
    kept = rng.choice(given) if (given := [name for name in names if name in value]) else None
    for name in given:
        if name != kept:
            del value[name]
    if rng.random() < 0.2:  # null counts as absent
        value.setdefault(rng.choice(names), None)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value, the outer ones first."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


def damage_pods(rng: random.Random, pods: dict[str, Any], strange: tuple[Any, ...]) -> None:
    """Change one to three objects within the typed fields; what comes out may still be valid."""
    for _ in range(rng.randint(1, 3)):
        typed = [item for key in TYPED if key in pods for item in _items(pods[key])]
        holder = rng.choice([found for item in typed for found in objects(item)] or [pods])
        rng.choice(_DAMAGES)(rng, holder, strange)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _strange_value(rng: random.Random, holder: dict[str, Any], strange: tuple[Any, ...]) -> None:
    holder[rng.choice(list(holder) or ["name"])] = json.loads(json.dumps(rng.choice(strange)))


def _missing_key(rng: random.Random, holder: dict[str, Any], strange: tuple[Any, ...]) -> None:
    del strange
    holder.pop(rng.choice(list(holder) or ["name"]), None)


def _unknown_key(rng: random.Random, holder: dict[str, Any], strange: tuple[Any, ...]) -> None:
    holder[rng.choice(("futureField", "Name", "read_only", "name ", "", "valueFrom"))] = rng.choice(strange)


def _second_source(rng: random.Random, holder: dict[str, Any], strange: tuple[Any, ...]) -> None:
    holder[rng.choice((*SOURCES, *REFERENCES))] = rng.choice(({}, {"name": "x"}, rng.choice(strange)))


def _wrapped(rng: random.Random, holder: dict[str, Any], strange: tuple[Any, ...]) -> None:
    del strange
    if key := rng.choice([*holder, ""]):
        holder[key] = rng.choice(([holder[key]], {"name": holder[key]}, [[holder[key]]]))


_DAMAGES: tuple[Callable[[random.Random, dict[str, Any], tuple[Any, ...]], None], ...] = (
    _strange_value,
    _missing_key,
    _unknown_key,
    _second_source,
    _wrapped,
)
