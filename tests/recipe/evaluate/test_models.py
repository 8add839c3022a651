"""`load_model`: every kind of source gives open_clip's own embeddings, and what does not fit is refused in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.features import encode_texts
from diht_k8s.models.files import model_digest, model_identity
from diht_k8s.models.loading import load_model
from tests.recipe.evaluate.small_run import CONFIG, encode_images, export_model

RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
CONVNEXT = {
    **RESNET,
    "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
}
VIT = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "width": 64, "heads": 1}}


@pytest.fixture(autouse=True)
def forget_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """`open_clip.add_model_config` adds for the whole process: other tests must not see this file's architectures."""
    registry = open_clip.factory
    monkeypatch.setattr(registry, "_MODEL_CONFIG_PATHS", list(registry._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(registry, "_MODEL_CONFIGS", dict(registry._MODEL_CONFIGS))


def model(config: dict[str, Any]) -> open_clip.CLIP:
    torch.manual_seed(1)
    return open_clip.CLIP(**copy.deepcopy(config)).eval()


def embeddings_agree(loaded: Any, reference: open_clip.CLIP) -> bool:
    """Against the model's own forward pass, with a transform written here."""
    rng = np.random.default_rng(0)
    size = (
        reference.visual.image_size if isinstance(reference.visual.image_size, int) else reference.visual.image_size[0]
    )
    image = Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8))
    mean, std = np.array(open_clip.OPENAI_DATASET_MEAN), np.array(open_clip.OPENAI_DATASET_STD)
    pixels = torch.from_numpy((np.asarray(image) / 255 - mean) / std).permute(2, 0, 1)[None].float()
    tokens = open_clip.SimpleTokenizer(context_length=reference.context_length)(["a red disc", "a box"])
    with torch.inference_mode():
        expected_image = reference.encode_image(pixels, normalize=True).numpy()
        expected_text = reference.encode_text(tokens, normalize=True).numpy()
    found_image, found_text = encode_images(loaded, [image]), encode_texts(loaded, ["a red disc", "a box"])
    return bool(np.abs(found_image - expected_image).max() <= 1e-5 and np.abs(found_text - expected_text).max() <= 1e-5)


@pytest.mark.parametrize(("prefix", "config"), [("", RESNET), ("local-dir:", CONVNEXT), ("file://", RESNET)])
def test_load_when_folder_gives_the_models_own_embeddings(tmp_path: Path, prefix: str, config: dict[str, Any]) -> None:
    export_model(tmp_path, config)
    torch.manual_seed(0)
    reference = open_clip.CLIP(**copy.deepcopy(config)).eval()
    loaded = load_model(f"{prefix}{tmp_path}")
    assert embeddings_agree(loaded, reference)
    assert loaded.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_load_when_plain_checkpoint_tells_the_architecture_from_the_shapes(
    tmp_path: Path, config: dict[str, Any], suffix: str
) -> None:
    reference, path = model(config), tmp_path / f"epoch_1{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}, path)
    else:
        save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, path)
    assert embeddings_agree(load_model(str(path)), reference)


def test_load_when_configuration_lies_beside_the_checkpoint_takes_it(tmp_path: Path) -> None:
    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "heads": 4}}
    reference = model(config)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    assert embeddings_agree(load_model(str(tmp_path / "weights.pt")), reference)


def test_load_when_name_has_no_tag_is_untrained_but_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "Tiny-Test.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path)
    first, second = (load_model("Tiny-Test") for _ in range(2))
    assert not first.trained
    assert torch.equal(first.model.text_projection, second.model.text_projection)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_load_when_folder_has_weights_of_any_kind_uses_them(tmp_path: Path, suffix: str) -> None:
    reference = model(CONFIG)
    torch.save(reference.state_dict(), tmp_path / f"epoch_3{suffix}")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    assert embeddings_agree(load_model(str(tmp_path)), reference)


