"""Run documents by the schema, most of them valid, and damaged ones. Nothing here uses the reader under test.

A sound document is drawn from the JSON schema of the models, then corrected where a rule concerns several fields. A
mutation changes its values (before they become text), its text, or its `--set` overrides.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from diht_k8s.api.run import DihtRun
from tests.fuzz.pod_documents import TYPED, correct_pods, damage_pods

SCHEMA: dict[str, Any] = DihtRun.model_json_schema(by_alias=True)
TEXTS = (
    "a",
    "web",
    "run-1",
    "ViT-B-16",
    "recipe:1",
    "0.5",
    "100%",
    "1",
    "8Gi",
    "500m",
    "jpg",
    "s3://corpus/a/{000..127}.tar",
    "s3://corpus/run",
    "gs://corpus/run",
    "az://corpus/run",
    "file:///data/a.tar",
    "runs/a",
    "~/x/*.tar",
    "../up/../a.tar",
    "a photo of a {c}.",
    "naïve 日本 😀",
    "https://s3.example.org:9000/x",
    "http://[::1]:9000",
    "NAME_1",
    "NET_RAW",
    "x" * 40,
    "y" * 63,
    "null",
    "true",
    "1e3",
    "0x10",
    "on",
    " lead",
    "a: b",
    "- a",
    "#no",
    "$(HOME)",
    "${x}",
    "{}",
    "metadata.name",
    "limits.cpu",
    "/data",
    "example.org/zone",
    "example.org/ca",
    "iqn.2001-04.org.example:disk1",
    "storage",
)
"""Strings that a pattern of the schema may accept; many of them mean something else without quotes."""
OPEN: dict[str, Any] = {
    "modelConfig": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "mlp_ratio": 4.0},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "status": {"progress": None},
}
"""What stands in objects that the schema leaves open."""
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    -0.0,
    1e308,
    -1e-300,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    -(10**299),
    "",
    " ",
    "x" * 300,
    "x" * 5000,
    "\ud800",
    "a\udfffb",
    "\x00",
    "\x1b[31m",
    "\u2028",
    "\u202e",
    "\ufeff",
    "ä" * 100,
    "../../../etc/passwd",
    "/etc/shadow",
    "~root/x",
    "s3://",
    "s3:///x",
    "S3://B/x",
    "file://host/x",
    "pipe:rm -rf x",
    "$(id)",
    "`id`",
    "a;b",
    "%s%n{0}",
    "{0..99999999}.tar",
    "null",
    "0x_",
    "1e999",
    ".nan",
    "2020-01-01",
    "!!python/object:os.system",
    [],
    {},
    [[]],
    {"a": {"b": None}},
    [None],
    [1, "a"],
    {"": ""},
    {"\ud800": 1},
)
RAW = (
    "&a [*a]",
    "*missing",
    "!!binary aGk=",
    "!!python/object/apply:os.system [x]",
    "!!str 1",
    "!!int a",
    "!!set {a, b}",
    "!<x> y",
    "<<: *a",
    "? [a, b]\n: c",
    "- ",
    ": ",
    "\t",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "|",
    ">",
    "&",
    "*",
    "!",
    "%",
    "@",
    "`",
    "#",
    ",",
    "\r",
    "\n",
    "\x00",
    "\x07",
    "\x85",
    "\ufeff",
    "\ud800",
    "\\ud800",
    "9" * 5000,
    "0x" + "f" * 5000,
    "1_000",
    "-" * 90,
    "[" * 150,
    "{a: " * 150,
    "[" * 2000,
    "é",
)
"""Pieces of text that mean something to a YAML reader."""


@dataclass
class Case:
    """A document for the reader."""

    kind: str
    text: str
    overrides: list[str] = field(default_factory=list)
    sound: bool = False
    """whether it must be valid."""


def sound_value(rng: random.Random) -> dict[str, Any]:
    """A valid document as plain values."""
    document = _drawn(rng, SCHEMA, "")
    document.pop("status", None)
    _correct(rng, document["spec"])
    return document


def _drawn(rng: random.Random, node: dict[str, Any], name: str) -> Any:
    """A value that the schema accepts; `name` is the field's."""
    if "$ref" in node:
        node = {**SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]], **node}
    if "anyOf" in node:
        return _drawn(rng, rng.choice([branch for branch in node["anyOf"] if branch != {"type": "null"}]), name)
    if "const" in node or "enum" in node:
        return node.get("const") or rng.choice(node["enum"])
    if node["type"] == "boolean":
        return rng.random() < 0.5
    return {"object": _object, "array": _array, "string": _text, "integer": _number, "number": _number}[node["type"]](
        rng, node, name
    )


