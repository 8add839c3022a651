"""The names in docs/architecture.md and the map in CONTRIBUTING.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
ROOMS = (
    "api",
    "kube",
    "pipeline",
    "launch",
    "controller",
    "cli",
    "data",
    "models",
    "stages",
    "report",
    "inspection",
    "outputs",
    "shards",
    "runtime",
    "filter",
    "label",
    "train",
    "evaluate",
)


def drawn_packages(tree: str) -> set[str]:
    """Packages of the tree, by indentation: `diht_k8s/stages/train/data`."""
    found, parents = set[str](), list[str]()
    for line in tree.splitlines():
        match = re.match(r"( *)([a-z_0-9]+)/ ?", line)
        if match:
            parents = [*parents[: len(match[1]) // 2], match[2]]
            found.add("/".join(parents))
    return found


def dotted(text: str) -> set[str]:
    """Names such as `launch.render.render` in backticks or in the boxes of the drawings."""
    return {
        name for name in re.findall(r"[`\[\"> ]((?:[a-z_0-9]+\.)+[A-Za-z_0-9]+)", text) if name.split(".")[0] in ROOMS
    }


def is_there(name: str) -> bool:
    """Whether a module below `diht_k8s`, `diht_k8s/data` or `diht_k8s/stages`, or a top-level definition of one, has
    this name.
    """
    parts = name.split(".")
    for base in (ROOT / "diht_k8s", ROOT / "diht_k8s/data", ROOT / "diht_k8s/stages"):
        if base.joinpath(*parts).is_dir() or base.joinpath(*parts).with_suffix(".py").is_file():
            return True
        module = base.joinpath(*parts[:-1]).with_suffix(".py")
        if module.is_file() and re.search(rf"(?m)^(?:def|class) {parts[-1]}\b|^{parts[-1]}\b", module.read_text()):
            return True
    return False


def test_tree_has_every_package_of_the_code_and_no_other() -> None:
    tree = PAGE.partition("## The rooms\n\n```\n")[2].partition("```")[0]
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for name in ("diht_k8s", "components")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert drawn_packages(tree) == packages


@pytest.mark.parametrize("name", sorted(dotted(PAGE)))
def test_module_or_function_that_the_page_names_is_there(name: str) -> None:
    assert is_there(name)


def test_files_that_the_map_for_contributors_names_are_there() -> None:
    paths = set(
        re.findall(
            r"`((?:diht_k8s|tests|benchmarks|components|tools|docs|helm|manifests|examples|images)/[\w./-]*)`",
            CONTRIBUTING,
        )
    )
    assert len(paths) > 20
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
