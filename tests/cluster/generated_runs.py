"""Run documents whose pods are drawn from the CRD's schema and, within Kubernetes' own objects, from Kubernetes'
schema. Seeded, pure.

A run begins as a valid one, drawn from the models' schema. Then single values within its pods change, again and again,
as long as `validate` takes them: to values at the bounds of what Kubernetes takes, on both sides, to unknown keys,
nulls, integers for quantities.
"""

from __future__ import annotations

import json
import random
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final

from pydantic import ValidationError

from diht_k8s.api.documents import check
from diht_k8s.api.pods import Pods
from diht_k8s.api.run import DihtRun
from diht_k8s.api.schema.crd import definition
from tests.fuzz.run_documents import value_with_typed_pods

MINOR: Final = "1.37"
CORE: Final = "io.k8s.api.core.v1."
OBJECTS: Final = {
    "tolerations": "Toleration",
    "affinity": "Affinity",
    "volumes": "Volume",
    "volumeMounts": "VolumeMount",
    "env": "EnvVar",
    "securityContext": "SecurityContext",
    "podSecurityContext": "PodSecurityContext",
}
"""Fields of `pods` that hold objects of Kubernetes, and their types there."""
SINGLE: Final = ("affinity", "securityContext", "podSecurityContext")
"""Those that hold one of them."""
NUMBERS: Final = (0, 1, -1, 60, 100, 101, 420, 0o777, 0o1000, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**62, 2**63)
QUANTITIES: Final = (
    0,
    1,
    107374182400,
    2**62,
    "0",
    "1",
    "8Gi",
    "500m",
    "1.5",
    "0.5Gi",
    "1e3",
    "1E3",
    "1E",
    "8.",
    ".5",
    "+1",
    "9" * 32,
    "64 GB",
    "-1",
    "0.1m",
    "1n",
    "5u",
)
TEXTS: Final = (
    "a",
    "",
    " ",
    " a",
    "a ",
    "data",
    "Data_1",
    "a.b",
    "a-",
    "-a",
    ".a",
    "1",
    "1.5",
    "a" * 63,
    "a" * 64,
    "a" * 253,
    "a" * 254,
    "a/b",
    "/",
    "/a",
    "//a",
    "/a/../b",
    "..",
    "../a",
    "a/../b",
    "..data",
    "./a",
    "a:b",
    "a,b",
    "example.org/a",
    "example.org/A_b.c",
    "Example.org/a",
    "a/b/c",
    "kubernetes.io/hostname",
    "metadata.name",
    "metadata.labels['a']",
    "metadata.annotations['example.org/a']",
    "metadata.namespace",
    "spec.nodeName",
    "status.podIP",
    "status.hostIPs",
    "limits.cpu",
    "requests.memory",
    "limits.ephemeral-storage",
    "limits.hugepages-2Mi",
    "Exists",
    "In",
    "NoSchedule",
    "NoExecute",
    "Memory",
    "HugePages-2Mi",
    "HugePages",
    "8Gi",
    "1",
    "0",
    "cpu",
    "true",
    "recipe:1",
    "registry.example.org/a@sha256:" + "0" * 64,
    "RECIPE:1",
    "v1",
    "v2",
    "日本",
    "a\nb",
    "$(HOME)",
    "NET_RAW",
    "CAP_NET_RAW",
    "ALL",
    "all",
    "dshm",
    "tmp",
    "10.0.0.1",
    "a=b",
    "A b",
    "net.core.somaxconn",
    "kernel/shm",
    "ReadWriteOnce",
    "ReadOnlyMany",
    "Filesystem",
    "Block",
    "Always",
    "Never",
    "ED25519",
    "example.org/signer",
)
"""Strings that mean something to one of Kubernetes' fields, or nearly so."""
KEYS: Final = (
    "a",
    "example.org/a",
    "Example.org/a",
    "a b",
    "a/",
    "/a",
    "-a",
    "a" * 63,
    "a" * 64,
    "kubernetes.io/os",
    "a/b/c",
    "",
)
RESOURCES: Final = (
    "cpu",
    "memory",
    "nvidia.com/gpu",
    "hugepages-2Mi",
    "ephemeral-storage",
    "rdma/hca",
    "storage",
    "gpu",
    "Example.org/a",
    "requests.example.org/a",
    "kubernetes.io/a",
    "-a",
    "pods",
)
PATHS: Final = ("/a", "/data", "/data/b", "/a/../b", "a", "/tmp", "/dev/shm", "/", "/a:b", "/a,b")
NAMES: Final = ("dshm", "tmp", "data", "a", "scratch", "x1", "a" * 63, "A", "a.b", "1")


