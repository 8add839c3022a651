"""Small originals of every layout that can be imported, drawn and written as their makers write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from tests.recipe.evaluate.imports.drawings import IMAGES, save, two_captions
from tests.recipe.evaluate.imports.original_pixels import (
    cifar10,
    cifar100,
    fashion_mnist,
    fer2013,
    kmnist,
    mnist,
    pcam,
    stl10,
    svhn,
    usps,
)
from tests.recipe.evaluate.imports.original_tables import (
    arrow,
    numbered_labels,
    numbered_texts,
    parquet,
    parquet_captions,
    parquet_winogavil,
    parquet_winoground,
    yes_or_no,
)
from tests.recipe.evaluate.small_run import COLOURS


def trust_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn files do not have the checksums of the originals."""
    for module in ("cifar", "stl10", "svhn", "flowers102", "fer2013"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_, **__: True)


def image_folder(root: Path) -> Path:
    for row in range(IMAGES):
        save(root / "test" / f"{COLOURS[row % 6]}_thing" / f"{row:03d}.{('png', 'jpg', 'bmp')[row % 3]}", row)
    return root


def numbered_folders(root: Path) -> Path:
    """Classes 1 to 11."""
    for row in range(11):
        save(root / "test" / str(row + 1) / "a.png", row)
    return root


def gtsrb(root: Path) -> Path:
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row in range(IMAGES):
        save(root / "gtsrb/GTSRB/Final_Test/Images" / f"{row:05d}.ppm", row)
        lines.append(f"{row:05d}.ppm;48;48;0;0;47;47;{row % 43}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines))
    return root


def food101(root: Path) -> Path:
    listed: dict[str, list[str]] = {}
    for row in range(IMAGES):
        name = f"{COLOURS[row % 6]}_pie"
        listed.setdefault(name, []).append(f"{name}/{row}")
        save(root / "food-101/images" / name / f"{row}.jpg", row)
    (root / "food-101/meta").mkdir()
    for split in ("train", "test"):
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(listed))
    return root


def dtd(root: Path) -> Path:
    lines = []
    for row in range(IMAGES):
        name = f"{COLOURS[row % 6]}ed"
        save(root / "dtd/dtd/images" / name / f"{name}_{row:04d}.jpg", row)
        lines.append(f"{name}/{name}_{row:04d}.jpg")
    (root / "dtd/dtd/labels").mkdir()
    (root / "dtd/dtd/labels/test1.txt").write_text("\n".join(lines) + "\n")
    return root


def pets(root: Path) -> Path:
    lines = []
    for row in range(IMAGES):
        save(root / "oxford-iiit-pet/images" / f"{COLOURS[row % 6]}_cat_{row}.jpg", row)
        lines.append(f"{COLOURS[row % 6]}_cat_{row} {row % 6 + 1} 1 1")
    (root / "oxford-iiit-pet/annotations/trimaps").mkdir(parents=True)
    (root / "oxford-iiit-pet/annotations/test.txt").write_text("\n".join(lines))
    return root


def flowers(root: Path) -> Path:
    for row in range(IMAGES):
        save(root / "flowers-102/jpg" / f"image_{row + 1:05d}.jpg", row)
    savemat(root / "flowers-102/imagelabels.mat", {"labels": (np.arange(IMAGES) * 7 % 102 + 1)[None]})
    ids = np.arange(1, IMAGES + 1)[None]
    savemat(root / "flowers-102/setid.mat", {"trnid": ids, "valid": ids, "tstid": ids})
    return root


