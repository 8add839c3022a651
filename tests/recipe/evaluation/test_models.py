"""`load_model`: every kind of source gives open_clip's own embeddings, and what does not fit is refused in one line."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.evaluation import load_model
from diht_k8s.recipe.evaluation.features import encode_images, encode_texts
from tests.recipe.evaluation.small_run import CONFIG, export_model

RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
VIT = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "width": 64, "heads": 1}}


def model(config: dict[str, Any]) -> open_clip.CLIP:
    torch.manual_seed(1)
    return open_clip.CLIP(**copy.deepcopy(config)).eval()


def embeddings_agree(loaded: Any, judge: open_clip.CLIP) -> bool:
    """Against the model's own forward pass, with a transform written here."""
    rng = np.random.default_rng(0)
    size = judge.visual.image_size if isinstance(judge.visual.image_size, int) else judge.visual.image_size[0]
    image = Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8))
    mean, std = np.array(open_clip.OPENAI_DATASET_MEAN), np.array(open_clip.OPENAI_DATASET_STD)
    pixels = torch.from_numpy((np.asarray(image) / 255 - mean) / std).permute(2, 0, 1)[None].float()
    tokens = open_clip.SimpleTokenizer(context_length=judge.context_length)(["a red disc", "a box"])
    with torch.inference_mode():
        expected_image = judge.encode_image(pixels, normalize=True).numpy()
        expected_text = judge.encode_text(tokens, normalize=True).numpy()
    found_image, found_text = encode_images(loaded, [image]), encode_texts(loaded, ["a red disc", "a box"])
    return bool(np.abs(found_image - expected_image).max() <= 1e-5 and np.abs(found_text - expected_text).max() <= 1e-5)


@pytest.mark.parametrize("prefix", ["", "local-dir:", "file://"])
def test_load_when_folder_gives_the_models_own_embeddings(tmp_path: Path, prefix: str) -> None:
    export_model(tmp_path, RESNET)
    torch.manual_seed(0)
    judge = open_clip.CLIP(**copy.deepcopy(RESNET)).eval()
    loaded = load_model(f"{prefix}{tmp_path}")
    assert embeddings_agree(loaded, judge)
    assert loaded.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_load_when_plain_checkpoint_tells_the_architecture_from_the_shapes(
    tmp_path: Path, config: dict[str, Any], suffix: str
) -> None:
    judge, path = model(config), tmp_path / f"epoch_1{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in judge.state_dict().items()}}, path)
    else:
        save_file({k: v.contiguous() for k, v in judge.state_dict().items()}, path)
    assert embeddings_agree(load_model(str(path)), judge)


def test_load_when_configuration_lies_beside_the_checkpoint_takes_it(tmp_path: Path) -> None:
    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "heads": 4}}
    judge = model(config)
    torch.save(judge.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    assert embeddings_agree(load_model(str(tmp_path / "weights.pt")), judge)


def test_load_when_name_has_no_tag_is_untrained_but_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "Tiny-Test.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path)
    first, second = (load_model("Tiny-Test") for _ in range(2))
    assert not first.trained
    assert torch.equal(first.model.text_projection, second.model.text_projection)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_load_when_pickle_holds_code_refuses_and_runs_nothing(tmp_path: Path) -> None:
    path, ran = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"state_dict": {"x": Trap(ran)}}, path)
    with pytest.raises(UserError, match=r"evil\.pt is refused"):
        load_model(str(path))
    assert not ran.exists()


def damaged(folder: Path, kind: str) -> None:
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
        return
    if kind == "missing":
        del weights["visual.proj"]
    if kind == "shape":
        weights["text_projection"] = weights["text_projection"][:, :8].contiguous()
    if kind == "extra":
        weights["object_head.weight"] = torch.zeros(1)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "is damaged"),
        ("missing", "visual.proj is missing"),
        ("shape", "text_projection has another shape"),
        ("extra", "object_head.weight is not known"),
    ],
)
def test_load_when_weights_do_not_fit_names_the_first_key(tmp_path: Path, kind: str, message: str) -> None:
    export_model(tmp_path)
    damaged(tmp_path, kind)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ViT-B-23", "did you mean ViT-B-32"),
        ("ViT-B-32/no-such-tag", "has no weights 'no-such-tag'"),
        ("no-such-folder/model.pt", "is no model"),
    ],
)
def test_load_when_there_is_no_such_model_says_what_is_near(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(source)


def test_load_when_folder_has_no_weights_says_so(tmp_path: Path) -> None:
    export_model(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        load_model(str(tmp_path))


def test_load_when_shapes_are_of_another_kind_of_model_says_what_is_missing(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"ln_final\.weight is missing"):
        load_model(str(tmp_path / "other.safetensors"))


def test_texts_when_equal_have_equal_features_to_the_last_bit(tmp_path: Path) -> None:
    export_model(tmp_path)
    texts = [f"a box number {i % 300}" for i in range(600)]
    features = encode_texts(load_model(str(tmp_path)), texts)
    assert np.array_equal(features[:300], features[300:])
