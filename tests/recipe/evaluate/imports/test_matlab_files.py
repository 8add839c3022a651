"""A .mat that was changed anywhere costs the process that reads it, and never the import."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from scipy.io import loadmat, savemat

from diht_k8s.cli.main import main
from diht_k8s.data.imports import matlab_files
from diht_k8s.data.imports.matlab_files import read_mat
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.downloads import DOWNLOADS

CRASHING = ((353, 255), (384, 128), (384, 243), (385, 1))
"""Places of the devkit's file where a change of these bits ends scipy 1.17.1 by a signal."""
META = "ILSVRC2012_devkit_t12/data/meta.mat"
ANNOTATIONS = "cars_test_annos_withlabels.mat"


def imagenet(folder: Path) -> tuple[Path, Path]:
    source = DOWNLOADS["ImageNet, devkit and flat val"].build(folder)
    return source, source / META


def cars(folder: Path) -> tuple[Path, Path]:
    source = originals.cars(folder)
    return source, source / "stanford_cars" / ANNOTATIONS


def changed(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


@pytest.mark.parametrize(("make", "crashing"), [(imagenet, CRASHING), (cars, ())])
def test_changed_byte_ends_an_import_with_one_line_or_changes_nothing(
    make: Callable[[Path], tuple[Path, Path]],
    crashing: Sequence[tuple[int, int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, path = make(tmp_path)
    content = path.read_bytes()
    everywhere = [(place, 1 << place % 8) for place in range(7, len(content), len(content) // 4)]
    codes = set[int]()
    for number, (place, bits) in enumerate([*crashing, *everywhere]):
        path.write_bytes(changed(content, place, bits))
        codes.add(code := main(["benchmarks", "import", str(source), f"{tmp_path}/out{number}"]))
        said = capsys.readouterr().err
        if code == 65:
            assert said.count("fetch") == 1, said
            assert "Traceback" not in said
    assert 65 in codes <= {0, 65}


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import os, signal, sys; print('a', file=sys.stderr); os.kill(os.getpid(), signal.SIGSEGV)",
            "its reader crashed",
        ),
        ("import sys; sys.exit('ValueError: cut')", "ValueError: cut"),
        ("import time; time.sleep(60)", "it is not read within 1 seconds"),
        ("print('{')", "Expecting property name"),
    ],
    ids=["crash", "error", "hang", "no answer"],
)
def test_reader_that_ends_in_any_way_is_an_error_of_the_file(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = imagenet(tmp_path)
    run = matlab_files.subprocess.run
    monkeypatch.setattr(matlab_files, "SECONDS", 1 if "sleep" in program else 60)
    monkeypatch.setattr(
        matlab_files.subprocess, "run", lambda command, **options: run([command[0], "-c", program], **options)
    )
    with pytest.raises(ValueError, match=said):
        read_mat(b"")
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/out"]) == 65
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert "fetch ILSVRC2012_devkit_t12.tar.gz again" in line


def test_cars_of_torchvision_are_read_apart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(content: bytes) -> dict[str, object]:
        raise ValueError("its reader crashed")

    source, _ = cars(tmp_path)
    monkeypatch.setattr(matlab_files, "read_mat", crash)
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/out"]) == 65
    assert "cannot be read as cars, split test (its reader crashed)" in capsys.readouterr().err
    assert scipy.io.loadmat is loadmat


def test_reader_without_scipy_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/scipy.py").write_text("raise ModuleNotFoundError(\"No module named 'scipy'\", name='scipy')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/without:{Path(matlab_files.__file__).parents[3]}")
    source, _ = imagenet(tmp_path)
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/out"]) == 64
    assert "imagenet1k needs the package scipy: pip install scipy" in capsys.readouterr().err


def test_values_are_those_of_scipy() -> None:
    fields = np.zeros(2, dtype=[("name", object), ("number", object)])
    fields[0], fields[1] = ("a", 1), ("b", 2)
    file = io.BytesIO()
    savemat(
        file, {"many": fields, "one": fields[:1], "names": np.array(["x", "yz"], dtype=object), "numbers": [[1, 2]]}
    )
    assert read_mat(file.getvalue()) == {
        "many": [{"name": "a", "number": 1}, {"name": "b", "number": 2}],
        "one": {"name": "a", "number": 1},
        "names": ["x", "yz"],
        "numbers": [1, 2],
    }
    assert loadmat(io.BytesIO(file.getvalue()), squeeze_me=True)["names"].tolist() == ["x", "yz"]


def test_reader_has_no_more_memory_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    savemat(file, {"numbers": np.zeros((1000, 1000))})
    read_mat(file.getvalue())
    monkeypatch.setattr(matlab_files, "MEMORY", 64 << 20)
    with pytest.raises(ValueError, match=r".+"):
        read_mat(file.getvalue())
