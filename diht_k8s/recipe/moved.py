"""Names that users import from where they stood in 0.1.0: they still work, with a `DeprecationWarning`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


def moved(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of a module whose names have moved.

    Args:
        module: the old module's `__name__`.
        names: each name with the module below `diht_k8s` that defines it now.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = f"diht_k8s.{names[name]}"
        warnings.warn(f"{module}.{name} has moved: import it from {home}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(home), name)

    return get