@cache
def definitions() -> dict[str, Any]:
    """The types of Kubernetes' API."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{MINOR}.0-local-strict"
    return json.loads((folder / "_definitions.json").read_text())["$defs"]


@cache
def pods_schema() -> dict[str, Any]:
    """`spec.pods` in the CRD."""
    root = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root["properties"]["spec"]["properties"]["pods"]["properties"]


def valid_run(seed: int) -> DihtRun | None:
    """A run that `validate` takes; None where the document that was drawn is not valid."""
    rng = random.Random(seed)
    document = value_with_typed_pods(rng)
    document["metadata"] = {"name": f"g{seed}"}
    spec = document["spec"]
    spec["pods"].setdefault("image", "recipe:1")
    for place in (spec, *(spec[stage] for stage in ("filter", "label", "train", "evaluate") if stage in spec)):
        if "pods" in place:
            place["pods"] = _changed_pods(rng, place["pods"]) | {"gang": "None"}  # PodGroups are not served everywhere
    return check(json.dumps(document))[0]


def drawn_object(seed: int) -> tuple[str, Any]:
    """A field of `pods` that holds objects of Kubernetes, and a value for it: a valid one with a change or two, valid
    or not.
    """
    rng = random.Random(seed)
    pods = value_with_typed_pods(rng)["spec"]["pods"]
    name = rng.choice([name for name in OBJECTS if name in pods and name != "env"] or ["tolerations"])
    value = pods.get(name, [])
    for _ in range(rng.choice((1, 1, 2))):
        value = _changed(rng, _node(name), value, name)
    return name, value


def _changed_pods(rng: random.Random, pods: dict[str, Any]) -> dict[str, Any]:
    """With single values changed, one after the other, wherever `validate` takes the change."""
    schema = pods_schema()
    for _ in range(rng.choice((0, 10, 40))):
        name = rng.choice((*OBJECTS, *OBJECTS, *schema))
        if name not in OBJECTS:
            changed = _drawn(rng, schema[name], name)
        else:
            node = _node(name)
            changed = _changed(rng, node, pods[name], name) if name in pods else _drawn(rng, node, name)
        try:
            Pods.model_validate({**pods, name: changed})
        except ValidationError:
            continue
        pods = {**pods, name: changed}
    return pods


def _node(name: str) -> dict[str, Any]:
    """Kubernetes' schema of a field of `pods`."""
    node = {"$ref": f"#/$defs/{CORE}{OBJECTS[name]}"}
    return node if name in SINGLE else {"type": "array", "items": node}


def _changed(rng: random.Random, node: dict[str, Any], value: Any, name: str) -> Any:
    """A value of Kubernetes' schema with one change somewhere within it."""
    if "$ref" in node and not node["$ref"].endswith(".Quantity"):
        node = definitions()[node["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(rng, node["items"], value[at], name), *value[at + 1 :]]
    if isinstance(value, dict) and "properties" in node and rng.random() < 0.97:
        if rng.random() < 0.05:
            return {**value, **_unknown(rng, share=1.0)}
        key = rng.choice([*node["properties"], *value] if rng.random() < 0.5 else [*value] or [*node["properties"]])
        if key not in node["properties"] or (key in value and rng.random() < 0.1):
            return {each: item for each, item in value.items() if each != key}
        inner = node["properties"][key]
        return {**value, key: _changed(rng, inner, value[key], key) if key in value else _drawn(rng, inner, key)}
    return _drawn(rng, node, name)


def _unknown(rng: random.Random, share: float = 0.02) -> dict[str, Any]:
    return {"futureField": rng.choice((None, 1, "a"))} if rng.random() < share else {}


def _drawn(rng: random.Random, node: dict[str, Any], name: str, depth: int = 0) -> Any:
    """A value for a node of either schema."""
    if "$ref" in node:
        kind = node["$ref"].rsplit("/", 1)[1]
        if kind.endswith(".Quantity"):
            return rng.choice(QUANTITIES)
        node = {**definitions()[kind], **{key: node[key] for key in node if key == "description"}}
    if node.get("x-kubernetes-int-or-string") or "oneOf" in node:
        return rng.choice(QUANTITIES)
    if "enum" in node:
        return rng.choice(node["enum"])
    kinds = node["type"] if isinstance(node.get("type"), list) else [node.get("type")]
    return _of_kind(rng, node, name, kinds[0], depth)


def _of_kind(rng: random.Random, node: dict[str, Any], name: str, kind: str | None, depth: int) -> Any:
    match kind:
        case "boolean":
            return rng.random() < 0.5
        case "integer" | "number":
            low, high = node.get("minimum", -(2**63)), node.get("maximum", 2**63)
            return rng.choice([each for each in (low, high, *NUMBERS) if rng.random() < 0.02 or low <= each <= high])
        case "string":
            return _text(rng, node, name)
        case "array":
            item = node["items"]
            return [_drawn(rng, item, name, depth + 1) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        case "object" if "properties" in node:
            often = rng.choice((0.2, 0.5, 0.9)) if depth < 4 else 0.2
            asked = node.get("required", [])
            found = {
                key: None if rng.random() < 0.01 else _drawn(rng, inner, key, depth + 1)
                for key, inner in node["properties"].items()
                if rng.random() < (0.99 if key in asked else often)
            }
            return found | _unknown(rng)
        case _:
            keys = RESOURCES if name in ("resources", "requests", "limits") else KEYS
            inner = node.get("additionalProperties")
            chosen = rng.sample(keys, rng.choice((0, 1, 1, 2)))
            return {key: _drawn(rng, inner, "", depth + 1) if isinstance(inner, dict) else "a" for key in chosen}


def _text(rng: random.Random, node: dict[str, Any], name: str) -> str:
    """A word of the field's own description, or one of those that many fields take."""
    words = re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b|(?<=[\"'`])[\w./-]+(?=[\"'`])", node.get("description", ""))
    pool = PATHS if name.endswith("Path") else NAMES if name.endswith(("Name", "name")) else TEXTS
    fits = [text for text in (*pool, *TEXTS) if re.search(node.get("pattern", ""), text)]
    return rng.choice(words) if words and rng.random() < 0.3 else rng.choice(fits)
