"""What the tree may not change after the frozen release, compared without a cluster: what it takes from users, what both operators share.

A change that one of these tests names breaks running runs in an upgrade. Before the first tag it may still be made: freeze again.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diht_k8s.api.schema.generate import CRD_FILE
from tests.upgrade.compatibility import incompatibilities
from tests.upgrade.releases import NEW_FIELD, NEXT, WHEEL, next_release, unpacked
from tools.release.publishing import ROOT

SHARED = """
import json
from diht_k8s import __version__
from diht_k8s.api.errors import ExitCode
from diht_k8s.api.run import Stage
from diht_k8s.kube import labels
from diht_k8s.pipeline.attempts import attempt_name
print(json.dumps({
    "version": __version__,
    "labels": {name: value for name, value in vars(labels).items() if name.isupper()},
    "exit codes": {code.name: code for code in ExitCode},
    "names": [attempt_name("r", stage, 2, step) for stage in Stage for step in ("", "heads")],
}))
"""
"""By what an operator finds the Jobs of another one and knows how their programs ended."""


def schema(text: str) -> dict[str, Any]:
    [version] = yaml.safe_load(text)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def shared(code: Path) -> dict[str, Any]:
    command = [sys.executable, "-P", "-c", SHARED]
    env = {**os.environ, "PYTHONPATH": str(code)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=env).stdout)


def lost(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What one has, and the other has not or otherwise."""
    pairs = ((kind, name) for kind in ("labels", "exit codes") for name in old[kind])
    return [name for kind, name in pairs if new[kind].get(name) != old[kind][name]] + [
        name for name in old["names"] if name not in new["names"]
    ]


@pytest.fixture(scope="module")
def released() -> dict[str, Any]:
    with zipfile.ZipFile(WHEEL) as wheel:
        return schema(wheel.read(f"diht_k8s/packaged/{CRD_FILE}").decode())


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("old"))


def test_definition_of_the_tree_takes_what_that_of_the_release_takes(released: dict[str, Any]) -> None:
    assert list(incompatibilities(released, schema((ROOT / CRD_FILE).read_text()))) == []


def at(schema: dict[str, Any], *path: str) -> dict[str, Any]:
    for name in path:
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    return schema


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: at(root, "status")["properties"].pop("progress"), ".status.progress: gone"),
        (lambda root: at(root, "status").update(required=["restarts"]), ".status.restarts: required"),
        (lambda root: at(root, "spec", "seed").update(type="string"), ".spec.seed: type integer -> string"),
        (lambda root: at(root, "status", "attempts").update(maxItems=4), ".status.attempts: maxItems 5 -> 4"),
        (
            lambda root: at(root, "status", "conditions", "[]", "message").update(minLength=1),
            ".status.conditions[].message: minLength None -> 1",
        ),
        (
            lambda root: at(root, "status", "stages", "[]", "state")["enum"].remove("Cached"),
            ".status.stages[].state: enum [",
        ),
        (
            lambda root: at(root, "status", "stages", "[]", "outputUri").update(pattern="^s3:"),
            ".status.stages[].outputUri: pattern None -> ^s3:",
        ),
        (
            lambda root: at(root, "status", "queue", "name").update(enum=["gpus"]),
            ".status.queue.name: enum None -> ['gpus']",
        ),
    ],
)
def test_change_of_a_definition_that_old_objects_do_not_survive_is_named(
    released: dict[str, Any], change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    changed = copy.deepcopy(released)
    change(changed)
    [found] = incompatibilities(released, changed)
    assert found.startswith(expected)


def test_change_of_a_definition_that_takes_more_is_none(released: dict[str, Any]) -> None:
    more = copy.deepcopy(released)
    at(more, "status")["properties"][NEW_FIELD] = {"type": "string", "maxLength": 1}
    at(more, "status", "attempts").update(maxItems=50)
    at(more, "status", "stages", "[]", "state")["enum"].append("Tomorrow")
    assert list(incompatibilities(released, more)) == []


def test_operators_of_the_release_and_of_the_tree_find_the_same_attempts(old: Path) -> None:
    assert lost(shared(old), shared(ROOT)) == []


def test_renamed_label_is_found_and_the_next_release_of_the_tests_renames_none(old: Path, tmp_path: Path) -> None:
    before, new = shared(old), next_release(tmp_path / "new")
    assert (shared(new)["version"], lost(before, shared(new))) == (NEXT, [])
    labels = new / "diht_k8s/kube/labels.py"
    labels.write_text(labels.read_text().replace('"diht.dev/attempt"', '"diht.dev/try"'))
    assert lost(before, shared(new)) == ["ATTEMPT_LABEL"]
