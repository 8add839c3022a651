"""Check of the rule of the house (CONTRIBUTING.md): public class names are unique in the package. Part of `make lint`.

A name that stands twice fails. Modules with a single importer, in their own folder, are printed and never fail: a
person decides whether such a file has a concept that a reader looks for by name, or belongs into the one that imports
it.

    python tools/check_house.py
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("diht_k8s", "components")


def read_modules(root: Path) -> dict[str, ast.Module]:
    """The parsed modules of the packages below a root, by dotted name; a package has the name of its folder."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }


def repeated_classes(modules: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """The modules that define a public class, for each class name that stands twice or more."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for module, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    return {name: places for name, places in sorted(found.items()) if len(places) > 1}


def imported_by(tree: ast.Module, modules: Iterable[str]) -> set[str]:
    """The modules among `modules` that a module imports, at its top or in a function."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found.intersection(modules)


def single_importers(modules: Mapping[str, ast.Module]) -> dict[str, str]:
    """The one importer of each module that only a module of its own folder imports."""
    importers: defaultdict[str, list[str]] = defaultdict(list)
    for module, tree in modules.items():
        for name in imported_by(tree, modules):
            importers[name].append(module)
    folder = {module: module.rpartition(".")[0] for module in modules}
    return {
        module: found[0]
        for module, found in sorted(importers.items())
        if len(found) == 1 and folder[found[0]] == folder[module]
    }


def main(root: Path = ROOT) -> int:
    """Check the packages below a root; the exit code."""
    modules = read_modules(root)
    single = single_importers(modules)
    print(f"{len(single)} of {len(modules)} modules have one importer, in their own folder:")
    print(*(f"  {module} <- {importer.rpartition('.')[2]}" for module, importer in single.items()), sep="\n")
    repeated = repeated_classes(modules)
    for name, places in repeated.items():
        print(f"class {name} stands in {' and '.join(places)}: give each its own name", file=sys.stderr)
    return 1 if repeated else 0


if __name__ == "__main__":
    sys.exit(main())