def _object(rng: random.Random, node: dict[str, Any], name: str) -> dict[str, Any]:
    if "properties" in node:
        asked, often = node.get("required", []), rng.choice((0.1, 0.3, 0.9))
        chosen = [key for key in node["properties"] if key in asked or rng.random() < often]
        drawn = {key: _drawn(rng, node["properties"][key], key) for key in chosen}
        return drawn
    if isinstance(values := node.get("additionalProperties"), dict):
        keys = (
            ("cpu", "memory", "nvidia.com/gpu")
            if name == "resources"
            else ("storage",)
            if name in ("requests", "limits")
            else ("app", "example.org/zone", "on", "1")
        )
        return {key: _drawn(rng, values, name) for key in keys if rng.random() < 0.5}
    return json.loads(json.dumps(OPEN[name]))


def _array(rng: random.Random, node: dict[str, Any], name: str) -> list[Any]:
    least = node.get("minItems", 0)
    items = [
        _drawn(rng, node["items"], name) for _ in range(rng.randint(least, min(node.get("maxItems", 3), least + 2)))
    ]
    for key in node.get("x-kubernetes-list-map-keys", []):
        items = list({item[key]: item for item in items}.values())
    return items


def _text(rng: random.Random, node: dict[str, Any], name: str) -> str:
    least, most = node.get("minLength", 0), node.get("maxLength", 10**9)
    fit = [text for text in TEXTS if least <= len(text) <= most and re.search(node.get("pattern", ""), text)]
    assert fit, f"TEXTS has nothing for {name}: add a string that matches {node}"
    return rng.choice(fit)


def _number(rng: random.Random, node: dict[str, Any], name: str) -> int | float:
    least = node.get("minimum", node.get("exclusiveMinimum", -(10**6)))
    most = node.get("maximum", node.get("exclusiveMaximum", 2**62))
    if node["type"] == "integer":
        return rng.choice((least, most, rng.randint(least, min(most, least + 16)), rng.randint(least, most)))
    inner = rng.uniform(least, most)
    return rng.choice((inner, round(inner, 3), float(least if "minimum" in node else inner), int(inner) or inner))


def _correct(rng: random.Random, spec: dict[str, Any]) -> None:
    """Make the rules over several fields hold."""
    if "train" not in spec:
        spec["train"] = {"model": "ViT-B-16", "samples": 8}
    _correct_clip_score(rng, spec.get("filter", {}).get("clipScore", {}))
    if "label" in spec:
        spec.setdefault("filter", {})
        _correct_teacher(spec["label"])
    _correct_train(rng, spec)
    for benchmark in spec.get("evaluate", {}).get("benchmarks", []):
        if benchmark["type"] == "Classification":
            benchmark.setdefault("classNames", "names.txt")
    if "managedBy" in spec and rng.random() < 0.9:
        spec["managedBy"] = "diht.dev/operator"
    if "split" in spec.get("evaluate", {}):
        spec["evaluate"]["benchmarks"][0]["split"] = spec["evaluate"]["split"]
    if rng.random() < 0.3:
        del spec["train"]
        spec.setdefault("filter", {})
        if "evaluate" in spec:
            spec["evaluate"]["model"] = "models/a"
    _correct_sources(rng, spec)
    correct_pods(rng, spec)
    if rng.random() < 0.9:
        spec.setdefault("pods", {}).setdefault("image", "recipe:1")


