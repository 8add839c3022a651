"""Real teachers: the packaged EfficientNet-Lite0 sees what is in a picture, an open_clip tower loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from diht_k8s.api.labelling import Teacher
from diht_k8s.recipe.concepts.teacher import load_teacher
from diht_k8s.recipe.concepts.teacher_files import weights_sha256, weights_uri
from diht_k8s.recipe.shards.pictures import decode
from diht_k8s.recipe.shards.samples import read_samples
from diht_k8s.recipe.shards.storage import Storage

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
        from_features = whole.get_classifier()(teacher.features(images))
    torch.testing.assert_close(from_features, logits, atol=1e-4, rtol=1e-4)


def test_packaged_teacher_when_neighbours_are_compared_then_real_features_beat_an_untrained_network() -> None:
    """A k-nearest-neighbour check with k = 1: does the nearest other picture come from the same class?"""
    pairs = [
        sample for sample in read_samples(Storage(), str(DATA / "heldout" / "00000.tar.gz")) if "cls" in sample.meta
    ]
    pairs = pairs[:160]
    classes = torch.tensor([sample.meta["cls"] for sample in pairs])
    config = Teacher(image_size=96)
    teacher = load_teacher(config, Storage(), weights_uri(config), CPU)
    images = torch.stack([teacher.preprocess(decode(sample.image)) for sample in pairs])
    torch.manual_seed(0)
    untrained = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()

    def nearest_is_same(features: torch.Tensor) -> float:
        features = torch.nn.functional.normalize(features - features.mean(dim=0))
        similar = (features @ features.T).fill_diagonal_(-1)
        return float((classes[similar.argmax(dim=1)] == classes).float().mean())

    with torch.inference_mode():
        chance = nearest_is_same(untrained(images))
    assert nearest_is_same(teacher.features(images)) > chance + 0.1


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
