"""The stage programs, imported only when they are needed: they bring parser, OCR and torch."""

from __future__ import annotations

import importlib
import os
from typing import Final, cast

from diht_k8s.api.run import Stage
from diht_k8s.recipe.runtime.stage import Program

PROGRAMS_VARIABLE: Final = "DIHT_PROGRAMS"
"""Names another package with the same four subpackages: tests of the loop around the programs run in seconds with it."""


def program_of(stage: Stage) -> Program:
    """The module with `identify` and `execute` of a stage."""
    package = os.environ.get(PROGRAMS_VARIABLE, "diht_k8s.recipe")
    return cast("Program", importlib.import_module(f"{package}.{stage}.stage"))
