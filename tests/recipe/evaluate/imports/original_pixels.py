"""Small originals that are pixels in a file of their own format: CIFAR, IDX, MATLAB, LIBSVM, HDF5, CSV."""

from __future__ import annotations

import bz2
import pickle
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.recipe.evaluate.imports.drawings import IMAGES, drawing


def _cifar(root: Path, name: str, meta: str, key: str, label: str, classes: list[str]) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    rows = [np.asarray(drawing(row, 32)).transpose(2, 0, 1).reshape(-1) for row in range(IMAGES)]
    batch = {"data": np.stack(rows), label: [row % len(classes) for row in range(IMAGES)]}
    (folder / ("test_batch" if name == "cifar-10-batches-py" else "test")).write_bytes(pickle.dumps(batch))
    (folder / meta).write_bytes(pickle.dumps({key: classes}))
    return root


def cifar10(root: Path) -> Path:
    return _cifar(
        root, "cifar-10-batches-py", "batches.meta", "label_names", "labels", [f"kind {n}" for n in range(10)]
    )


def cifar100(root: Path) -> Path:
    names = [f"fine_kind {n}" for n in range(100)]
    return _cifar(root, "cifar-100-python", "meta", "fine_label_names", "fine_labels", names)


def mnist(root: Path, name: str = "MNIST") -> Path:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    pixels = np.stack([np.asarray(drawing(row, 28, mode="L")) for row in range(IMAGES)])
    labels = np.arange(IMAGES, dtype=np.uint8) % 10
    for stem in ("t10k", "train"):
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(_idx(pixels))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(_idx(labels))
    return root


def fashion_mnist(root: Path) -> Path:
    return mnist(root, "FashionMNIST")


def kmnist(root: Path) -> Path:
    return mnist(root, "KMNIST")


def _idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.astype(np.uint8).tobytes()


def stl10(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    pixels = np.stack([np.asarray(drawing(row, 96)).transpose(2, 1, 0) for row in range(IMAGES)])
    (folder / "test_X.bin").write_bytes(pixels.tobytes())
    (folder / "test_y.bin").write_bytes((np.arange(IMAGES, dtype=np.uint8) % 10 + 1).tobytes())
    (folder / "class_names.txt").write_text("".join(f"class {n}\n" for n in range(10)))
    return root


def svhn(root: Path) -> Path:
    root.mkdir(parents=True)
    pixels = np.stack([np.asarray(drawing(row, 32)) for row in range(IMAGES)], axis=-1)
    labels = np.arange(IMAGES) % 10
    savemat(root / "test_32x32.mat", {"X": pixels, "y": np.where(labels == 0, 10, labels)[:, None]})
    return root


def usps(root: Path) -> Path:
    root.mkdir(parents=True)
    lines = []
    for row in range(IMAGES):
        values = 2 * (np.asarray(drawing(row, 16, mode="L"), dtype=np.float64).reshape(-1) + 0.5) / 255 - 1
        lines.append(" ".join([str(row % 10 + 1), *(f"{n}:{value:.6f}" for n, value in enumerate(values, start=1))]))
    (root / "usps.t.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    return root


def pcam(root: Path) -> Path:
    import h5py

    (root / "pcam").mkdir(parents=True)
    stem = root / "pcam/camelyonpatch_level_2_split_test"
    with h5py.File(f"{stem}_x.h5", "w") as file:
        file["x"] = np.stack([np.asarray(drawing(row, 96)) for row in range(IMAGES)])
    with h5py.File(f"{stem}_y.h5", "w") as file:
        file["y"] = (np.arange(IMAGES, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1)
    return root


FER_EMOTIONS = (0, 1, 2, 3, 5, 6, 4)
"""Class by name of each number in FER2013's file: angry, disgust, fear, happy, sad, surprise, neutral."""


def fer2013(root: Path) -> Path:
    (root / "fer2013").mkdir(parents=True)
    lines = ["emotion,pixels,Usage", f"0,{' '.join(['7'] * 48 * 48)},Training"]
    for row in range(IMAGES):
        pixels = " ".join(map(str, np.asarray(drawing(row, mode="L")).reshape(-1)))
        lines.append(f"{row % 7},{pixels},{('PublicTest', 'PrivateTest')[row % 2]}")
    (root / "fer2013/fer2013.csv").write_text("\n".join(lines))
    return root
