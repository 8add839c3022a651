"""What the GitHub workflows call is there: make targets, pinned actions, templates; and they name no host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
HOST = re.compile(r"\b(?:[a-z0-9-]+\.)+(?:ai|com|dev|io|net|org)\b")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
MAKE_CALL = re.compile(r"(?m)^\s*make((?:[ \t]+[^\s|;&]+)+)")


def read(path: Path) -> dict[Any, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


def jobs(document: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    found = document["jobs"]
    assert found
    return found


def steps(document: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in jobs(document).values():
        yield from job["steps"]


def make_targets(script: str) -> set[str]:
    """The targets of every `make` call of a script; settings (NAME=value) and options are none."""
    words = (word for call in MAKE_CALL.findall(script) for word in call.split())
    return {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}


def unpinned(document: dict[Any, Any]) -> list[str]:
    used = [step["uses"] for step in steps(document) if "uses" in step]
    return [action for action in used if not PINNED.fullmatch(action)]


def test_workflows_for_lint_tests_images_releases_scans_and_updates_are_there() -> None:
    assert [path.stem for path in WORKFLOWS] == ["images", "lint", "nightly", "release", "scan", "test", "updates"]
    called = {
        path.stem: set[str]().union(*(make_targets(step.get("run", "")) for step in steps(read(path))))
        for path in WORKFLOWS
    }
    assert called == {
        "images": {"images"},
        "lint": {"lint", "check-generated", "docs"},
        "nightly": {"test-all"},
        "release": {"release"},
        "scan": {"release-rehearsal", "scan"},
        "test": {"demo", "test"},
        "updates": {"constraints", "generate", "lint", "test"},
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_calls_targets_of_the_makefile_only(path: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
    called = [name for step in steps(read(path)) for name in make_targets(step.get("run", ""))]
    assert called
    assert set(called) <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_has_pinned_actions_a_time_limit_few_rights_and_no_host(path: Path) -> None:
    document = read(path)
    assert unpinned(document) == []
    assert all("timeout-minutes" in job for job in jobs(document).values())
    assert document["permissions"] in ({"contents": "read"}, {"contents": "write"})
    assert (document["permissions"]["contents"] == "write") == (path.stem == "release")
    assert HOST.findall(path.read_text()) == []


def test_nightly_has_the_history_in_which_the_frozen_release_is_looked_up() -> None:
    [checkout] = [
        each for each in steps(read(GITHUB / "workflows/nightly.yml")) if "actions/checkout@" in each.get("uses", "")
    ]
    assert checkout["with"] == {"fetch-depth": 0}


def test_updates_are_asked_for_actions_and_every_go_module() -> None:
    """Not for the images' base: it comes by an ARG, which dependabot does not read."""
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    found = {each["package-ecosystem"]: each.get("directories") or [each["directory"]] for each in updates}
    modules = sorted(f"/{path.parent.relative_to(ROOT)}" for path in ROOT.glob("tests/cluster/*/go.mod"))
    assert found == {"github-actions": ["/"], "gomod": modules}


@pytest.mark.parametrize("trigger", ["tags", "branches"])
def test_releases_start_on_a_tag_only_and_checks_on_every_pull_request(trigger: str) -> None:
    started = {path.stem: read(path)[True] for path in WORKFLOWS}  # YAML 1.1 reads `on` as true
    if trigger == "tags":
        assert started["release"] == {"push": {"tags": ["v*"]}}
        assert [name for name, each in started.items() if "tags" in (each.get("push") or {})] == ["release"]
    else:
        assert all("pull_request" in started[name] for name in ("lint", "test"))


@pytest.mark.parametrize("path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[bf]*.yml")), ids=lambda path: path.stem)
def test_issue_template_has_what_github_asks_for(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    identities = [field["id"] for field in form["body"]]
    assert len(identities) == len(set(identities)) >= 3
    assert all(field["attributes"]["label"] for field in form["body"])


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("make lint", {"lint"}),
        ('make images IMAGES=operator IMAGE_PREFIX="$X"', {"images"}),
        ("echo\nmake demo test | tee log", {"demo", "test"}),
        ("echo make nothing", set()),
    ],
)
def test_targets_of_a_script(script: str, expected: set[str]) -> None:
    assert make_targets(script) == expected


@pytest.mark.parametrize(
    ("action", "expected"), [("actions/checkout@v4", False), ("a/b@" + "0" * 40, True), ("./local", False)]
)
def test_only_a_digest_pins_an_action(action: str, expected: bool) -> None:
    assert (unpinned({"jobs": {"j": {"steps": [{"uses": action}]}}}) == []) is expected


def test_actionlint_finds_nothing() -> None:
    program = shutil.which("actionlint") or shutil.which("actionlint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("no actionlint: go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.7")
    done = subprocess.run([program, *map(str, WORKFLOWS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
