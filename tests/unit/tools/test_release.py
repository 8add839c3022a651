"""A release, as far as it is text: what is refused before anything is made, the page's notes, the documented commands, the statement."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diht_k8s import __version__
from tools.release.__main__ import main
from tools.release.artefacts import ReleaseError, notes, pinned_base
from tools.release.documented import commands
from tools.release.programs import PROGRAMS, WrongModuleError, program
from tools.release.provenance import Build, predicate, statement
from tools.release.publishing import BUNDLE, IN_REGISTRY, KEY, ROOT, SUMS

CHANGELOG = (
    "# Changelog\n\n## [1.3.0] - 2027-02-01\n\n## [1.2.0] - 2027-01-01\n\n- new\n\n### Filter\n- more\n\n"
    "## [1.1.0] - unreleased\n- old\n"
)
PAGE = "# P\n\n## Verify a release\n\n```\nnot this\n```\n\n```sh\nverify\n```\n\n## Other\n\n```sh\nno\n```\n"
STARTED = datetime(2027, 1, 1, tzinfo=UTC)
BUILD = Build(
    "1.2.0",
    "c" * 40,
    "git+https://example.org/p@refs/tags/v1.2.0",
    "https://example.org/w",
    ["operator"],
    f"example.org/python:3@sha256:{'b' * 64}",
    False,
    STARTED,
    {"requirements/base.txt": "a" * 64},
)


@pytest.mark.parametrize(
    ("version", "dated", "expected"),
    [("1.2.0", True, "- new\n\n### Filter\n- more\n"), ("1.1.0", False, "- old\n")],
)
def test_notes_are_the_section_of_the_version(version: str, dated: bool, expected: str) -> None:
    assert notes(CHANGELOG, version, dated=dated) == expected


@pytest.mark.parametrize(
    ("version", "dated", "says"),
    [
        ("1.3.0", True, r"no section ## \[1\.3\.0\], or nothing in it"),
        ("1.4.0", False, r"no section ## \[1\.4\.0\]"),
        ("1.2", True, r"no section ## \[1\.2\]"),
        ("1.1.0", True, r"does not say when: write ## \[1\.1\.0\] - YEAR-MONTH-DAY"),
    ],
)
def test_version_without_notes_or_a_day_is_not_released(version: str, dated: bool, says: str) -> None:
    with pytest.raises(ReleaseError, match=says):
        notes(CHANGELOG, version, dated=dated)


def test_changelog_has_a_section_of_the_version_that_can_be_read_at_once() -> None:
    assert len(notes((ROOT / "CHANGELOG.md").read_text(), __version__, dated=False).splitlines()) <= 60


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (f"r/python:3@sha256:{'c' * 64}", f"r/python:3@sha256:{'c' * 64}"),
        ("localhost/debian:12", "localhost/debian:12@sha256:of the builder's store"),
        ("r/python:3", "r/python:3@sha256:of the registry"),
        ("", "python:3.11-slim-bookworm@sha256:of the registry"),
    ],
)
def test_base_without_a_digest_gets_the_one_that_it_has_now(
    base: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {"crane": ("digest", "of the registry"), "buildah": ("images", "of the builder's store")}
    for name, (verb, digest) in programs.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$1" = {verb} ] && echo "sha256:{digest}"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("tools.release.artefacts.program", lambda name: tmp_path / name)
    monkeypatch.setenv("BUILDER", str(tmp_path / "buildah"))
    monkeypatch.setenv("BASE", base)
    assert pinned_base(ROOT) == expected


@pytest.mark.parametrize("tag", ["v99.0.0", __version__, f"v{__version__}rc1"])
def test_tag_that_is_not_the_version_is_refused_and_leaves_what_is_there(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.release.__main__.FOLDER", tmp_path)
    (tmp_path / "before").touch()
    assert main(["--tag", tag, "--registry", "r", "--key", "k"]) == 1
    assert f"the tag is {tag}, and the package's version {__version__}" in capsys.readouterr().err
    assert (tmp_path / "before").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tag", "v1"], "--tag needs --registry and --key"),
        (["--dry-run", "--images", "recipe"], "the operator's is always among them"),
        ([], "one of the arguments --dry-run --tag is required"),
    ],
)
def test_release_without_what_it_needs_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.release.__main__.FOLDER", tmp_path)
    with pytest.raises(SystemExit):
        main(words)
    assert says in capsys.readouterr().err


def test_commands_are_the_one_block_below_the_heading() -> None:
    assert commands(PAGE) == "verify\n"


@pytest.mark.parametrize("page", ["# P\n", PAGE.replace("verify\n```", "verify\n```\n```sh\nmore\n```")])
def test_page_without_exactly_one_block_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="blocks of commands"):
        commands(page)


@pytest.mark.parametrize("name", ["$KEY", "$REGISTRY", SUMS, IN_REGISTRY, BUNDLE])
def test_documented_commands_name_what_a_release_leaves_for_them(name: str) -> None:
    assert name in commands((ROOT / "docs/install.md").read_text())
    assert f"`{KEY}`" in (ROOT / "docs/install.md").read_text()


def test_statement_names_every_subject_commit_builder_and_times_and_claims_no_level() -> None:
    made = statement({"b.whl": "b" * 64, "a.tgz": "a" * 64}, predicate(BUILD, STARTED + timedelta(minutes=5)))
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert made["subject"] == [
        {"name": "a.tgz", "digest": {"sha256": "a" * 64}},
        {"name": "b.whl", "digest": {"sha256": "b" * 64}},
    ]
    definition, details = made["predicate"]["buildDefinition"], made["predicate"]["runDetails"]
    assert definition["externalParameters"] == {"version": "1.2.0", "images": ["operator"], "rehearsal": False}
    assert definition["resolvedDependencies"] == [
        {"uri": BUILD.source, "digest": {"gitCommit": BUILD.commit}},
        {"name": "example.org/python:3", "digest": {"sha256": "b" * 64}},
        {"name": "requirements/base.txt", "digest": {"sha256": "a" * 64}},
    ]
    assert details["builder"] == {"id": BUILD.builder}
    assert [details["metadata"][name] for name in ("startedOn", "finishedOn")] == [
        "2027-01-01T00:00:00+00:00",
        "2027-01-01T00:05:00+00:00",
    ]
    assert "level" not in json.dumps(made).lower()


def test_program_whose_source_is_not_the_pinned_one_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\ncase $1 in env) echo go1.0 ;; mod) echo \'{"Sum": "h1:other"}\' ;; *) touch built ;; esac\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongModuleError, match=f"the digest h1:other, not {PROGRAMS['crane'].digest[:9]}"):
        program("crane")
    assert not (tmp_path / "built").exists()
