"""Where this package was installed from: no index has it yet, so that advice names the wheel or the checkout."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final
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
