"""The check of the house finds class names that stand twice, and modules that one neighbour alone imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_house

TREE = {
    "diht_k8s/__init__.py": "",
    "diht_k8s/a/__init__.py": "",
    "diht_k8s/a/work.py": "class Step: ...\nclass _Own: ...\n",
    "diht_k8s/a/loop.py": "from diht_k8s.a.work import Step\nfrom diht_k8s.a import shared\nclass _Own: ...\n",
    "diht_k8s/a/shared.py": "class Shared:\n    class Step: ...\n",
    "diht_k8s/b/__init__.py": "",
    "diht_k8s/b/late.py": "def run():\n    import diht_k8s.a.shared\n    from diht_k8s.b.far import far\n",
    "diht_k8s/b/far.py": "from diht_k8s.a.loop import anything\n",
    "components/__init__.py": "",
}


def write(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_module_that_one_neighbour_alone_imports_is_printed_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_house.main(write(tmp_path, TREE)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 of 9 modules have one importer, in their own folder:",
        "  diht_k8s.a.work <- loop",
        "  diht_k8s.b.far <- late",
    ]


@pytest.mark.parametrize("path", ["diht_k8s/b/late.py", "components/__init__.py"])
def test_public_class_name_that_stands_twice_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    write(tmp_path, {**TREE, path: "class Step: ...\n"})
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert check_house.main(tmp_path) == 1
    assert capsys.readouterr().err == f"class Step stands in diht_k8s.a.work and {module}: give each its own name\n"


def test_private_and_inner_classes_may_repeat(tmp_path: Path) -> None:
    modules = check_house.read_modules(write(tmp_path, TREE))
    assert check_house.repeated_classes(modules) == {}
