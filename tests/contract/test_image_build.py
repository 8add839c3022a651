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


def asked(folder: Path, name: str, base: str, program: str = "docker") -> list[str]:
    """The words that a stand-in for a builder is called with."""
    builder = folder / program
    builder.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/words\n')
    builder.chmod(0o755)
    environment = {**os.environ, "BUILDER": str(builder), "BASE": base}
    subprocess.run([ROOT / "images/build", name], check=True, env=environment, capture_output=True)
    return (folder / "words").read_text().splitlines()


def labels(folder: Path, name: str, base: str) -> dict[str, str]:
    """What it is asked to write on the image."""
    found = [word for before, word in itertools.pairwise(asked(folder, name, base)) if before == "--label"]
    return {key.rpartition("image.")[2]: value for key, _, value in (word.partition("=") for word in found)}


def stages(name: str) -> dict[str, list[str]]:
    """The instructions of a Containerfile by stage, each in one line; the last stage is `image`."""
    text = (ROOT / f"images/{name}.Containerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    found: dict[str, list[str]] = {}
    for line in filter(None, lines):
        if line.startswith("FROM "):
            found[line.partition(" AS ")[2] or "image"] = []
        elif found:
            found[list(found)[-1]].append(line)
    return found


@pytest.mark.parametrize("name", ["operator", "recipe"])
def test_image_names_its_commit_its_time_and_its_base(tmp_path: Path, name: str) -> None:
    found = labels(tmp_path, name, "")
    assert set(found) == {"revision", "created", "base.name"}
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", found["revision"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["created"])
    assert found["base.name"] == "python:3.11-slim-bookworm"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("registry.example.org/python", "registry.example.org/python"),
        ("registry.example.org:5000/a/python:3.11", "registry.example.org:5000/a/python"),
        ("python:3.11", "python"),
    ],
)
def test_base_that_is_pinned_by_its_digest_is_named_with_it_and_taken_without_its_tag(
    tmp_path: Path, name: str, path: str
) -> None:
    """buildah refuses a reference with both."""
    found = labels(tmp_path, "operator", f"{name}@{DIGEST}")
    assert (found["base.name"], found["base.digest"]) == (name, DIGEST)
    assert f"BASE={path}@{DIGEST}" in asked(tmp_path, "operator", f"{name}@{DIGEST}")


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


def pip(instructions: list[str]) -> list[str]:
    """The calls of pip that install or build."""
    commands = [each.strip() for line in instructions if line.startswith("RUN ") for each in line[4:].split("&&")]
    return [
        each for each in commands if re.search(r"/pip .*(install|wheel) |\$install ", each) and "install=" not in each
    ]


@pytest.mark.parametrize(
    ("name", "files"),
    [("operator", ["operator.txt"]), ("recipe", ["/build/cuda.txt", "/build/torch.txt", "build.txt", "recipe.txt"])],
)
def test_image_installs_packages_by_their_hashes_and_then_our_own_alone(name: str, files: list[str]) -> None:
    found = stages(name)
    assert list(found) == ["code", "image"]
    theirs = pip(found["image"])
    assert [re.findall(r"-r (\S+)", each)[0].removeprefix("/opt/diht/") for each in theirs] == files
    assert all("--require-hashes" in each for each in theirs)
    assert all("--no-deps" in each for each in theirs if "build.txt" not in each)
    assert all("--only-binary :all:" in each for each in theirs if "build.txt" not in each)
    assert all("--no-build-isolation" in each for each in theirs if "--no-binary" in each)
    tools, wheel, ours = pip(found["code"])
    assert "--require-hashes -r requirements/build.txt" in tools
    assert "--no-deps --no-build-isolation" in wheel
    assert "--no-deps --no-index" in ours


@pytest.mark.parametrize(
    ("name", "requirements"),
    [("operator", "requirements/operator.txt"), ("recipe", "requirements/build.txt requirements/recipe.txt")],
)
def test_our_code_is_the_last_layer_and_the_others_are_made_without_it(name: str, requirements: str) -> None:
    changes = [line for line in stages(name)["image"] if line.startswith(("ADD", "COPY", "RUN"))]
    copies = [f"COPY {requirements} /opt/diht/", "COPY --from=code /code/opt/diht /opt/diht"]
    assert [line for line in changes if not line.startswith("RUN")] == copies
    assert changes[-1] == copies[-1]


@pytest.mark.parametrize("name", ["operator", "recipe"])
def test_all_that_the_wheel_packs_is_copied_to_where_it_is_built(name: str) -> None:
    copied = {path for line in stages(name)["code"] if line.startswith("COPY ") for path in line.split()[1:-1]}
    assert {path for path in PACKAGED if not any(path.startswith(copy) for copy in copied)} == set()


@pytest.mark.parametrize("name", ["operator", "recipe"])
def test_builder_gets_what_it_copies_with_times_and_modes_that_do_not_depend_on_the_checkout(
    tmp_path: Path, name: str
) -> None:
    builder = tmp_path / "docker"
    builder.write_text(f"#!/bin/sh\nfind . -type f -printf '%P %T@ %m\\n' > {tmp_path}/found\n")
    builder.chmod(0o755)
    subprocess.run(
        [ROOT / "images/build", name], check=True, env={**os.environ, "BUILDER": str(builder)}, capture_output=True
    )
    found = [line.rsplit(" ", 2) for line in (tmp_path / "found").read_text().splitlines()]
    assert {time.partition(".")[0] for _, time, _ in found} == {"315532800"}
    assert {mode for _, _, mode in found} <= {"644", "755"}
    paths = [path for path, _, _ in found]
    assert not [path for path in paths if "__pycache__" in path]
    for copy in (
        path
        for lines in stages(name).values()
        for line in lines
        if re.match("COPY (?!--from)", line)
        for path in line.split()[1:-1]
    ):
        assert any(path == copy or path.startswith(f"{copy}/") for path in paths), copy
