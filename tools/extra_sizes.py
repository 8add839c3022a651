"""How much disk each extra takes: the files of all packages that it brings, as they are installed in this environment.

    python tools/extra_sizes.py          # a table, MB python tools/extra_sizes.py --check  # compares it with the table
    in docs/packages.md; exit code 1 if one is off by a tenth

Byte code is left out: it appears at first use.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "packages.md"
EXTRAS: Final = ("", "operator", "recipe", "docs", "dev")
"""Those that `make` installs; `tracking` is not among them."""
CUDA: Final = re.compile(r"nvidia-|cuda-|triton$")
TOLERANCE: Final = 0.1
MB: Final = 1e6


def required(lines: Sequence[str], extras: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What the lines of a package require on this machine, with some of its extras: pairs of name and extras of
    that.
    """
    from packaging.requirements import Requirement

    found = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.append((requirement.name, sorted(requirement.extras)))
    return found


def brought_by(extra: str) -> dict[str, Distribution]:
    """The installed packages that `pip install 'diht-k8s[extra]'` brings, without diht-k8s."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, Distribution] = {}
    waiting = required([*project["dependencies"], *project["optional-dependencies"].get(extra, [])], [])
    seen = set[str]()
    while waiting:
        name, extras = waiting.pop()
        key = f"{re.sub(r'[-_.]+', '-', name).lower()}[{','.join(extras)}]"
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(name)
        except PackageNotFoundError:  # not installed here: of another platform, or the extra is not
            continue
        found[key.partition("[")[0]] = package
        waiting += required(package.requires or [], extras)
    return found


def size(package: Distribution) -> int:
    """Bytes of a package's files, without byte code."""
    paths = {Path(str(package.locate_file(file))) for file in package.files or [] if file.suffix != ".pyc"}
    return sum(path.stat().st_size for path in paths if path.is_file())


def sizes() -> dict[str, float]:
    """MB by extra; `recipe, CUDA` is the part of `recipe` that only GPUs need."""
    bytes_of: dict[str, int] = {}

    def total(packages: Mapping[str, Distribution]) -> float:
        for name, package in packages.items():
            if name not in bytes_of:
                bytes_of[name] = size(package)
        return sum(bytes_of[name] for name in packages) / MB

    found = {extra: total(brought_by(extra)) for extra in EXTRAS}
    recipe = brought_by("recipe")
    found["recipe, CUDA"] = total({name: package for name, package in recipe.items() if CUDA.match(name)})
    every = {name: package for extra in EXTRAS for name, package in brought_by(extra).items()}
    found["all"] = total(every)
    return found


def said(page: str) -> dict[str, float]:
    """The table of the page: extra -> MB."""
    rows = re.findall(r"(?m)^\| (.+?) \|[^|]*\| ([\d,]+) MB \|$", page)
    names = [re.sub(r"^`diht-k8s(?:\[(\w+)\])?`$", r"\1", name) for name, _ in rows]
    return {name: float(number.replace(",", "")) for name, (_, number) in zip(names, rows, strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or compare it; the exit code."""
    parser = argparse.ArgumentParser(description="Measure how much disk each extra takes.")
    parser.add_argument("--check", action="store_true", help="compare with docs/packages.md")
    options = parser.parse_args(arguments)
    measured = sizes()
    if not options.check:
        for name, megabytes in measured.items():
            print(f"{name or 'base':14} {megabytes:8,.0f} MB")
        return 0
    written = said(PAGE.read_text(encoding="utf-8"))
    wrong = [name for name in measured if abs(written.get(name, 0) - measured[name]) > TOLERANCE * measured[name] + 1]
    for name in wrong:
        print(
            f"docs/packages.md: {name or 'base'} takes {measured[name]:,.0f} MB here, the page says "
            f"{written.get(name, 0):,.0f}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