def _correct_teacher(label: dict[str, Any]) -> None:
    """Heads that go with its own classes, and a network with both towers where captions pass it, too."""
    teacher = label.get("teacher", {})
    if teacher.get("ownClasses"):
        label.setdefault("heads", {})["kind"] = "Sigmoid"
    if teacher.get("textEmbeddings"):
        teacher["model"] = "open_clip/ViT-B-32"


def _correct_clip_score(rng: random.Random, score: dict[str, Any]) -> None:
    """One of the two ways to choose the cut, where there is one to choose."""
    if score:
        kept, other = rng.sample(("minScore", "keepShare"), 2)
        score.pop(other, None)
        score.setdefault(kept, 0.5)


def _correct_sources(rng: random.Random, spec: dict[str, Any]) -> None:
    """Shards in every source, or captions in every one and the filter alone."""
    sources = spec.setdefault("data", {}).setdefault("sources", [])
    sources += [] if sources else [{"name": "web"}]
    has, lacks = ("captions", "shards") if rng.random() < 0.1 else ("shards", "captions")
    for source in sources:
        source.setdefault(has, ["s3://corpus/a/{000..127}.tar"])
        source.pop(lacks, None)
    if has == "captions":
        spec.setdefault("filter", {})
        for stage in ("label", "train", "evaluate"):
            spec.pop(stage, None)


def _correct_locked_tower(train: dict[str, Any]) -> None:
    if "regression" in train.get("distillation", {}):
        train.setdefault("words", "s3://corpus/words.safetensors")
    if "words" in train:
        train["textStart"] = "Ridge"
    if train.get("featureViews", 1) > 1 or train.get("textStart") == "Ridge":
        train["features"] = "Stored"
    if train.get("features") == "Stored":
        train["lockImageTower"] = True
    if train.get("lockImageTower"):
        train.pop("patchDropout", None)
        train.pop("stages", None)


def _correct_train(rng: random.Random, spec: dict[str, Any]) -> None:
    train = spec["train"]
    train.pop(*(("model", None) if "modelConfig" in train and rng.random() < 0.5 else ("modelConfig", None)))
    if "modelConfig" not in train:
        train.setdefault("model", "ViT-B-16")
    if train.get("distillation", {}).get("mode", "Concepts") == "Concepts" and "label" not in spec:
        train["distillation"] = {**train.get("distillation", {}), "mode": "Disabled"}
    _correct_locked_tower(train)
    if train.get("interpolate"):
        train.setdefault("validation", {"shards": ["s3://corpus/held-out.tar"]})
    _correct_stages(rng, train)
    _correct_schedule(train.get("schedule", {}), train["samples"])
    if "embeddings" in train.get("distillation", {}):
        train.pop("captions", None)
        if not spec.get("label", {}).get("teacher", {}).get("textEmbeddings"):
            train["labels"] = "s3://corpus/other/label/1"
    processes = train.get("numNodes", 1) * train.get("processesPerNode", 1)
    _correct_elastic(train, spec)
    train["batchSize"] = max(2, processes) + rng.choice((0, 1, processes, 1000))
    if train.get("offload", "None") != "None":
        train["zeroStage"] = 3


def _correct_stages(rng: random.Random, train: dict[str, Any]) -> None:
    """Rising sizes with all samples."""
    sizes = sorted(stage["imageSize"] for stage in train.get("stages", []))
    if not sizes:
        return
    train["stages"] = [{"imageSize": size, "samples": rng.randint(1, 10**6)} for size in sizes]
    train["samples"] = sum(stage["samples"] for stage in train["stages"])
    train.pop("imageSize", None)


def _correct_schedule(schedule: dict[str, Any], samples: int) -> None:
    """A decay of WSD alone, which the warm-up leaves room for."""
    if schedule.get("type") != "WSD":
        schedule.pop("decayShare", None)
    elif schedule.get("warmupSamples", 0) > (1.0 - schedule.get("decayShare", 0.2)) * samples:
        schedule.pop("warmupSamples")