def cars(root: Path) -> Path:
    folder = root / "stanford_cars"
    for row in range(IMAGES):
        save(folder / "cars_test" / f"{row:05d}.jpg", row)
    (folder / "devkit").mkdir()
    names = np.array([f"{colour} wagon 20{n}" for n, colour in enumerate(COLOURS)], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    fields = np.zeros(IMAGES, dtype=[("fname", object), ("class", object)])
    for row in range(IMAGES):
        fields[row] = (f"{row:05d}.jpg", row % 6 + 1)
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": fields})
    return root


def fgvc_aircraft(root: Path) -> Path:
    data = root / "fgvc-aircraft-2013b/data"
    for row in range(IMAGES):
        save(data / "images" / f"{row:07d}.jpg", row)
    (data / "variants.txt").write_text("".join(f"Model {n}\n" for n in range(6)))
    (data / "images_variant_test.txt").write_text("".join(f"{row:07d} Model {row % 6}\n" for row in range(IMAGES)))
    return root


def sun397(root: Path) -> Path:
    for row in range(IMAGES):
        name = COLOURS[row % 6]
        save(root / "SUN397" / name[0] / f"{name}_hall" / "indoor" / f"sun_{row:04d}.jpg", row)
    (root / "SUN397/ClassName.txt").write_text("".join(f"/{name[0]}/{name}_hall/indoor\n" for name in COLOURS))
    return root


EUROSAT = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)


def eurosat(root: Path) -> Path:
    for row in range(IMAGES):
        save(root / "eurosat/2750" / EUROSAT[row % 10] / f"{row}.jpg", row)
    return root


def country211(root: Path) -> Path:
    for row in range(211):
        save(root / "country211/test" / f"C{row:03d}" / "0.jpg", row)
    return root


def renderedsst2(root: Path) -> Path:
    for row in range(IMAGES):
        save(root / "rendered-sst2/test" / ("negative", "positive")[row % 2] / f"{row}.png", row)
    return root


def caltech101(root: Path) -> Path:
    save(root / "caltech101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", 0)
    for row in range(IMAGES):
        save(
            root / "caltech101/101_ObjectCategories" / f"{COLOURS[row % 6]}_toy" / f"image_{row // 6 + 1:04d}.jpg", row
        )
    return root


def imagenet1k(root: Path) -> Path:
    """The validation split as torchvision has sorted it, and what it keeps of the devkit."""
    names = {f"n{row:08d}": (f"thing {row}", f"other name {row}") for row in range(1000)}
    for row, name in enumerate(names):
        save(root / "val" / name / f"ILSVRC2012_val_{row:08d}.JPEG", row)
    torch.save((names, list(names)), root / "meta.bin")
    return root


