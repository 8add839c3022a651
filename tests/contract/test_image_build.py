"""`images/build` passes version, commit, time and base to whatever program builds, as labels that the OCI names."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

from diht_k8s import __version__
from tools.wheel_files import PACKAGED

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "a" * 64


def labels(folder: Path, name: str, base: str) -> dict[str, str]:
    """What a stand-in for docker is asked to write on the image."""
    builder = folder / "docker"
    builder.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/words\n')
    builder.chmod(0o755)
    environment = {**os.environ, "BUILDER": str(builder), "BASE": base}
    subprocess.run([ROOT / "images/build", name], check=True, env=environment, capture_output=True)
    words = (folder / "words").read_text().splitlines()
    found = [word for before, word in itertools.pairwise(words) if before == "--label"]
    return {key.rpartition("image.")[2]: value for key, _, value in (word.partition("=") for word in found)}


@pytest.mark.parametrize("name", ["operator", "recipe"])
def test_image_names_its_commit_its_time_and_its_base(tmp_path: Path, name: str) -> None:
    found = labels(tmp_path, name, "")
    assert set(found) == {"revision", "created", "base.name"}
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", found["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["created"])
    assert found["base.name"] == "python:3.11-slim-bookworm"


def test_base_that_is_pinned_by_its_digest_is_named_with_it(tmp_path: Path) -> None:
    found = labels(tmp_path, "operator", f"registry.example.org/python@{DIGEST}")
    assert (found["base.name"], found["base.digest"]) == ("registry.example.org/python", DIGEST)


@pytest.mark.parametrize(
    ("program", "prefix", "push", "expected"),
    [
        ("docker", "127.0.0.1:5000/a/", "1", ["push 127.0.0.1:5000/a/IMAGE"]),
        ("buildah", "127.0.0.1:5000/a/", "1", ["push --tls-verify=false 127.0.0.1:5000/a/IMAGE"]),
        ("podman", "registry.example.org/", "1", ["push registry.example.org/IMAGE"]),
        ("podman", "registry.example.org/", "", []),
    ],
)
def test_image_is_pushed_where_that_is_asked_for_and_without_tls_to_this_machine_only(
    tmp_path: Path, program: str, prefix: str, push: str, expected: list[str]
) -> None:
    builder = tmp_path / program
    builder.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    builder.chmod(0o755)
    environment = {**os.environ, "BUILDER": str(builder), "IMAGE_PREFIX": prefix, "PUSH": push}
    subprocess.run([ROOT / "images/build", "operator"], check=True, env=environment, capture_output=True)
    calls = (tmp_path / "calls").read_text().replace(f"diht-operator:{__version__}", "IMAGE").splitlines()
    assert [call for call in calls if call.startswith("push")] == expected


def test_commit_and_time_that_are_given_are_written_where_the_folder_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVISION", "c" * 40)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    found = labels(tmp_path, "operator", "")
    assert (found["revision"], found["created"]) == ("c" * 40, "2023-11-14T22:13:20Z")


@pytest.mark.parametrize("name", ["operator", "recipe"])
def test_containerfile_has_the_other_labels_of_the_oci(name: str) -> None:
    text = (ROOT / f"images/{name}.Containerfile").read_text()
    assert set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", text)) == {
        "title", "description", "version", "licenses",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["operator", "recipe"])
def test_image_installs_packages_by_their_hashes_and_then_our_own_alone(name: str) -> None:
    text = (ROOT / f"images/{name}.Containerfile").read_text()
    first, second = re.findall(r"/pip install ([^\\\n]+)", text)
    assert "--require-hashes" in first
    assert re.findall(r"-r (\S+)", first) == ["requirements/build.txt", f"requirements/{name}.txt"]
    assert "--no-deps --no-build-isolation ." in second
    copied = [path for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", text) for path in line.split()[:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert {path for path in PACKAGED if not any(path.startswith(copy) for copy in copied)} == set()