def _correct_elastic(train: dict[str, Any], spec: dict[str, Any]) -> None:
    """No fewer nodes wished for than needed, and pods that may be fewer."""
    if "minNodes" in train:
        train["minNodes"] = min(train["minNodes"], train.get("numNodes", 1))
        for pods in (train.get("pods", {}), spec.get("pods", {})):
            pods.pop("topology", None)
            pods.pop("queueName", None)


def written(rng: random.Random, value: Any) -> str:
    """A document as text: YAML or JSON, in one of many ways."""
    if rng.random() < 0.3:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
    if any(0xD800 <= ord(character) < 0xE000 for character in json.dumps(value, ensure_ascii=False)):
        return json.dumps(value)
    return yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=rng.choice((None, True, False)),
        allow_unicode=rng.random() < 0.5,
        width=rng.choice((20, 80, 10**9)),
        sort_keys=rng.random() < 0.5,
        default_style=rng.choice((None, None, None, '"')),
    )


class _Dumper(yaml.SafeDumper):
    """Quotes what the API server's YAML reads as something else than text, such as `1e3`."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if re.fullmatch(r"[a-zA-Z][\w/:{}. -]{3,}[\w}]", text) else '"'
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field and item, those within open objects left out."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def _holder(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def _sound(rng: random.Random) -> Case:
    return Case("sound", written(rng, sound_value(rng)), sound=True)


def _sound_overrides(rng: random.Random) -> Case:
    """Some fields are set to the value of another sound document, or to what they are."""
    value = sound_value(rng)
    chosen = rng.sample(paths := list(places(value["spec"])), min(4, len(paths)))
    plain = [path for path in chosen if not any("." in str(key) for key in path)]
    overrides = [f"{'.'.join(map(str, path))}={json.dumps(_holder(value['spec'], path)[path[-1]])}" for path in plain]
    return Case("sound overrides", written(rng, value), overrides, sound=True)


def _strange_values(rng: random.Random) -> Case:
    value = sound_value(rng)
    for path in rng.sample(paths := list(places(value)), min(rng.randint(1, 3), len(paths))):
        try:
            _holder(value, path)[path[-1]] = rng.choice(STRANGE)
        except (KeyError, TypeError, IndexError):  # an earlier one has replaced it
            continue
    return Case("strange values", written(rng, value))


def _strange_keys(rng: random.Random) -> Case:
    value = sound_value(rng)
    path = rng.choice([path for path in places(value) if isinstance(path[-1], str)])
    holder = _holder(value, path)
    change = rng.choice(("unknown", "typo", "missing"))
    if change == "unknown":
        holder[rng.choice([str(text) for text in STRANGE if isinstance(text, str)])] = rng.choice(STRANGE)
    elif change == "typo":
        holder[path[-1][:-1] or "q"] = holder.pop(path[-1])
    else:
        del holder[path[-1]]
    return Case("strange keys", written(rng, value))


def value_with_typed_pods(rng: random.Random) -> dict[str, Any]:
    """A sound document whose pods have most of the fields that hold objects of Kubernetes."""
    value = sound_value(rng)
    pods, fields = value["spec"].setdefault("pods", {}), SCHEMA["$defs"]["Pods"]["properties"]
    for key in TYPED:
        if rng.random() < 0.8:
            pods[key] = _drawn(rng, {"minItems": 1, **fields[key]}, key)
    correct_pods(rng, value["spec"])
    return value


def _sound_pods(rng: random.Random) -> Case:
    return Case("sound pods", written(rng, value_with_typed_pods(rng)), sound=True)


def _broken_pods(rng: random.Random) -> Case:
    value = value_with_typed_pods(rng)
    damage_pods(rng, value["spec"]["pods"], STRANGE)
    return Case("broken pods", written(rng, value))


def _many_items(rng: random.Random) -> Case:
    value = sound_value(rng)
    lists = [path for path in places(value) if isinstance(_holder(value, path)[path[-1]], list)]
    path = rng.choice(lists or list(places(value)))
    holder = _holder(value, path)
    items = holder[path[-1]] if lists else [holder[path[-1]]]
    holder[path[-1]] = (items or [rng.choice(STRANGE)]) * rng.choice((2, 70, 300))
    return Case("many items", written(rng, value))


def _deep(rng: random.Random) -> Case:
    value, inner = sound_value(rng), rng.choice(STRANGE)
    for _ in range(rng.choice((5, 60, 99, 150))):
        inner = {"a": inner} if rng.random() < 0.5 else [inner]
    path = rng.choice(list(places(value)))
    _holder(value, path)[path[-1]] = inner
    return Case("deep nesting", json.dumps(value))


def _strange_text(rng: random.Random) -> Case:
    text = written(rng, sound_value(rng))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(RAW) + text[at + rng.choice((0, 0, 1, 5)) :]
    return Case("strange text", text)


def _lines(rng: random.Random) -> Case:
    lines = written(rng, sound_value(rng)).splitlines(keepends=True)
    at = rng.randrange(len(lines))
    change = rng.choice(("twice", "missing", "cut", "indented", "joined"))
    if change == "twice":
        lines.insert(at, lines[at])
    elif change == "indented":
        lines[at] = " " * rng.randint(1, 3) + lines[at]
    elif change == "joined":
        lines[at:] = [line.rstrip("\n") for line in lines[at:]]
    else:
        del lines[at : at + 1 if change == "missing" else len(lines)]
    return Case(f"line {change}", "".join(lines))


def _aliases(rng: random.Random) -> Case:
    """Anchors and aliases, some of which expand without an end."""
    levels = rng.choice((1, 3, 9, 40))
    tops = [
        f"x{level}: &x{level} [{', '.join([f'*x{level - 1}' if level else '1'] * rng.choice((1, 2, 9)))}]"
        for level in range(levels)
    ]
    text = yaml.safe_dump(sound_value(rng))
    use = rng.choice(
        (
            f"x: *x{levels - 1}",
            "seed: *x0",
            f"<<: *x{levels - 1}",
            f"<<: [{{seed: 1}}, {{seed: 2}}, *x{levels - 1}]",
            "<<: {seed: 3}",
        )
    )
    return Case("aliases", "\n".join(tops) + "\n" + text.replace("spec:\n", f"spec:\n  {use}\n"))


def _strange_overrides(rng: random.Random) -> Case:
    value = sound_value(rng)
    paths = [".".join(map(str, path)) for path in places(value["spec"])]
    keys = [
        "",
        ".",
        "..",
        "a..b",
        "seed.",
        ".seed",
        "data.sources.²",
        "data.sources.-1",
        "data.sources.99999999999",
        "spec.seed",
        "spec",
        "ä",
        "\udcff",
        "metadata.name",
    ]
    values = [json.dumps(each) for each in STRANGE] + [each for each in RAW] + [str(each) for each in STRANGE]
    overrides = [
        f"{rng.choice((rng.choice(paths), rng.choice(keys)))}{rng.choice(('=', '=', '=', ''))}{rng.choice(values)}"
        for _ in range(rng.randint(1, 3))
    ]
    return Case("strange overrides", written(rng, value), overrides)


def _random_text(rng: random.Random) -> Case:
    alphabet = "".join(RAW[:40]) + "abc: -\n  "
    return Case("random text", "".join(rng.choice(alphabet) for _ in range(rng.choice((0, 1, 10, 300)))))


SOUND: tuple[Callable[[random.Random], Case], ...] = (_sound, _sound_overrides, _sound_pods)
MUTATIONS: tuple[Callable[[random.Random], Case], ...] = (
    _strange_values,
    _strange_keys,
    _broken_pods,
    _many_items,
    _deep,
    _strange_text,
    _lines,
    _aliases,
    _strange_overrides,
    _random_text,
)


def case(seed: int) -> Case:
    """The case of a seed; half of them are sound."""
    rng = random.Random(seed)
    return rng.choice(SOUND if seed % 2 else MUTATIONS)(rng)
