"""Downloads in their true layouts: imported, they equal a script that reads them alone, and torchvision's own reader."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from diht_k8s.cli.main import main
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.downloads import DOWNLOADS, Download


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    originals.trust_files(monkeypatch)
    monkeypatch.setattr("torchvision.datasets.imagenet._verify_archive", lambda *_: None)


def seen(image: bytes | np.ndarray | Image.Image, said: Any) -> tuple[str, Any]:
    """An image's pixels as a digest, and its class or captions."""
    opened = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
    pixels = np.asarray(opened if isinstance(opened, np.ndarray) else opened.convert("RGB"))
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return f"{pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}", said


def imported(sample: Sample) -> tuple[str, Any]:
    if "cls" in sample.members:
        return seen(sample.image, int(sample.members["cls"]))
    if "classes" in sample.meta:
        return seen(sample.image, (tuple(sample.meta["classes"]), tuple(sample.meta["ignored_classes"])))
    return seen(sample.image, tuple(sample.members["txt"].decode().split("\n")))


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with the times at which it, or its list of files, was changed."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in sorted([folder, *folder.rglob("*")])
    }


def opened_by_torchvision(download: Download, source: Path, root: Path) -> list[tuple[str, Any]]:
    if download.torchvision == "Flickr30k":
        dataset = torchvision.datasets.Flickr30k(str(source.parent / "flickr30k_images"), str(source))
        return [seen(image, tuple(captions)) for image, captions in dataset]
    if download.part:
        (root / download.part).parent.mkdir(parents=True, exist_ok=True)
        (root / download.part).symlink_to(source)
    dataset = getattr(torchvision.datasets, download.torchvision)(
        str(root if download.part else source), **download.arguments
    )
    numbers = download.numbers or range(1000)
    return [seen(image, numbers[int(label)]) for image, label in dataset]


@pytest.mark.parametrize("name", list(DOWNLOADS))
def test_a_download_in_its_own_layout_is_read_as_a_script_and_torchvision_read_it(tmp_path: Path, name: str) -> None:
    download = DOWNLOADS[name]
    assert download.documented
    (tmp_path / "in").mkdir()
    source = download.build(tmp_path / "in")
    folders = [tmp_path / "in", *(path for path in (tmp_path / "in").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)  # nobody but root can write
    before = states(tmp_path / "in")
    options = [option.format(root=tmp_path / "in") for option in download.options]
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out"), *options]) == 0
    assert states(tmp_path / "in") == before, "something was written into the source"
    for folder in folders:
        folder.chmod(0o755)
    marker = json.loads((tmp_path / "out/COMMITTED.json").read_text())
    shards = sorted((tmp_path / "out/test").glob("*.tar"))
    found = Counter(imported(sample) for path in shards for sample in read_samples(Storage(), str(path)))
    assert (marker["samples"], marker["bad"]) == (found.total(), {})
    assert found == Counter(seen(*each) for each in download.script(source))
    if download.torchvision:
        assert found == Counter(opened_by_torchvision(download, source, tmp_path / "root"))


def test_the_table_has_twenty_downloads_and_torchvisions_readers() -> None:
    assert len(DOWNLOADS) >= 20
    assert sum(bool(each.torchvision) for each in DOWNLOADS.values()) >= 20
