"""Requirements with hashes: every package is pinned and hashed, for each Python that we name, and no file names a
host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.trees import ROOT, build_wheel, tracked_tree

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = {
    "base": [],
    "operator": ["operator"],
    "recipe": ["recipe", "gs", "az"],
    "dev": ["recipe", "gs", "az", "operator", "docs", "dev"],
    "sbom": ["sbom"],
}
PYTHONS = ("3.11", "3.12", "3.13")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def text(name: str) -> str:
    return (ROOT / f"requirements/{name}.txt").read_text()


def entries(name: str) -> list[str]:
    """Each requirement with its hashes, one line each."""
    lines = [line for line in text(name).splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", "").splitlines()


def pins(name: str, python: str) -> dict[str, str]:
    """What applies to a Python on Linux x86-64: name -> version."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.4",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for entry in entries(name):
        requirement = Requirement(entry.partition("--hash")[0].strip())
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return found


@pytest.mark.parametrize("name", EXTRAS)
def test_every_package_is_pinned_and_hashed_and_no_host_is_named(name: str) -> None:
    for entry in entries(name):
        assert re.match(r"[\w.\-]+(\[[\w,\-]+\])?==\S+", entry), entry
        assert HASH.search(entry), entry
    assert re.findall(r"https?:|--(?:extra-)?index-url|--find-links|\b(?:com|net|org|io)/", text(name)) == []
    assert "pip install diht" not in text(name).replace("'", ""), "no index has it yet"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", EXTRAS)
def test_what_pyproject_asks_for_is_there_for_each_python_in_a_version_that_it_allows(name: str, python: str) -> None:
    found = pins(name, python)
    for line in [
        *PROJECT["dependencies"],
        *(each for extra in EXTRAS[name] for each in PROJECT["optional-dependencies"][extra]),
    ]:
        wanted = Requirement(line)
        version = found[canonicalize_name(wanted.name)].removeprefix("==")
        assert wanted.specifier.contains(version, prereleases=True), line


@pytest.mark.parametrize("name", EXTRAS)
def test_versions_are_those_of_the_constraints(name: str) -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pinned = {canonicalize_name(line.partition("==")[0]): f"=={line.partition('==')[2]}" for line in lines}
    found = pins(name, "3.11")
    if name == "sbom":  # an environment of its own
        found = {package: version for package, version in found.items() if package in pinned}
    assert {package: version for package, version in found.items() if pinned.get(package) != version} == {}
    if name == "dev":
        assert set(found) == set(pinned)


UV = """#!/bin/sh
# pins a package as constraints.txt does, or as the index of today
[ -z "$BROKEN" ] || exit 1
case "$*" in *" -") cat >/dev/null ;; esac
while [ "$1" != -c ]; do shift; done
grep '^a==' "$2" || echo a==2
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/constraints", tmp_path / "tools")
    (tmp_path / "pyproject.toml").write_text('requires = ["a"]\n')
    (tmp_path / "constraints.txt").write_text("# The heading.\na==1\n")
    (tmp_path / "uv").write_text(UV)
    (tmp_path / "uv").chmod(0o755)
    return tmp_path


def constrain(checkout: Path, update: str, broken: str = "") -> bool:
    environment = {**os.environ, "PATH": f"{checkout}:{os.environ['PATH']}", "UPDATE": update, "BROKEN": broken}
    return subprocess.run([checkout / "tools/constraints"], env=environment).returncode == 0


@pytest.mark.parametrize("update", ["", "1"])
def test_constraints_stay_where_no_new_ones_are_found(checkout: Path, update: str) -> None:
    assert not constrain(checkout, update, broken="1")
    assert (checkout / "constraints.txt").read_text() == "# The heading.\na==1\n"


def test_classifiers_name_linux_and_the_pythons_that_are_resolved() -> None:
    assert "Operating System :: POSIX :: Linux" in PROJECT["classifiers"]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language")]
    assert tuple(named) == PYTHONS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_operator_installs_by_hashes_into_a_clean_environment_and_plans(tmp_path: Path) -> None:
    wheel = build_wheel(tracked_tree(tmp_path / "tree"))
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [tmp_path / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", ROOT / "requirements/operator.txt"], check=True)
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    diht = tmp_path / "venv/bin/diht"
    for words in (["samples", "sixteen-nodes-kueue", "--output", "."], ["plan", "sixteen-nodes-kueue.yaml"]):
        done = subprocess.run([diht, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    other = (ROOT / "requirements/base.txt").read_text().replace("--hash=sha256:", "--hash=sha256:0")
    (tmp_path / "other.txt").write_text(re.sub(r"(sha256:0[0-9a-f]{63})[0-9a-f]", r"\1", other))
    refused = subprocess.run(
        [*pip, "--force-reinstall", "--require-hashes", "-r", tmp_path / "other.txt"], capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bill_of_materials_names_every_package_with_its_hashes_and_is_the_same_twice(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        subprocess.run([ROOT / "tools/sbom", tmp_path / folder], check=True)
    for name in ("base", "operator", "recipe"):
        path = f"diht-k8s-{name}.cdx.json"
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
        document = json.loads((tmp_path / "one" / path).read_text())
        assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
        found = {canonicalize_name(each["name"]): f"=={each['version']}" for each in document["components"]}
        assert found.items() >= pins(name, "3.11").items()
        assert all(each["externalReferences"][0]["hashes"] for each in document["components"])
