"""The scripts of the cluster without a cluster: they pass shellcheck, and `image` writes what container runtimes
read.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tarfile
from argparse import Namespace
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = ["up", "down", "lose", "build", "debian", "extra", "check", "api_server"]


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


BUSY = """#!/bin/sh
echo "$@" >>$CALLS
[ $(wc -l <$CALLS) -gt $REFUSED ] || { echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7" >&2; exit 100; }
[ "$BROKEN" = "" ] || { echo "E: Unable to locate package" >&2; exit 100; }
"""


@pytest.mark.parametrize(
    ("refused", "broken", "patience", "code", "calls"),
    [(2, "", "300", 0, 4), (99, "", "0", 69, 1), (0, "1", "300", 69, 1)],
    ids=["held for a while", "held for too long", "another error"],
)
def test_packages_are_installed_when_whoever_holds_the_lock_of_apt_has_ended(
    tmp_path: Path, refused: int, broken: str, patience: str, code: int, calls: int
) -> None:
    (tmp_path / "apt-get").write_text(BUSY)
    (tmp_path / "apt-get").chmod(0o755)
    (tmp_path / "log").mkdir()
    env = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "TEST_CLUSTER_DIR": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "REFUSED": str(refused),
        "BROKEN": broken,
        "TEST_CLUSTER_APT_SECONDS": patience,
        "HOME": str(tmp_path),
    }
    lines = f"here={HERE}; . $here/lib.sh; install_packages none-such:none-such"
    done = subprocess.run(["bash", "-ec", lines], env=env, capture_output=True, text=True)
    said = (tmp_path / "calls").read_text().splitlines()
    assert (done.returncode, len(said)) == (code, calls), done.stderr
    assert all("DPkg::Lock::Timeout=300" in line for line in said)


def test_scripts_that_start_or_build_parts_run_one_after_the_other(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        f'#!/usr/bin/env bash\nset -e\nhere={tmp_path}\n. {HERE}/lib.sh\none_at_a_time "$@"\n'
        f'echo "begin $1" >>{tmp_path}/told; setsid sleep 30 </dev/null >/dev/null 2>&1 & echo $! >>{tmp_path}/pids\n'
        f'sleep 0.5; [ "$1" = b ] || "$here/script" b; echo "end $1" >>{tmp_path}/told\n'
    )
    script.chmod(0o755)
    env = {**os.environ, "TEST_CLUSTER_DIR": str(tmp_path)}
    try:
        both = [subprocess.Popen([script, name], env=env) for name in ("a", "c")]
        assert [each.wait(20) for each in both] == [0, 0], "what a script left running holds no lock"
    finally:
        for pid in (tmp_path / "pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    told = (tmp_path / "told").read_text().split("\n")[:-1]
    first = told[0][-1]
    whole = [f"begin {first}", "begin b", "end b", f"end {first}"]
    assert told[:4] == whole
    assert len(told) == 8
