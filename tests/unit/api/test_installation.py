"""The command that brings an extra, from where the package was installed."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api import errors


class Installed(Distribution):
    """A package with what pip has recorded of it."""

    def __init__(self, recorded: str | None) -> None:
        self.recorded = recorded

    def read_text(self, filename: str) -> str | None:
        return self.recorded if filename == "direct_url.json" else None

    def locate_file(self, path: Any) -> Path:
        return Path(path)


@pytest.mark.parametrize(
    ("recorded", "extra", "line"),
    [
        (
            {"url": "file:///home/me/diht", "dir_info": {"editable": True}},
            "recipe",
            "pip install '/home/me/diht[recipe]'",
        ),
        ({"url": "file:///tmp/my%20files/d-0.1.0.whl"}, "heif", "pip install '/tmp/my files/d-0.1.0.whl[heif]'"),
        ({"url": "file:///home/me/diht"}, "", "pip install /home/me/diht"),
        ({"url": "https://example.org/d.whl"}, "recipe", "pip install 'PLACE[recipe]', where PLACE is"),
        (None, "recipe", "pip install 'PLACE[recipe]', where PLACE is"),
        ([], "recipe", "pip install 'PLACE[recipe]', where PLACE is"),
    ],
)
def test_line_names_the_place_that_pip_has_recorded(
    recorded: Any, extra: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if recorded is None else json.dumps(recorded)
    monkeypatch.setattr(errors, "distribution", lambda _: Installed(text))
    assert errors.install_line(extra).startswith(line)


def test_line_of_a_package_that_is_not_installed_names_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(errors, "distribution", missing)
    assert (
        errors.install_line("operator") == "pip install 'PLACE[operator]', where PLACE is diht-k8s's wheel or checkout"
    )