def test_load_when_folder_has_several_weights_takes_the_published_name_or_asks_which(tmp_path: Path) -> None:
    reference = model(CONFIG)
    for name in ("epoch_1.pt", "epoch_2.pt"):
        torch.save({"x": torch.zeros(1)}, tmp_path / name)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    with pytest.raises(UserError, match=r"several weights files \(epoch_1\.pt, epoch_2\.pt\)"):
        load_model(str(tmp_path))
    torch.save(reference.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    assert embeddings_agree(load_model(str(tmp_path)), reference)


PREPROCESSING = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.mark.parametrize("source", ["", "/weights.pt"])
def test_load_when_configuration_says_how_to_preprocess_does_so(tmp_path: Path, source: str) -> None:
    torch.save(model(CONFIG).state_dict(), tmp_path / "weights.pt")
    document = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESSING}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    squashed = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)) / 255
    expected = (squashed - PREPROCESSING["mean"]) / PREPROCESSING["std"]
    found = load_model(f"{tmp_path}{source}").transform(image).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1e-6


def published(monkeypatch: pytest.MonkeyPatch, folder: Path, **tag: Any) -> open_clip.CLIP:
    """A tiny architecture with one published tag whose weights need no network."""
    config = {**CONFIG, "quick_gelu": bool(tag.get("quick_gelu"))}
    reference = model(config)
    torch.save(reference.state_dict(), folder / "fetched.pt")
    (folder / "Tiny-Published.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    entry = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash", **tag}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-Published", {"theirs": entry})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *args, **kwargs: str(folder / "fetched.pt"))
    return reference


@pytest.mark.parametrize("quick", [True, False])
def test_load_when_published_weights_need_the_approximate_gelu_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    reference = published(monkeypatch, tmp_path, quick_gelu=quick)
    loaded = load_model("Tiny-Published/theirs")
    assert loaded.trained
    assert loaded.config.get("quick_gelu", False) is quick
    with torch.inference_mode():
        tokens = open_clip.SimpleTokenizer(context_length=16)(["a red disc"])
        expected = reference.encode_text(tokens, normalize=True).numpy()
    assert np.abs(encode_texts(loaded, ["a red disc"]) - expected).max() <= 1e-6


def test_load_when_architecture_is_named_preprocesses_as_its_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(monkeypatch, tmp_path)
    loaded = load_model(f"{tmp_path}/fetched.pt", architecture="Tiny-Published")
    white = loaded.transform(Image.new("RGB", (32, 32), "white"))
    assert white.unique().tolist() == [1.0]  # (1 - 0.5) / 0.5


def test_load_when_file_has_no_configuration_says_what_is_assumed(tmp_path: Path) -> None:
    torch.save(model(VIT).state_dict(), tmp_path / "weights.pt")
    assert load_model(f"{tmp_path}/weights.pt").assumed == "exact GELU and attention heads of width 64"
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT}))
    assert load_model(f"{tmp_path}/weights.pt").assumed == ""


def identity_after(change: Path, source: str) -> bool:
    """Whether a changed file changes what identifies the model."""
    before = model_identity(source, Storage())
    change.write_bytes(change.read_bytes() + b" ")
    return model_identity(source, Storage()) != before


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".json"])
@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_identity_when_any_file_of_a_folder_changes_changes(tmp_path: Path, prefix: str, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"1")
    assert identity_after(tmp_path / f"a{suffix}", f"{prefix}{tmp_path}")


BESIDE = ("weights.ckpt", "open_clip_config.json", "tokenizer.json", "vocab.txt", "spiece.model", "other.ckpt")


@pytest.mark.parametrize("changed", BESIDE)
def test_identity_when_a_file_or_what_is_loaded_with_it_changes_changes(tmp_path: Path, changed: str) -> None:
    for name in BESIDE:
        (tmp_path / name).write_bytes(b"1")
    assert identity_after(tmp_path / changed, f"{tmp_path}/weights.ckpt") is (changed != "other.ckpt")


def test_identity_when_a_tokenizer_comes_goes_or_is_renamed_changes(tmp_path: Path) -> None:
    source, found = tmp_path / "weights.ckpt", list[str]()
    for names in ([], ["tokenizer.json"], ["vocab.json"], ["tokenizer.json", "vocab.json"]):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        for path in (source, *(tmp_path / name for name in names)):
            path.write_bytes(b"1")
        found.append(model_digest(str(source), Storage()))
    assert len(set(found)) == 4