def coco(root: Path) -> Path:
    images, annotations = [], []
    for row in range(IMAGES):
        name = f"COCO_val2014_{row:012d}.jpg"
        save(root / "val2014" / name, row)
        images.append({"id": row, "file_name": name})
        for text in two_captions(row):
            annotations.append({"id": len(annotations), "image_id": row, "caption": text})
    path = root / "coco_test_karpathy.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def karpathy(root: Path) -> Path:
    images = []
    for row in range(IMAGES):
        save(root / "flickr30k-images" / f"{row}.jpg", row)
        sentences = [{"raw": text} for text in two_captions(row)]
        images.append({"filename": f"{row}.jpg", "split": ("test", "train")[row % 4 == 3], "sentences": sentences})
    (root / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    return root / "dataset_flickr30k.json"


def flickr(root: Path) -> Path:
    lines = ["image,caption"]
    for row in range(IMAGES):
        save(root / f"{row}.jpg", row)
        lines += [f"{row}.jpg,{text}" for text in two_captions(row)]
    (root / "flickr30k_test_karpathy.txt").write_text("\n".join(lines) + "\n")
    return root / "flickr30k_test_karpathy.txt"


def vqav2(root: Path) -> Path:
    questions, annotations = [], []
    for row in range(IMAGES):
        save(root / "val2014" / f"COCO_val2014_{row // 2:012d}.jpg", row // 2)
        questions.append({"question_id": row, "image_id": row // 2, "question": f"what colour is it? ({row})"})
        said = [{"answer": COLOURS[row // 2 % 6]}] * 7 + [{"answer": f"rare {row}"}] * 3
        annotations.append({"question_id": row, "answers": said})
    path = root / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return path


def snli_ve(root: Path) -> Path:
    lines = []
    for row in range(IMAGES):
        save(root / "flickr30k_images" / f"{row // 2}.jpg", row // 2)
        label = ("entailment", "neutral", "contradiction", "-")[row % 4]
        lines.append(json.dumps({"Flickr30K_ID": f"{row // 2}", "sentence2": f"it is {row}", "gold_label": label}))
    (root / "snli_ve_test.jsonl").write_text("\n".join(lines) + "\n")
    return root / "snli_ve_test.jsonl"


def sugar_crepe(root: Path) -> Path:
    entries = {}
    for row in range(IMAGES):
        save(root / "val2017" / f"{row // 2:012d}.jpg", row // 2)
        right, wrong = COLOURS[row // 2 % 6], COLOURS[(row // 2 + 1) % 6]
        entries[str(3 * row)] = {
            "filename": f"{row // 2:012d}.jpg",
            "caption": f"a {right} thing {row}",
            "negative_caption": f"a {wrong} one",
        }
    (root / "add_obj.json").write_text(json.dumps(entries))
    return root / "add_obj.json"


def winoground(root: Path) -> Path:
    lines = []
    for row in range(IMAGES // 2):
        for side in (0, 1):
            save(root / "images" / f"ex_{row}_img_{side}.png", 2 * row + side)
        names = {f"image_{side}": f"ex_{row}_img_{side}" for side in (0, 1)}
        texts = {f"caption_{side}": f"{COLOURS[row % 6]} {side} over {1 - side}" for side in (0, 1)}
        lines.append(json.dumps({"id": row, **names, **texts}))
    (root / "examples.jsonl").write_text("\n".join(lines))
    return root / "examples.jsonl"


def camelyon17(root: Path) -> Path:
    lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for row in range(IMAGES):
        slide = f"patient_{row:03d}_node_{row % 3}"
        save(root / "patches" / slide / f"patch_{slide}_x_{row}_y_7.png", row)
        lines.append(f"{row},{row:03d},{row % 3},{row},7,{row % 2},{row},{2 if row < 20 else row % 2},{row % 2}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


def iwildcam(root: Path) -> Path:
    lines = [",split,location_remapped,image_id,y,filename"]
    for row in range(IMAGES):
        save(root / "train" / f"{row}.jpg", row)
        lines.append(f"{row},{'test' if row < 20 else 'id_test'},{row % 4},i{row},{row % 6},{row}.jpg")
    (root / "metadata.csv").write_text("\n".join(lines))
    (root / "categories.csv").write_text(
        "y,name\n" + "".join(f"{n},{colour} deer\n" for n, colour in enumerate(COLOURS))
    )
    return root


def fmow(root: Path) -> Path:
    lines = ["split,category,country_code,timestamp"]
    for row in range(IMAGES):
        save(root / "images" / f"rgb_img_{row}.png", row)
        country = ("FRA", "BRA", "XXX")[row % 3]
        year = 2017 if row < 20 else 2010
        lines.append(f"test,{COLOURS[row % 6]}_site,{country},{year}-01-0{1 + row % 9}T10:00:00Z")
    (root / "rgb_metadata.csv").write_text("\n".join(lines))
    (root / "country_code_mapping.csv").write_text("alpha-3,region\nFRA,Europe\nBRA,Americas\n")
    return root


ORIGINALS: dict[str, Callable[[Path], Path]] = {
    each.__name__: each
    for each in (
        image_folder,
        cifar10,
        cifar100,
        mnist,
        fashion_mnist,
        kmnist,
        stl10,
        svhn,
        usps,
        pcam,
        fer2013,
        gtsrb,
        food101,
        dtd,
        pets,
        flowers,
        cars,
        fgvc_aircraft,
        sun397,
        eurosat,
        country211,
        renderedsst2,
        caltech101,
        imagenet1k,
        coco,
        karpathy,
        flickr,
        vqav2,
        snli_ve,
        sugar_crepe,
        winoground,
        camelyon17,
        iwildcam,
        fmow,
        parquet,
        arrow,
        parquet_captions,
        parquet_winoground,
        parquet_winogavil,
        numbered_folders,
        numbered_texts,
        numbered_labels,
        yes_or_no,
    )
}
"""Layout -> writes a small original below a folder and says what to import: the folder, or its annotation file."""
