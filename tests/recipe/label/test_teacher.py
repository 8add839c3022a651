"""Real teachers: the packaged EfficientNet-Lite0 sees what is in an image, an open_clip tower loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import VisionTransformer

from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Teacher
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import weights_sha256
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_weights import weights_uri

CPU = torch.device("cpu")
DATA = Path(__file__).parents[3] / "examples" / "data"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_packaged_teacher_when_loaded_then_weights_are_the_real_ones_and_features_are_the_classifiers_input() -> None:
    config, storage = Teacher(), Storage()
    uri = weights_uri(config)
    assert weights_sha256(storage, uri).startswith("57934424")
    teacher = load_teacher(config, storage, uri, CPU)
    assert teacher.dimension == 1280
    image = Image.linear_gradient("L").resize((300, 240)).convert("RGB")
    images = torch.stack([teacher.preprocess(image)])
    assert images.shape == (1, 3, 224, 224)
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(dict(zip(whole.state_dict(), torch.load(uri, weights_only=True).values(), strict=True)))
    with torch.inference_mode():
        logits = whole.eval()(images)
        features = teacher.features(images)
        from_features = whole.get_classifier()(features)
    torch.testing.assert_close(from_features, logits, atol=1e-4, rtol=1e-4)
    assert teacher.classifier is not None
    weight_CD, bias_C = teacher.classifier
    torch.testing.assert_close(features @ weight_CD.T + bias_C, logits, atol=1e-4, rtol=1e-4)


def test_open_clip_tower_when_given_a_whole_model_then_its_image_side_is_used(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("RN50-quickgelu", load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "clip.safetensors")
    uri = str(tmp_path / "clip.safetensors")
    teacher = load_teacher(Teacher(model="open_clip/RN50-quickgelu", weights=uri), Storage(), uri, CPU)
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = model.eval().encode_image(images)
    torch.testing.assert_close(teacher.features(images), expected, atol=1e-4, rtol=1e-4)


def small_vit(*, weights: None, image_size: int) -> VisionTransformer:
    return VisionTransformer(image_size, patch_size=16, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64)


@pytest.fixture
def swag_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, VisionTransformer]:
    """The paper's teachers have up to 632 million parameters; the code path is the same for a small one."""
    monkeypatch.setattr(torchvision.models, "vit_b_16", small_vit)
    torch.manual_seed(0)
    network = small_vit(weights=None, image_size=64).eval()
    uri = str(tmp_path / "swag.pth")
    torch.save(network.state_dict(), uri)
    return uri, network


def test_swag_trunk_when_loaded_then_features_are_the_classifiers_input_and_the_licence_is_said(
    swag_weights: tuple[str, VisionTransformer], caplog: pytest.LogCaptureFixture
) -> None:
    uri, network = swag_weights
    teacher = load_teacher(Teacher(model="swag/vit_b16", weights=uri, image_size=64), Storage(), uri, CPU)
    images = torch.stack([teacher.preprocess(Image.linear_gradient("L").resize((90, 80)).convert("RGB"))])
    assert (images.shape, teacher.dimension) == ((1, 3, 64, 64), 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.heads(teacher.features(images)), network(images))
    assert "CC-BY-NC 4.0: not for commercial use" in caplog.text


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ("swag/vit_b17", 64, r"swag/vit_b17 is unknown, did you mean vit_b16\?: use one of"),
        ("swag/vit_b16", 70, "imageSize 70 is not a multiple of the patch size 16: use 64"),
        ("swag/vit_b16", 96, r"encoder.pos_embedding is \(1, 17, 32\), the network has \(1, 37, 32\)"),
    ],
    ids=["unknown", "patch", "other-size"],
)
def test_swag_trunk_when_name_or_size_does_not_suit_then_says_what_to_do(
    swag_weights: tuple[str, VisionTransformer], model: str, size: int, message: str
) -> None:
    uri, _ = swag_weights
    with pytest.raises(UserError, match=message):
        load_teacher(Teacher(model=model, weights=uri, image_size=size), Storage(), uri, CPU)


def test_swag_trunk_when_no_weights_are_given_then_nothing_is_downloaded_and_the_licence_is_said() -> None:
    with pytest.raises(UserError, match=r"CC-BY-NC 4\.0: not for commercial use, and are never downloaded: fetch"):
        weights_uri(Teacher(model="swag/vit_h14"))


@pytest.mark.parametrize(("crop", "share"), [("Network", 0.875), ("Whole", 1.0)])
def test_image_when_the_teacher_sees_it_then_its_middle_or_all_of_the_square(crop: str, share: float) -> None:
    config = Teacher.model_validate({"crop": crop})
    teacher = load_teacher(config, Storage(), weights_uri(config), CPU)
    columns = np.linspace(0, 255, 448).astype(np.uint8)  # brightness says how far left a column is
    image = Image.fromarray(np.repeat(np.tile(columns, (448, 1))[:, :, None], 3, axis=2))
    seen_W = (teacher.preprocess(image)[0, 112] + 1) / 2
    assert float(seen_W[-1] - seen_W[0]) == pytest.approx(share, abs=0.02)