def test_load_when_file_is_a_program_refuses(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "program.pt"))
    with pytest.raises(UserError, match=r"program\.pt is refused"):
        load_model(f"{tmp_path}/program.pt")


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
        ("no-such-folder/model.pt", "is not a model"),
    ],
)
def test_load_when_there_is_no_such_model_says_what_is_near(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(source)


def test_load_when_a_checkpoint_is_empty_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(DataError, match=r"model\.pt is damaged \(it ends too early\)"):
        load_model(str(tmp_path / "model.pt"))


def test_load_when_shapes_are_of_another_kind_of_model_says_what_is_missing(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"ln_final\.weight is missing"):
        load_model(str(tmp_path / "other.safetensors"))


RELEASED = {
    "diht_vitb32_224px": (512, 768, 32, 224, 512),
    "diht_vitb16_224px": (512, 768, 16, 224, 512),
    "diht_vitl14_224px": (768, 1024, 14, 224, 768),
    "diht_vitl14_336px": (768, 1024, 14, 336, 768),
}
"""Embedding, image width, patch, pixels and text width of the four released models."""
DEPTHS = (2, 1)
"""Layers of the towers: fewer than the released models have."""


def config_of(name: str) -> dict[str, Any]:
    """A released model in open_clip's words; its text tower always has 77 tokens and 49,408 words."""
    embed, width, patch, pixels, text_width = RELEASED[name]
    vision = {"width": width, "layers": DEPTHS[0], "patch_size": patch, "image_size": pixels, "head_width": 64}
    heads = {"width": text_width, "heads": text_width // 64, "layers": DEPTHS[1]}
    text = {"context_length": 77, "vocab_size": 49408, **heads}
    return {"embed_dim": embed, "quick_gelu": False, "vision_cfg": vision, "text_cfg": text}


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a released file, written from its description and not from a model."""
    embed, width, patch, pixels, text_width = RELEASED[name]
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, text_width),
        "text_projection": (text_width, embed),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((pixels // patch) ** 2 + 1, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
        "token_embedding.weight": (49408, text_width),
    }
    for prefix, size in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text_width)):
        shapes |= {f"{prefix}.weight": (size,), f"{prefix}.bias": (size,)}
    for tower, size, depth in zip(("visual.", ""), (width, text_width), DEPTHS, strict=True):
        for number in range(depth):
            block = f"{tower}transformer.resblocks.{number}"
            for layer, (outputs, inputs) in {
                "mlp.c_fc": (4 * size, size),
                "mlp.c_proj": (size, 4 * size),
                "attn.out_proj": (size, size),
            }.items():
                shapes |= {f"{block}.{layer}.weight": (outputs, inputs), f"{block}.{layer}.bias": (outputs,)}
            for layer in ("ln_1", "ln_2"):
                shapes |= {f"{block}.{layer}.weight": (size,), f"{block}.{layer}.bias": (size,)}
            shapes |= {f"{block}.attn.in_proj_weight": (3 * size, size), f"{block}.attn.in_proj_bias": (3 * size,)}
    return shapes


def released(folder: Path, name: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file in the released layout with random weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {key: 0.05 * torch.randn(shape, generator=generator) for key, shape in shapes_of(name).items()}
    path = folder / "new.ckpt"
    torch.save(weights, path)
    return path.rename(folder / f"{name}_{hashlib.sha256(path.read_bytes()).hexdigest()}.ckpt"), weights


@pytest.mark.parametrize("name", RELEASED)
def test_load_when_checkpoint_has_the_released_layout_is_the_named_architecture(tmp_path: Path, name: str) -> None:
    path, weights = released(tmp_path, name)
    reference, loaded = model(config_of(name)), load_model(str(path))
    reference.load_state_dict(weights)
    assert loaded.config == config_of(name)
    assert embeddings_agree(loaded, reference)
    assert loaded.logit_scale == pytest.approx(weights["logit_scale"].exp().item(), rel=1e-6)


def test_load_when_content_is_not_what_the_name_promises_refuses(tmp_path: Path) -> None:
    path, _ = released(tmp_path, "diht_vitb32_224px")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="not the one in its name"):
        load_model(str(path))
