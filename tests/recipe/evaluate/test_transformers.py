"""`diht convert`: `transformers` reads the folder, and finds the features that `load_model` does."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diht_k8s.cli.main import main
from diht_k8s.models.features import encode_texts
from diht_k8s.models.loading import load_model
from tests.recipe.evaluate.small_run import CONFIG, encode_images, export_model

HERE = Path(__file__).parent
TEXTS = [
    "two small dogs are chasing a red ball in the park",
    "a CAT's ears!!  3 of 4",
    "naïve café, 北京 😀",
    "word " * 40,
]


@pytest.fixture(scope="session")
def site() -> Path:
    """A folder with `transformers` and its tokenizers, kept in the user's cache: in the environment open_clip would
    import it.
    """
    wanted = HERE / "transformers-requirements.txt"
    name = wanted.read_text().split()[0].replace("==", "-")
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diht-k8s" / name
    if not (folder / "transformers").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(folder),
            "-r",
            str(wanted),
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"transformers cannot be fetched: {made.stderr[-200:]}")
    return folder


def changed(**parts: dict[str, Any] | bool) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    for name, part in parts.items():
        config[name] = {**config[name], **part} if isinstance(part, dict) else part
    return config


CONVERTED = {
    "gelu": changed(),
    "quick gelu": changed(quick_gelu=True),
    "heads": changed(vision_cfg={"layers": 2, "head_width": 32, "mlp_ratio": 2.0, "patch_dropout": 0.5}),
    "text": changed(text_cfg={"layers": 3, "heads": 1, "context_length": 20}),
    "custom text": changed(custom_text=True),
}
IMAGES_NHWC = np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def converted(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and what they are converted into, with the features that `transformers` finds, all in one program."""
    folder = tmp_path_factory.mktemp("converted")
    np.savez(folder / "given.npz", images=IMAGES_NHWC, texts=TEXTS)
    for name, config in CONVERTED.items():
        export_model(folder / name, config)
        assert main(["convert", f"{folder}/{name}", f"{folder}/{name} there"]) == 0
    program = [sys.executable, str(HERE / "transformers_features.py"), str(folder / "given.npz")]
    env = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    folders = [f"{folder}/{name} there" for name in CONVERTED]
    ran = subprocess.run([*program, *folders], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", CONVERTED)
def test_folder_that_is_converted_gives_transformers_the_same_features(name: str, converted: Path) -> None:
    found, ours = np.load(converted / f"{name} there/features.npz"), load_model(f"{converted}/{name}")
    pictures = [Image.fromarray(image) for image in IMAGES_NHWC]
    pixels_BCHW = torch.stack([ours.transform(picture) for picture in pictures]).numpy()
    assert np.abs(found["pixels"] - pixels_BCHW).max() <= 1e-5
    image_BD, text_TD = encode_images(ours, pictures), encode_texts(ours, TEXTS)
    assert np.abs(found["image"] - image_BD).max() <= 1e-5
    assert np.abs(found["text"] - text_TD).max() <= 1e-5
    assert np.abs(found["logits"] - ours.logit_scale * image_BD @ text_TD.T).max() <= 1e-4


def test_weights_that_are_converted_keep_their_values_and_their_number(tmp_path: Path) -> None:
    export_model(tmp_path / "model")
    assert main(["convert", f"{tmp_path}/model", f"{tmp_path}/there"]) == 0
    theirs, ours = (
        load_file(path)
        for path in (tmp_path / "there/model.safetensors", tmp_path / "model/open_clip_model.safetensors")
    )
    assert sum(each.numel() for each in theirs.values()) == sum(v.numel() for k, v in ours.items() if k != "attn_mask")
    assert "zero-shot-image-classification" in (tmp_path / "there/README.md").read_text()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (changed(vision_cfg={"layers": [1, 1, 2, 1], "width": 16, "image_size": 64}), "a ResNet"),
        (changed(vision_cfg={"ls_init_value": 0.1}), "vision_cfg.ls_init_value 0.1"),
        (changed(text_cfg={"no_causal_mask": True}), "text_cfg.no_causal_mask true"),
        (changed(text_cfg={"vocab_size": 49409}), "a vocabulary of 49,409 tokens"),
    ],
)
def test_model_of_another_architecture_is_refused_by_the_field(
    config: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(tmp_path / "model", config)
    assert main(["convert", f"{tmp_path}/model", f"{tmp_path}/there"]) == 64
    error = capsys.readouterr().err
    assert f"has {says}, and CLIPModel of transformers has not" in error
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(("target", "says"), [("there.safetensors", "name a folder"), ("taken", "exists: remove it")])
def test_target_that_is_a_file_or_taken_is_refused(
    target: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(tmp_path / "model")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/config.json").touch()
    assert main(["convert", f"{tmp_path}/model", f"{tmp_path}/{target}"]) == 64
    assert says in capsys.readouterr().err
