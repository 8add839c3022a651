from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from diht_k8s.api.evaluate import Evaluate
from diht_k8s.api.filter import Filter
from diht_k8s.api.label import Label
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import Spec
from diht_k8s.api.schema import generate
from diht_k8s.api.schema.cel import run_rules, wire_names
from diht_k8s.api.schema.crd import definition, structural
from diht_k8s.api.schema.reference import editor_schema, page
from diht_k8s.api.status import Status
from diht_k8s.api.train import Train

ROOT = Path(__file__).parents[3]
VERSION = definition()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
KUBERNETES = re.compile(
    r"\.(affinity|tolerations|valueFrom|volumes|volumeMounts|securityContext|podSecurityContext)[.\[]"
)
"""Within these fields stand Kubernetes' own types, described by its own reference."""
FORBIDDEN = {"$ref", "$defs", "title", "default", "const", "x-placement", "allOf", "oneOf", "not"}


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a structural schema with its path."""
    yield path, node
    for name, value in node.get("properties", {}).items():
        yield from nodes(value, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}[]")


NODES = dict(nodes(SCHEMA))


def test_generated_files_are_those_that_the_models_give() -> None:
    assert generate.stale(ROOT) == {}, "run: python -m diht_k8s.api.schema.generate"


def test_check_names_what_is_stale_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--root", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out.count("is stale: run python -m diht_k8s.api.schema.generate") == 4
    assert list(tmp_path.iterdir()) == []


def test_generate_writes_once_and_only_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--root", str(tmp_path)]) == 0
    (tmp_path / generate.REFERENCE_FILE).write_text("old")
    capsys.readouterr()
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "docs/api.md written\n"
    assert generate.main(["--root", str(tmp_path), "--check"]) == 0
    assert yaml.safe_load((tmp_path / generate.CRD_FILE).read_text()) == definition()


def capped(node: dict[str, Any]) -> bool:
    match node.get("type"):
        case "string":
            return "maxLength" in node or "enum" in node
        case "array":
            return "maxItems" in node and node["x-kubernetes-list-type"] in ("atomic", "map")
        case "object":
            return bool({"properties", "maxProperties", "x-kubernetes-preserve-unknown-fields"} & set(node))
        case "integer":
            return node["format"] in ("int32", "int64") and {"minimum", "maximum"} <= set(node)
        case None:
            return node["x-kubernetes-int-or-string"] is True and "maxLength" in node
    return True


def test_every_field_is_structural() -> None:
    for path, node in NODES.items():
        assert not FORBIDDEN & set(node), path
        assert isinstance(node.get("exclusiveMinimum", True), bool), path
        assert node.get("additionalProperties") is not False, path


def test_every_field_is_capped() -> None:
    ours = {path: node for path, node in NODES.items() if path not in (".apiVersion", ".kind", ".metadata")}
    assert [path for path, node in ours.items() if not capped(node)] == []


def test_every_field_is_described_beginning_with_its_name() -> None:
    fields = [
        path
        for path in NODES
        if path not in ("", ".metadata") and not path.endswith("[]") and not KUBERNETES.search(path)
    ]
    assert [p for p in fields if not NODES[p].get("description", "").startswith(p.rsplit(".", 1)[1])] == []


def test_open_objects_are_those_that_open_clip_and_kubernetes_define() -> None:
    found = {
        path.rsplit(".", 1)[1].removesuffix("[]")
        for path, node in NODES.items()
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    assert found == {
        "modelConfig",
        "affinity",
        "tolerations",
        "valueFrom",
        "volumes",
        "volumeMounts",
        "securityContext",
        "podSecurityContext",
    }


def test_lists_keyed_by_a_field_are_maps() -> None:
    keys = {
        path: node["x-kubernetes-list-map-keys"] for path, node in NODES.items() if "x-kubernetes-list-map-keys" in node
    }
    assert {path: keys[path] for path in keys if "pods" not in path} == {
        ".spec.data.sources": ["name"],
        ".spec.storage": ["prefix"],
        ".spec.filter.metadataLimits": ["name"],
        ".spec.evaluate.benchmarks": ["name"],
        ".status.conditions": ["type"],
        ".status.stages": ["name"],
        ".status.progress.metrics": ["name"],
        ".status.stages[].goodput.startUp": ["name"],
        ".status.stages[].preflight.nodes[].figures": ["name"],
        ".status.stages[].restartsInPlace.nodes": ["node"],
    }
    for name in ("env", "volumes"):
        assert len([path for path in keys if path.endswith(f"pods.{name}")]) == 5


def test_status_holds_no_floats_and_no_phase() -> None:
    status = dict(nodes(structural(Status)))
    assert [path for path, node in status.items() if node.get("type") == "number"] == []
    assert ".phase" not in status


@pytest.mark.parametrize(
    ("stage", "model"), [("filter", Filter), ("label", Label), ("train", Train), ("evaluate", Evaluate)]
)
def test_rule_on_a_started_stage_covers_each_of_its_fields_but_pods_and_nodes(stage: str, model: Any) -> None:
    rule = next(rule.rule for rule in run_rules() if f"s.stage == '{stage}'" in rule.rule)
    for name in wire_names(model):
        editable = {"pods", "numNodes", "minNodes"} if stage == "train" else {"pods"}
        assert (f"self.spec.{stage}.{name} == oldSelf.spec.{stage}.{name}" in rule) == (name not in editable)


def test_every_field_of_the_spec_is_editable_fixed_or_a_stage() -> None:
    fields = [rule.field for rule in run_rules()]
    editable = {"suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "failurePolicy", "pods"}
    assert {field.removeprefix("spec.") for field in fields if field} | editable == set(wire_names(Spec))


def test_every_rule_says_what_to_do_and_names_a_field_that_exists() -> None:
    for path, node in NODES.items():
        for rule in node.get("x-kubernetes-validations", []):
            assert any(
                word in rule["message"]
                for word in (
                    "give",
                    "raise",
                    "change",
                    "needs",
                    "delete",
                    "read the run again",
                    "shorten",
                    "write",
                    "correct",
                    "use",
                    "remove",
                )
            )
            assert path + rule.get("fieldPath", "") in NODES


def test_columns_and_selectable_fields_point_at_fields_that_exist() -> None:
    for column in VERSION["additionalPrinterColumns"]:
        path = column["jsonPath"].split("[?")[0]
        assert path in NODES or path == ".metadata.creationTimestamp"
    for field in VERSION["selectableFields"]:
        assert NODES[field["jsonPath"]]["type"] in ("string", "boolean", "integer")


def test_reference_page_names_every_field_reason_and_rule() -> None:
    text = page()
    for path in NODES:
        name = path.rsplit(".", 1)[-1].removesuffix("[]")
        if path.count(".") > 1 and not KUBERNETES.search(path):
            assert f"| `{name}` |" in text
    assert all(f"| `{reason}` | {reason.meaning} |" in text for reason in [*Reason, *ConditionType])
    assert all(f"`{rule.field}`" in text.partition("# What may be edited")[2] for rule in run_rules()[1:])
    assert "| `batchSize` | integer (≥ 1) | `32768` | batchSize over all processes" in text
    assert "| `lr` | number (> 0) | `0.0005` |" in text, "nobody writes a million"
    assert "| `ema` | number (≥ 0, < 1) | `0.0` |" in text
    assert "| `zeroStage` | integer (0..3) | `1` |" in text
    assert "| `output` | string | **required** |" in text
    assert "| `shards` | []string (1..256) |" in text
    assert "| `restarts` | integer | restarts of all stages" in text, "no defaults and bounds where the operator writes"
    assert "| `workers` | integer (1..4096) | `1` | pods (or processes)" in text, "the name stands before it"
    assert text.count("| `productiveSeconds` |") == 1
    assert "Its fields are those of [StageGoodput](#statusstagesgoodput)." in text
    assert "| `stages` | [[]ResolutionStage](#spectrainstages) (≤ 16) |" in text


def test_editor_schema_is_closed_and_free_of_our_marks() -> None:
    schema = json.loads(editor_schema())
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["$defs"]["Train"]["additionalProperties"] is False
    assert schema["$defs"]["Train"]["properties"]["batchSize"]["default"] == 32768
    assert '"x-' not in editor_schema()
