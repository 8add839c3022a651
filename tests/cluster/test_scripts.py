"""The scripts of the cluster without a cluster: they pass shellcheck, and `image` writes what container runtimes read."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
import tarfile
from argparse import Namespace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = ["up", "down", "lose", "build", "debian", "extra", "check"]


@pytest.fixture
def image_script():
    loader = importlib.machinery.SourceFileLoader("image_script", str(HERE / "image"))
    spec = importlib.util.spec_from_loader("image_script", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck: apt-get install shellcheck")
def test_scripts_when_checked_have_no_findings():
    checked = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=HERE, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_image_when_made_of_folders_has_their_files_in_layers_with_true_digests(image_script, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main.py").write_text("pass\n")
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    args = Namespace(
        name="local/app:1",
        add=[f"{tmp_path}/tool=/bin/tool", f"{tmp_path}/app=/app"],
        env=["HOME=/tmp"],
        entrypoint=["/bin/tool"],
        workdir="/",
        user="10001:10001",
        owner="0:0",
    )
    with tarfile.open(image_script.archive(tmp_path, args)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    [manifest] = json.loads(members["manifest.json"])
    config = json.loads(members["config.json"])
    layers = [members[name] for name in manifest["Layers"]]
    assert manifest["RepoTags"] == ["local/app:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    assert config["config"]["User"] == "10001:10001"
    assert [layer_files(tmp_path, layer) for layer in layers] == [{"bin/tool": 0}, {"app": 0, "app/main.py": 0}]


def layer_files(folder: Path, layer: bytes) -> dict[str, int]:
    """Names in the layer and the owner of each."""
    (folder / "layer.tar").write_bytes(layer)
    with tarfile.open(folder / "layer.tar") as tar:
        return {member.name: member.uid for member in tar}


def test_image_when_a_source_is_missing_says_so(image_script, tmp_path):
    with pytest.raises(SystemExit, match="absent does not exist"):
        image_script.write_layer(tmp_path / "0.tar", tmp_path / "absent", "/", None)
