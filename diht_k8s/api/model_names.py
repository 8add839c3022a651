"""The model names that open_clip, timm and our SWAG teachers know, by a list that the package ships
(`model_names.txt`).

The operator and `diht validate` have none of these packages. Where another version of one is installed than the list is
of, a name that the list lacks may be sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from types import MappingProxyType
from typing import Final

from diht_k8s.api.errors import suggestion

OPEN_CLIP: Final = "open_clip_torch"
TIMM: Final = "timm"
LIBRARIES: Final = MappingProxyType({"open_clip": OPEN_CLIP, "timm": TIMM, "swag": ""})
"""First part of a teacher's name -> the package that has its models; "" for those that we name ourselves."""


@dataclass(frozen=True)
class ModelNames:
    """The list."""

    versions: Mapping[str, str]
    """package -> its version."""
    problems: Mapping[str, str]
    """LIBRARY/NAME -> what a training refuses about that open_clip model; "" for all others."""

    def of(self, library: str) -> list[str]:
        """The names of a library, without it."""
        return [name.partition("/")[2] for name in self.problems if name.startswith(f"{library}/")]


@dataclass(frozen=True)
class NameProblem:
    """What is wrong with a name."""

    message: str
    certain: bool
    """False where the installed package may know the name: its version is not that of the list."""


@cache
def model_names() -> ModelNames:
    """The shipped list."""
    text = resources.files("diht_k8s.api").joinpath("model_names.txt").read_text(encoding="utf-8")
    versions, *lines = (line for line in text.splitlines() if not line.startswith("#"))
    pairs = (line.partition(" ") for line in lines)
    return ModelNames(
        MappingProxyType(dict(each.split("==") for each in versions.split())),  # type: ignore[arg-type]
        MappingProxyType({name: problem for name, _, problem in pairs}),
    )


def unknown_name(library: str, name: str) -> NameProblem | None:
    """What to do about a name that a library does not know; None if it does.

    Args:
        library: one of `LIBRARIES`.
        name: without the library; timm's may carry a tag (`resnet50.a1_in1k`), which says nothing here.
    """
    known, package = model_names(), LIBRARIES[library]
    plain = name.partition(".")[0] if library == "timm" else name
    if f"{library}/{plain}" in known.problems:
        return None
    who = f"{library} {known.versions[package]}" if package else f"{library} (there are {', '.join(known.of(library))})"
    hint = suggestion(plain, known.of(library), "check the name", cutoff=0.5)
    return NameProblem(f"{name} is not known to {who}: {hint}", certain=not _other_version(package))


def _other_version(package: str) -> bool:
    """Whether another version of a package is installed than the list is of."""
    try:
        return bool(package) and metadata.version(package) != model_names().versions[package]
    except metadata.PackageNotFoundError:
        return False
