"""What tests/upgrade/release holds: one version of one commit, whole and small, and neither built from anything else nor edited."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.upgrade.releases import CHART, COMMIT, VERSION, WHEEL
from tools.release.artefacts import CHART as CHART_FOLDER
from tools.release.freezing import FROZEN, MAX_BYTES, NOTE, main
from tools.release.publishing import ROOT
from tools.wheel_files import PACKAGED


def tar_files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        read = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        return {name: file.read() for name, file in read if file is not None}


def chart_files() -> dict[str, bytes]:
    return {name.partition("/")[2]: text for name, text in tar_files(CHART.read_bytes()).items()}


def wheel_files() -> dict[str, bytes]:
    with zipfile.ZipFile(WHEEL) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def test_frozen_release_is_wheel_chart_and_note_of_one_version_and_small() -> None:
    assert {path.name for path in FROZEN.iterdir()} == {WHEEL.name, CHART.name, NOTE}
    assert sum(path.stat().st_size for path in FROZEN.iterdir()) <= MAX_BYTES
    files, chart = wheel_files(), yaml.safe_load(chart_files()["Chart.yaml"])
    definition = yaml.safe_load(files["diht_k8s/packaged/manifests/crd/diht.dev_dihtruns.yaml"])
    [metadata] = [text.decode() for name, text in files.items() if name.endswith(".dist-info/METADATA")]
    assert f"\nVersion: {VERSION}\n" in metadata
    assert {chart["version"], chart["appVersion"], definition["metadata"]["annotations"]["diht.dev/version"]} == {
        VERSION
    }


def test_frozen_files_are_those_of_their_commit() -> None:
    git = ("git", "-C", str(ROOT))
    if subprocess.run([*git, "cat-file", "-e", COMMIT], capture_output=True).returncode != 0:
        pytest.skip(f"this clone does not have the commit {COMMIT}")
    chart, files = chart_files(), wheel_files()
    packaged = {name.removeprefix("diht_k8s/packaged/"): text for name, text in files.items() if "/packaged/" in name}
    code = {name: text for name, text in files.items() if "/packaged/" not in name and ".dist-info/" not in name}
    helm = {f"{CHART_FOLDER}/{name}": text for name, text in chart.items() if name != "Chart.yaml"}  # helm rewrites it
    archive = subprocess.run(
        [*git, "archive", COMMIT, "diht_k8s", "components", *PACKAGED], check=True, capture_output=True
    )
    there = tar_files(archive.stdout)
    assert helm.keys() == {name for name in there if name.startswith(CHART_FOLDER)} - {f"{CHART_FOLDER}/Chart.yaml"}
    assert {**code, **packaged}.keys() == there.keys()
    assert {name for name, text in {**code, **packaged, **helm}.items() if text != there.get(name)} == set()


def test_revision_that_cannot_be_frozen_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "before").touch()
    monkeypatch.setattr("tools.release.freezing.FROZEN", tmp_path)
    assert main(["no-such-revision"]) == 1
    assert "freezing:" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
