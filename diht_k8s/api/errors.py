"""Errors that end a program of this project, its exit codes, and the advice on a package that is missing.

Exit codes are part of the API (docs/troubleshooting.md lists them): Kubernetes' pod failure policy and the controller
decide by them whether to retry. No index has this package yet, so that advice names its wheel or checkout.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterable, Mapping
from enum import IntEnum
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME: Final = "diht-k8s"


def install_line(extra: str) -> str:
    """The command that installs this package again, with an extra.

    Args:
        extra: recipe, operator, ...; "" for none.
    """
    try:
        package = distribution(NAME)
    except PackageNotFoundError:
        package = None
    extras = f"[{extra}]" if extra else ""
    place = None if package is None else installed_from(package)
    if place is None:
        return f"pip install 'PLACE{extras}', where PLACE is {NAME}'s wheel or checkout"
    return f"pip install {shlex.quote(place + extras)}"


def installed_from(package: Distribution) -> str | None:
    """Path of the wheel or checkout that pip has recorded (`direct_url.json`); None if it has none, or another kind
    of address.
    """
    try:
        address = urlsplit(str(json.loads(package.read_text("direct_url.json") or "{}")["url"]))
    except (ValueError, LookupError, TypeError):
        return None
    return url2pathname(address.path) if address.scheme == "file" else None


class ExitCode(IntEnum):
    """The exit status of every program of this project."""

    DONE = 0
    """Done, or cached: the output is committed."""
    UNEXPECTED = 1
    """Anything that no code below covers; retried within the budget."""
    USER_ERROR = 64
    """The configuration is wrong: the same run will fail again. Never retried."""
    BAD_DATA = 65
    """The input is damaged beyond the limit that the run allows. Never retried."""
    RETRYABLE = 75
    """A transient error outside the program (storage, network, a lost peer)."""
    STOPPED = 143
    """Stopped on request (SIGTERM), state saved where there was any."""


NEVER_RETRIED: Final = (2, ExitCode.USER_ERROR, ExitCode.BAD_DATA, 126, 127)
"""Exit codes with which the next attempt would end as well: wrong usage, our 64 and 65, not executable, not found."""


class DihtError(Exception):
    """An error with a one-line message for a person: what happened, where, what to do."""

    exit_code = ExitCode.UNEXPECTED
    details: Mapping[str, Any] = MappingProxyType({})
    """further fields of the cause that the program leaves (`api.reports.Cause`)."""


class UserError(DihtError):
    """The run document, an option or the environment is wrong."""

    exit_code = ExitCode.USER_ERROR


class DataError(DihtError):
    """The data is wrong: damaged shards, nothing left after a filter, too many bad samples."""

    exit_code = ExitCode.BAD_DATA


class RetryableError(DihtError):
    """A transient error: the same program may succeed when it is restarted."""

    exit_code = ExitCode.RETRYABLE


class ComputedElsewhere(RetryableError):  # noqa: N818 (no fault)
    """Another run computes this training now: its result will be this run's, and nothing is computed twice."""


class StopRequested(DihtError):  # noqa: N818 (a request, not a fault)
    """Somebody asked this program to stop; what could be saved is saved."""

    exit_code = ExitCode.STOPPED


def missing_package(error: ImportError, extra: str = "recipe") -> str:
    """Advice on an import that failed: in most cases the package was installed without its extras.

    Args:
        error: the failed import.
        extra: the one that brings the package; "" if it comes without any.
    """
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package in ("", __name__.partition(".")[0]):
        return f"{error}: install the package again or use another image"
    return f"the package {package} is not installed: {install_line(extra)}, or use another image"


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to another; None if none is near.

    Args:
        name: what was given.
        known: what there is.
        cutoff: least similarity (`difflib`'s ratio, 0 to 1).
    """
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


def suggestion(name: str, known: Iterable[str], otherwise: str = "", *, cutoff: float = 0.6) -> str:
    """`did you mean X?` for the nearest known name, and `otherwise` if none is near."""
    near = nearest(name, known, cutoff=cutoff)
    return f"did you mean {near}?" if near else otherwise


BY_EXIT_CODE: Final[Mapping[int, type[DihtError]]] = {
    kind.exit_code: kind for kind in (UserError, DataError, RetryableError, StopRequested)
}
"""The error with which a program ends that reports how another one ended."""


def in_one_line(error: object, limit: int = 200) -> str:
    """What an error says, on one line of at most `limit` characters; its type if it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
