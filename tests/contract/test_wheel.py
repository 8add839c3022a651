"""The wheel serves a cluster alone: built from the tree, installed elsewhere, run without the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.contract.trees import ROOT, build_wheel, tracked_tree
from tools.wheel_files import PACKAGED


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tracked_tree(tmp_path_factory.mktemp("tree"))
    stale = tree / "build/lib/diht_k8s/packaged/manifests/samples/stale.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("an earlier build left it here\n")
    return build_wheel(tree)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True)
    return target


def python(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, "-P", *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_wheel_has_the_packaged_files_of_the_repository_and_no_stale_one(wheel: Path) -> None:
    expected = {
        f"diht_k8s/packaged/{path.relative_to(ROOT).as_posix()}"
        for name in PACKAGED
        for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.startswith("diht_k8s/packaged/")} == expected
    assert {name.partition("/")[0] for name in names} == {
        "components",
        "diht_k8s",
        f"{wheel.name.rpartition('-py3')[0]}.dist-info",
    }


def test_two_builds_of_one_tree_are_the_same(wheel: Path, tmp_path: Path) -> None:
    other = build_wheel(tracked_tree(tmp_path / "another-place"))
    assert other.read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("name", ["minimal", "sixteen-nodes-kueue"])
def test_sample_of_the_wheel_is_validated_and_planned_without_the_repository(
    installed: Path, tmp_path: Path, name: str
) -> None:
    diht = ["-m", "diht_k8s.cli"]
    assert python(installed, tmp_path, *diht, "samples", name, "--output", ".").returncode == 0
    valid = python(installed, tmp_path, *diht, "validate", f"{name}.yaml")
    assert valid.returncode == 0, valid.stderr
    plan = python(installed, tmp_path, *diht, "plan", f"{name}.yaml")
    assert plan.returncode == 0, plan.stderr
    kinds = set(re.findall(r"(?m)^kind: (\w+)", plan.stdout))
    assert kinds == ({"Job"} if name == "minimal" else {"Job", "Service"})
