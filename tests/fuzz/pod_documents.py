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
PROJECTED = ("clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken")
REFERENCES = ("secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef", "fileKeyRef")
TYPED = ("tolerations", "affinity", "env", "volumes", "volumeMounts")
"""Fields of `pods` that hold objects of Kubernetes."""
OWN_VOLUMES = ("dshm", "tmp")


def correct_pods(rng: random.Random, spec: dict[str, Any]) -> None:
    """Make the rules of Kubernetes, and those between volumes and their mounts, hold in all pods of a spec."""
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
        elif "valueFrom" in variable:
            _keep_one(rng, variable["valueFrom"], REFERENCES)
            if not any(variable["valueFrom"].get(name) for name in REFERENCES):
                variable["valueFrom"]["secretKeyRef"] = {"name": "keys", "key": "token"}
    _correct_volumes(rng, pods.get("volumes", []))
    for key in ("tolerations", "affinity", "env", "volumes", "volumeMounts", "securityContext", "podSecurityContext"):
        _correct_objects(key, pods.get(key))
    if "topology" in pods:
        _keep_one(rng, pods["topology"], ("required", "preferred", "unconstrained"))
        if ("sliceRequired" in pods["topology"]) != ("sliceSize" in pods["topology"]):
            pods["topology"].pop("sliceRequired", None)
            pods["topology"].pop("sliceSize", None)
    if "resources" in pods:
        pods["resources"] = {key: 1 if "/" in key else value for key, value in pods["resources"].items()}


def _correct_volumes(rng: random.Random, volumes: list[dict[str, Any]]) -> None:
    for volume in volumes:
        _keep_one(rng, volume, SOURCES)
        for source in (volume.get("projected") or {}).get("sources", []):
            _keep_one(rng, source, PROJECTED)


def _correct_objects(key: str, value: Any) -> None:
    """Make Kubernetes' rules within its objects hold; `key` is the field in which the value stands."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            _RULES.get(key, lambda _: None)(item)
            for name, inner in item.items():
                _correct_objects(name, inner)


def _drop(item: dict[str, Any], *names: str) -> None:
    for name in names:
        item.pop(name, None)


def _toleration(item: dict[str, Any]) -> None:
    item.update({"key": "gpu", "operator": "Equal"} if item.get("key") else {"operator": "Exists"})
    if item["operator"] == "Exists":
        _drop(item, "value")
    if "tolerationSeconds" in item:
        item["effect"] = "NoExecute"


def _requirement(item: dict[str, Any]) -> None:
    values = {"Exists": [], "DoesNotExist": [], "In": ["a", "b"], "NotIn": ["a"]}
    item["values"] = values.get(item["operator"], ["1"])


def _profile(item: dict[str, Any]) -> None:
    _drop(item, "localhostProfile")
    if item["type"] == "Localhost":
        item["localhostProfile"] = "p.json"


def _context(item: dict[str, Any]) -> None:
    """Without what excludes another field, here or in the pods of all stages that this context is merged over."""
    _drop(item, "procMount")
    if "sysctls" in item:
        item["sysctls"] = item["sysctls"][:1]
    if item.get("allowPrivilegeEscalation") is False:
        del item["allowPrivilegeEscalation"]
    if item.get("runAsUser") == 0:
        del item["runAsUser"]


def _reference(item: dict[str, Any]) -> None:
    if item.get("fileKeyRef"):
        item["fileKeyRef"]["volumeName"] = "tmp"


def _downward(item: dict[str, Any]) -> None:
    for file in item.get("items", []):
        if file.pop("fieldRef", None) or "resourceFieldRef" not in file:
            _drop(file, "resourceFieldRef")
            file["fieldRef"] = {"fieldPath": "metadata.labels"}


def _projected(item: dict[str, Any]) -> None:
    """With one file at most, whose path then is nobody else's."""
    item["sources"] = item.get("sources", [])[:1]
    for inner in (inner for source in item["sources"] for inner in source.values() if inner is not None):
        if "items" in inner:
            inner["items"] = inner["items"][:1]


def _certificate(item: dict[str, Any]) -> None:
    _drop(item, "credentialBundlePath", "certificateChainPath")
    item["keyPath"] = "key"


def _bundle(item: dict[str, Any]) -> None:
    if "signerName" in item:
        _drop(item, "name")
    else:
        _drop(item, "labelSelector")
        item["name"] = "ca"


def _mount(item: dict[str, Any]) -> None:
    _drop(item, "subPathExpr", "recursiveReadOnly")
    if "mountPropagation" in item:
        item["mountPropagation"] = "HostToContainer"


def _azure(item: dict[str, Any]) -> None:
    item["diskURI"] = "/subscriptions/a" if item.get("kind") == "Managed" else "https://a.example.org/a.vhd"


def _claim(item: dict[str, Any]) -> None:
    if "dataSource" in item:
        _drop(item, "dataSourceRef")
    item |= {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


_RULES: dict[str, Callable[[dict[str, Any]], None]] = {
    "tolerations": _toleration,
    "matchExpressions": _requirement,
    "matchFields": lambda item: item.update(key="metadata.name", operator="In", values=["a"]),
    "seccompProfile": _profile,
    "appArmorProfile": _profile,
    "securityContext": _context,
    "podSecurityContext": _context,
    "valueFrom": _reference,
    "fieldRef": lambda item: item.update(fieldPath="metadata.name"),
    "resourceFieldRef": lambda item: item.update(divisor="1", containerName="train"),
    "downwardAPI": _downward,
    "projected": _projected,
    "dataSource": lambda item: item.update(kind="PersistentVolumeClaim"),
    "dataSourceRef": lambda item: item.update(kind="PersistentVolumeClaim"),
    "podCertificate": _certificate,
    "clusterTrustBundle": _bundle,
    "azureDisk": _azure,
    "fc": lambda item: item.update(targetWWNs=["a"], wwids=[], lun=1),
    "iscsi": lambda item: _drop(item, "chapAuthDiscovery", "chapAuthSession", "initiatorName"),
    "spec": _claim,
    "volumeMounts": _mount,
    "podAffinityTerm": lambda item: _drop(item, "matchLabelKeys", "mismatchLabelKeys"),
    "requiredDuringSchedulingIgnoredDuringExecution": lambda item: _drop(item, "matchLabelKeys", "mismatchLabelKeys"),
}
"""By field."""


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
