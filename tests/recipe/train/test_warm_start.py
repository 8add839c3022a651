"""First weights from elsewhere: what fits is taken exactly, what does not is one line that names it."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Teacher
from diht_k8s.api.train import InitFrom, Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import weights_sha256
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_weights import packaged_weights, tower_weights
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.fencing import Fence
from diht_k8s.stages.train.checkpoint.init_from import init_identity, preprocessing_of, weights_file
from diht_k8s.stages.train.checkpoint.warm_start import load_first_weights, start_from
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation, normalisation_of
from diht_k8s.stages.train.model.export import ModelDescription, export
from diht_k8s.stages.train.model.student import Student
from tests.folders import flat
from tests.recipe.train.small_run import LITE, RESNET, VIT

STORAGE = Storage()
TIMM = {**VIT, "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 96}}


def student(seed: int, config: dict[str, Any] = VIT, **heads: int) -> Student:
    torch.manual_seed(seed)
    return Student(copy.deepcopy(config), **heads)


def larger(**vision: Any) -> dict[str, Any]:
    return {**VIT, "vision_cfg": {**VIT["vision_cfg"], **vision}}


def pickled(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def plain(model: Student) -> dict[str, Tensor]:
    """As open_clip saves it: the scale is a scalar."""
    state = {key: value.clone() for key, value in model.clip.state_dict().items()}
    return {**state, "logit_scale": state["logit_scale"].squeeze(0)}


FORMS: dict[str, tuple[str, Callable[[Student], bytes]]] = {
    "safetensors": ("a.safetensors", lambda m: save(plain(m))),
    "open_clip's checkpoint": (
        "a.pt",
        lambda m: pickled({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in plain(m).items()}}),
    ),
    "a plain state": ("a.ckpt", lambda m: pickled(plain(m))),
}


@pytest.mark.parametrize(("name", "content"), FORMS.values(), ids=FORMS)
def test_weights_when_of_a_clip_then_all_are_taken(
    tmp_path: Path, name: str, content: Callable[[Student], bytes]
) -> None:
    source, model = student(1), student(2)
    (tmp_path / name).write_bytes(content(source))
    assert start_from(STORAGE, InitFrom(uri=str(tmp_path / name)), model) is None
    for key, value in source.clip.state_dict().items():
        assert torch.equal(model.clip.state_dict()[key], value), key


def test_weights_when_of_an_export_then_towers_are_taken_and_heads_start_from_scratch(tmp_path: Path) -> None:
    source, model = student(1), student(2, num_objects=3, num_attributes=2)
    layout = flat(tmp_path)
    state = {name: value.detach() for name, value in source.named_parameters()}
    export(STORAGE, layout, ModelDescription(VIT), state)
    head = model.object_head.weight.clone()
    start_from(STORAGE, InitFrom(uri=layout.model), model)
    assert torch.equal(model.clip.visual.proj, source.clip.visual.proj)
    assert torch.equal(model.object_head.weight, head)
    assert "safetensors" not in init_identity(STORAGE, InitFrom(uri=layout.model))["initFrom"]


def committed(folder: Path, model: Student) -> str:
    order = checkpoint.CursorOrder(lanes=2, block=64, window=64, epoch=80)
    cursor = checkpoint.Cursor(step=5, position=80, order=order, config_sha256="theirs", seconds=1.0)
    state = {name: value.detach() for name, value in model.named_parameters()} | {"adam_step": torch.tensor(5.0)}
    state |= {f"buffer|{name}": value for name, value in model.named_buffers()}
    part = checkpoint.write_part(STORAGE, str(folder), cursor, state, rank=0, attempt=1)
    checkpoint.commit(STORAGE, str(folder), cursor, [part], keep=3, fence=Fence(STORAGE, flat(f"{folder} run")))
    return f"{folder}/step-000000005"


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["ViT", "ResNet"])
def test_weights_when_of_a_checkpoint_then_heads_too_and_only_kind_checkpoint_goes_on(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    source, model = (student(seed, config, num_objects=3) for seed in (1, 2))
    uri = committed(tmp_path, source)
    assert start_from(STORAGE, InitFrom(uri=uri), model) is None
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    saved = start_from(STORAGE, InitFrom(uri=uri, kind="Checkpoint"), student(3, config))
    assert saved is not None
    assert saved.cursor.step == 5


def test_weights_when_images_are_larger_then_position_embeddings_are_resized_and_the_rest_is_taken() -> None:
    source, model = student(1), student(2, larger(image_size=64))
    load_first_weights(model, plain(source), "a.pt")
    old, new = source.clip.visual.positional_embedding, model.clip.visual.positional_embedding
    assert (old.shape[0], new.shape[0]) == (1 + 2 * 2, 1 + 4 * 4)
    assert torch.equal(new[0], old[0])
    assert new[1:].mean(0).allclose(old[1:].mean(0), atol=1e-2)
    assert torch.equal(model.clip.visual.conv1.weight, source.clip.visual.conv1.weight)
    again = student(3)
    load_first_weights(again, plain(model), "b.pt")
    assert again.clip.visual.positional_embedding.shape == old.shape


@pytest.mark.parametrize("name", ["bare", "with its prefix"])
def test_weights_when_of_an_image_tower_alone_then_the_text_tower_starts_from_scratch(name: str) -> None:
    source, model, untouched = student(1), student(2), student(2)
    prefix = "visual." if name != "bare" else ""
    state = {f"{prefix}{key}": value for key, value in source.clip.visual.state_dict().items()}
    load_first_weights(model, state, "tower.pt")
    assert torch.equal(model.clip.visual.proj, source.clip.visual.proj)
    assert torch.equal(model.clip.token_embedding.weight, untouched.clip.token_embedding.weight)
    assert torch.equal(model.clip.logit_scale, untouched.clip.logit_scale)


@pytest.mark.parametrize("size", [96, 160])
def test_weights_when_of_a_timm_tower_then_taken_without_its_classifier(size: int) -> None:
    torch.manual_seed(1)
    tower = timm.create_model("test_vit", img_size=size, num_classes=7)
    model = student(2, TIMM)
    projection = model.clip.visual.head.proj.weight.clone()
    load_first_weights(model, tower.state_dict(), "tower.safetensors")
    mine, theirs = model.clip.visual.trunk.state_dict(), tower.state_dict()
    assert torch.equal(mine["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    assert torch.equal(mine["pos_embed"], theirs["pos_embed"]) is (
        size == 160
    )  # test_vit keeps its own size in open_clip
    assert torch.equal(model.clip.visual.head.proj.weight, projection)


def test_weights_of_a_network_that_a_package_brings_are_those_of_the_teacher() -> None:
    name = "timm/tf_efficientnet_lite0"
    teacher = load_teacher(Teacher(model=name), STORAGE, packaged_weights(name), torch.device("cpu"))
    model, start = student(1, LITE).eval(), InitFrom(uri=name)
    projection = model.clip.visual.head.proj.weight.clone()
    assert start_from(STORAGE, start, model) is None
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.clip.visual.trunk(images), teacher.network(images), rtol=0, atol=1e-4)
    assert torch.equal(model.clip.visual.head.proj.weight, projection)
    assert init_identity(STORAGE, start) == {"initFrom": weights_sha256(STORAGE, packaged_weights(name))}
    assert weights_file(STORAGE, start) == packaged_weights(name)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            {"uri": "timm/resnet50"},
            "no package brings the weights of timm/resnet50: give a .safetensors or .pth file, or one of timm",
        ),
        ({"uri": "timm/tf_efficientnet_lite0", "kind": "Checkpoint"}, "is a network and no checkpoint: remove kind"),
    ],
)
def test_network_when_no_package_brings_it_or_it_should_be_resumed_then_said(start: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        start_from(STORAGE, InitFrom(**start), student(1))


@pytest.mark.parametrize(
    ("beside", "asked", "expected"),
    [
        ({"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}, None, Normalisation((0.5,) * 3, (0.25,) * 3)),
        ({"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}, "CLIP", CLIPS),
        ({"model_cfg": {}}, None, CLIPS),
        (None, None, CLIPS),
    ],
)
def test_normalisation_is_what_stands_beside_the_first_weights(
    beside: dict[str, Any] | None, asked: str | None, expected: Normalisation, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    if beside is not None:
        (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    for uri in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        settings = {"modelConfig": VIT, "samples": 1, "initFrom": {"uri": str(uri)}, "normalisation": asked}
        train = Train.model_validate(settings)
        assert train.init_from is not None
        assert normalisation_of(train, VIT, preprocessing_of(STORAGE, train.init_from)) == expected


def test_damaged_description_beside_the_first_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match=r"open_clip_config.json is damaged"):
        preprocessing_of(STORAGE, InitFrom(uri=str(tmp_path)))


@pytest.mark.parametrize(
    ("train", "config", "expected"),
    [
        ({"initFrom": {"uri": "timm/tf_efficientnet_lite0"}}, LITE, Normalisation((0.5,) * 3, (0.5,) * 3)),
        ({"initFrom": {"uri": "timm/a.pth"}}, LITE, CLIPS),
        ({"initFrom": {"uri": "timm/tf_efficientnet_lite0"}, "normalisation": "CLIP"}, LITE, CLIPS),
        ({"normalisation": "Network"}, LITE, Normalisation((0.5,) * 3, (0.5,) * 3)),
        ({}, VIT, CLIPS),
        ({"normalisation": "Network"}, VIT, None),
    ],
)
def test_normalisation_is_the_networks_where_it_is_named_or_asked_for(
    train: dict[str, Any], config: dict[str, Any], expected: Normalisation | None
) -> None:
    asked = Train.model_validate({"modelConfig": config, "samples": 1, **train})
    if expected is None:
        with pytest.raises(UserError, match="the image tower is none of timm's: name one in modelConfig"):
            normalisation_of(asked, config)
    else:
        assert normalisation_of(asked, config) == expected
        document = ModelDescription(config, normalisation_of(asked, config)).document()
        assert document["preprocess_cfg"]["mean"] == expected.mean


def test_weights_when_a_file_of_another_ports_network_holds_more_than_a_classifier_then_not_taken() -> None:
    own = {"stem.weight": torch.zeros(4, 3), "bn.num_batches_tracked": torch.tensor(0)}
    port = {"_a.weight": torch.ones(4, 3), "_b.num_batches_tracked": torch.tensor(7)}
    classifier = {"_fc.weight": torch.ones(10, 4), "_fc.bias": torch.ones(10)}
    assert tower_weights(own, {**port, **classifier}) == {
        "stem.weight": port["_a.weight"],
        "bn.num_batches_tracked": port["_b.num_batches_tracked"],
    }
    assert tower_weights(own, {**port, **classifier, "_more.weight": torch.ones(1)}) == {}
    assert tower_weights(own, {"stem.weight": port["_a.weight"]}) == {"stem.weight": port["_a.weight"]}


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "half a tower": (lambda s: without(s, "visual.proj"), "is of another model: it lacks visual.proj"),
    "half a text tower": (lambda s: without(s, "ln_final.bias"), "is of another model: it lacks ln_final.bias"),
    "more than the model": (
        lambda s: {**s, "visual.more": torch.zeros(1)},
        "is of another model: this one has no visual.more",
    ),
    "other width": (
        lambda s: {**s, "visual.proj": torch.zeros(3, 4)},
        r"is of another model: visual.proj is \[3, 4\] there and \[32, 16\] here",
    ),
    "nothing": (lambda s: {}, "holds no weights of a CLIP model"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_weights_when_of_another_model_then_the_first_that_differs_is_named(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(UserError, match=f"train.initFrom a.pt {message}"):
        load_first_weights(student(2), change(plain(student(1))), "a.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pt", b"no weights"), ("a.safetensors", b"no weights"), ("a.pt", pickled({"x": print})[:-40])],
)
def test_file_when_damaged_then_said(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read safely as a weights file"):
        start_from(STORAGE, InitFrom(uri=str(tmp_path / name)), student(1))


def test_folder_when_without_weights_then_said_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no weights: give a \.safetensors or \.pt file"):
        start_from(STORAGE, InitFrom(uri=str(tmp_path)), student(1))
    with pytest.raises(UserError, match="is not a committed checkpoint"):
        start_from(STORAGE, InitFrom(uri=str(tmp_path), kind="Checkpoint"), student(1))
