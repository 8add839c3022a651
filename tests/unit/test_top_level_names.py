"""Names that users import from the top level."""

from __future__ import annotations

import subprocess
import sys

import pytest

import diht_k8s


@pytest.mark.parametrize("name", diht_k8s.__all__)
def test_name_is_imported_from_the_top_level(name: str) -> None:
    assert callable(getattr(diht_k8s, name))
    assert name in dir(diht_k8s)


def test_import_needs_no_heavy_package() -> None:
    code = (
        "import sys, diht_k8s; print([name for name in ('torch', 'spacy', 'kubernetes', 'webdataset') if name "
        "in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'hn_nce'"):
        _ = diht_k8s.hn_nce
