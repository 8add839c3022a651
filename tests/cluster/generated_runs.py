"""Run documents whose pods are drawn from the CRD's schema and, within Kubernetes' own objects, from Kubernetes' schema. Seeded, pure.

Values stand at the bounds of what Kubernetes takes, on both sides; unknown keys, nulls and integers for quantities are
among them. A field is drawn again until `validate` takes it, so that most documents are valid.
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
from tests.fuzz.run_documents import sound_value

MINOR: Final = "1.37"
CORE: Final = "io.k8s.api.core.v1."
TRIES: Final = 12
OBJECTS: Final = {
    "tolerations": "Toleration", "affinity": "Affinity", "volumes": "Volume", "volumeMounts": "VolumeMount", "env": "EnvVar",
    "securityContext": "SecurityContext", "podSecurityContext": "PodSecurityContext",
}  # fmt: skip
"""Fields of `pods` that hold objects of Kubernetes, and their types there."""
NUMBERS: Final = (0, 1, -1, 60, 100, 101, 420, 0o777, 0o1000, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**62, 2**63)
QUANTITIES: Final = (0, 1, 107374182400, 2**62, "0", "1", "8Gi", "500m", "1.5", "0.5Gi", "1e3", "1E3", "1E", "8.", ".5", "+1", "9" * 32, "64 GB", "-1", "0.1m", "1n", "5u")  # fmt: skip
TEXTS: Final = (
    "a", "", " ", " a", "a ", "data", "Data_1", "a.b", "a-", "-a", ".a", "1", "1.5", "a" * 63, "a" * 64, "a" * 253, "a" * 254, "a/b", "/", "/a", "//a", "/a/../b", "..",
    "../a", "a/../b", "..data", "./a", "a:b", "a,b", "example.org/a", "example.org/A_b.c", "Example.org/a", "a/b/c", "kubernetes.io/hostname",
    "metadata.name", "metadata.labels['a']", "metadata.annotations['example.org/a']", "metadata.namespace", "spec.nodeName", "status.podIP", "status.hostIPs", "limits.cpu", "requests.memory",
    "limits.ephemeral-storage", "limits.hugepages-2Mi", "Exists", "In", "NoSchedule", "NoExecute", "Memory", "HugePages-2Mi", "HugePages", "8Gi", "1", "0", "cpu",
    "true", "recipe:1", "registry.example.org/a@sha256:" + "0" * 64, "RECIPE:1", "v1", "v2", "日本", "a\nb", "$(HOME)", "NET_RAW", "CAP_NET_RAW", "ALL", "all", "dshm", "tmp", "10.0.0.1", "a=b", "A b",
    "net.core.somaxconn", "kernel/shm", "ReadWriteOnce", "ReadOnlyMany", "Filesystem", "Block", "Always", "Never", "ED25519", "example.org/signer",
)  # fmt: skip
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
RESOURCES: Final = ("cpu", "memory", "nvidia.com/gpu", "hugepages-2Mi", "ephemeral-storage", "rdma/hca", "storage", "gpu", "Example.org/a", "requests.example.org/a", "kubernetes.io/a", "-a", "pods")  # fmt: skip
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


def valid_run(seed: int) -> tuple[DihtRun | None, str]:
    """A run that `validate` takes, and its document; None where the document is not valid."""
    rng = random.Random(seed)
    document = sound_value(rng)
    document["metadata"] = {"name": f"g{seed}"}
    spec = document["spec"]
    spec["pods"] = _drawn_pods(rng)
    for stage in ("filter", "label", "train", "evaluate"):
        if stage in spec:
            spec[stage].pop("pods", None)
            if rng.random() < 0.3:
                spec[stage]["pods"] = _drawn_pods(rng)
                if "volumes" in spec[stage]["pods"]:  # they replace the common ones, which mounts may name
                    spec[stage]["pods"].setdefault("volumeMounts", [])
    spec["pods"].setdefault("image", "recipe:1")
    text = json.dumps(document)
    return check(text)[0], text


def _drawn_pods(rng: random.Random) -> dict[str, Any]:
    """Some fields of `pods`, each one valid by itself."""
    often, pods = rng.choice((0.1, 0.3, 0.8)), dict[str, Any]()
    for name, node in pods_schema().items():
        if name == "gang" or rng.random() > often:
            continue
        for _ in range(TRIES):
            value = _list(rng, name) if name in OBJECTS else _drawn(rng, node, name)
            if name == "volumeMounts":
                own = [volume["name"] for volume in pods.get("volumes", [])]
                value = [{**each, "name": rng.choice(("dshm", "tmp", *own))} for each in value]
            try:
                Pods.model_validate({name: value})
            except ValidationError:
                continue
            pods[name] = value
            break
    return pods


def _list(rng: random.Random, name: str) -> Any:
    """Objects of Kubernetes for a field, each one valid by itself."""
    node = {"$ref": f"#/$defs/{CORE}{OBJECTS[name]}"}
    if name in ("affinity", "securityContext", "podSecurityContext"):
        return _drawn(rng, node, name)
    found = list[Any]()
    for _ in range(rng.randint(1, 3)):
        for _ in range(TRIES):
            value = _drawn(rng, node, name)
            if name == "volumes":
                value = _of_one_source(rng, value)
            try:
                Pods.model_validate({name: [*found, value]})
            except ValidationError:
                continue
            found.append(value)
            break
    return found


def _of_one_source(rng: random.Random, volume: dict[str, Any]) -> dict[str, Any]:
    properties = definitions()[f"{CORE}Volume"]["properties"]
    source = rng.choice([name for name in properties if name != "name"])
    return {"name": rng.choice(NAMES), source: _drawn(rng, properties[source], source, depth=1), **_unknown(rng)}


def _unknown(rng: random.Random) -> dict[str, Any]:
    return {"futureField": rng.choice((None, 1, "a"))} if rng.random() < 0.02 else {}


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
