"""`textStart: Ridge` with real ranks: solved once for all of them, from stored features, before the first step
alone; and the texts' teacher, which has them follow its regression.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from diht_k8s.api.label import Teacher
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.loading import load_model
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_classes import class_captions
from diht_k8s.stages.label.teacher_weights import packaged_weights
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.model.token_ridge import fit_ridge
from tests.folders import flat
from tests.recipe.train.small_run import SHARDS, VIT, Job, Table, document, make_data, train_in_ranks

BATCH, STEPS = 14, 2
LITE = "timm/tf_efficientnet_lite0"
TIMM = {
    **VIT,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": 128,
    },
    "text_cfg": {**VIT["text_cfg"], "width": 32},
}
WORDS = Path(__file__).parents[3] / "examples/data/words.safetensors"
TAUGHT = {"words": str(WORDS), "distillation": {"regression": {"weight": 20}}, "optimizer": {"lr": 2e-4}}
LEFT = {**TAUGHT, "distillation": {"regression": {"weight": 0}}}
SPOILT = {
    "optimizer": {"lr": 0.5},
    "interpolate": [0, 0.5, 1],
}
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ridge")
    torch.manual_seed(7)
    save_file(Student(TIMM).clip.state_dict(), folder / "whole.safetensors")
    make_data(folder / "data")
    return folder


def job(place: Path, name: str, **train: Any) -> Job:
    settings = {
        "modelConfig": TIMM,
        "samples": STEPS * BATCH,
        "batchSize": BATCH,
        "schedule": {"type": "Constant"},
        "lockImageTower": True,
        "initFrom": {"uri": LITE},
        "features": "Stored",
        "textStart": "Ridge",
        "validation": {"shards": [f"{place}/data/made/filter/kept/drawn-0.tar"]} if "interpolate" in train else None,
        **train,
    }
    return Job(document(place / "shared", data=place / "data", name=name, **settings))


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    still = {"samples": BATCH, "optimizer": {"lr": 1e-9}, "ema": 0.9}
    jobs = {
        "whole": job(place, "whole"),
        "random": job(place, "random", textStart="Random"),
        "still": job(place, "still", **still),
        "brought": job(place, "brought", initFrom={"uri": f"{place}/whole.safetensors"}),
        "zero 3": job(place, "zero-3", zeroStage=3),
        "taught": job(place, "taught", **TAUGHT, samples=6 * BATCH),
        "left": job(place, "left", **LEFT, samples=6 * BATCH),
        "spoilt": job(place, "spoilt", **SPOILT, zeroStage=3),
        "taught zero 3": job(place, "taught-zero-3", **TAUGHT, zeroStage=3, microBatchSize=4),
    }
    alone = {"alone": job(place, "alone"), "taught alone": job(place, "taught-alone", **TAUGHT)}
    return train_in_ranks(2, jobs, place / "two") | train_in_ranks(1, alone, place / "one")


def test_export_when_nothing_was_learned_then_captions_embed_as_the_regression_of_all_pairs_predicts(
    trained: Table, place: Path
) -> None:
    assert trained["still"]["error"] is None
    (folder,) = (place / "shared/out/runs/still").glob("*/train/model")
    model: Any = load_model(str(folder)).model
    tokenizer = SimpleTokenizer(context_length=VIT["text_cfg"]["context_length"])
    captions = [
        sample.caption
        for number in range(len(SHARDS))
        for sample in read_samples(Storage(), flat(f"{place}/data/made").kept(f"drawn-{number}"))
    ]
    paths = sorted((place / "shared/out/features").glob("*/drawn-*.safetensors"))
    features_NF = torch.cat([load_file(path)["features"] for path in paths]).numpy()
    teacher = load_teacher(Teacher(model=LITE), Storage(), packaged_weights(LITE), torch.device("cpu"))
    named = class_captions(teacher.classifier)
    assert named is not None
    tokens_NT, named_JT = (tokenizer(texts).numpy() for texts in (captions, named[0]))
    classes = (named_JT, named[1])
    expected = fit_ridge(tokens_NT, features_NF, 49408, TIMM["embed_dim"], bias=True, classes=classes)
    assert expected is not None
    with torch.no_grad():
        texts = torch.nn.functional.normalize(model.encode_text(torch.from_numpy(tokens_NT))).numpy()
        images = torch.nn.functional.normalize(model.visual.head(torch.from_numpy(features_NF).float())).numpy()
    for found, wanted in ((texts, expected.texts(tokens_NT)), (images, expected.images(features_NF))):
        cosines = (found * wanted).sum(axis=1) / np.linalg.norm(wanted, axis=1)
        np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_card_when_its_code_runs_as_it_stands_then_embeds_as_the_model_in_evaluation_mode(
    trained: Table, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained["still"]["error"] is None
    (folder,) = (place / "shared/out/runs/still").glob("*/train/model")
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 36, 3)).astype(np.uint8))
    image.save(place / "image.png")
    found: dict[str, Any] = {}
    exec(code.replace("MODEL_FOLDER", str(folder)).replace("IMAGE_FILE", f"{place}/image.png"), found)
    loaded = load_model(str(folder))
    model: Any = loaded.model.eval()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        images = torch.nn.functional.normalize(model.encode_image(loaded.transform(image)[None]))
        texts = torch.nn.functional.normalize(model.encode_text(loaded.tokenize(found["captions"])))
    assert not found["image"].requires_grad
    torch.testing.assert_close(found["image"], images, rtol=0, atol=1e-4)
    torch.testing.assert_close(found["texts"], texts, rtol=0, atol=1e-4)
    likely = (loaded.logit_scale * images @ texts.T).softmax(dim=-1)[0]
    said = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
    assert [caption for _, _, caption in said] == found["captions"]
    assert [float(share) for share, _, _ in said] == pytest.approx(likely.tolist(), abs=1e-3)


def test_curve_when_in_one_process_two_or_sharded_then_the_same_and_another_than_of_a_random_start(
    trained: Table,
) -> None:
    curves = {name: torch.tensor(trained[name]["losses"]) for name in ("whole", "alone", "zero 3", "random")}
    for name in ("alone", "zero 3"):
        torch.testing.assert_close(curves[name], curves["whole"], rtol=0, atol=1e-4)
    assert curves["whole"][0, 1] < curves["random"][0, 1] - 0.3  # these pairs are those of the regression


def test_texts_when_a_regression_teaches_them_then_they_come_nearer_and_images_stay(
    trained: Table, place: Path
) -> None:
    assert trained["taught"]["error"] is None
    taught, left = (
        json.loads(path.read_text().splitlines()[-1])["regression_loss"]
        for name in ("taught", "left")
        for path in (place / "shared/out/runs" / name).glob("*/train/metrics.jsonl")
    )
    assert taught < 0.8 * left
    (model,) = (place / "shared/out/runs/taught").glob("*/train/model/open_clip_model.safetensors")
    (checkpoint,) = (place / "shared/out/runs/taught-alone").glob("*/train/model/open_clip_model.safetensors")
    weights = [load_file(path)["visual.head.proj.weight"] for path in (model, checkpoint)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)  # after six steps and after two


def test_curve_when_texts_are_taught_then_the_same_in_one_process_and_sharded(trained: Table) -> None:
    curves = {name: torch.tensor(trained[name]["losses"]) for name in ("taught", "taught alone", "taught zero 3")}
    for name in ("taught alone", "taught zero 3"):
        torch.testing.assert_close(curves[name], curves["taught"][:STEPS], rtol=0, atol=2e-3)


def test_export_when_training_spoils_the_start_then_it_is_the_start(trained: Table, place: Path) -> None:
    assert trained["spoilt"]["error"] is None
    (folder,) = (place / "shared/out/runs/spoilt").glob("*/train")
    chosen = json.loads((folder / "result.json").read_text())["summary"]["interpolation"]
    assert chosen["share"] == 0
    assert chosen["recall_at_5"]["0"] > chosen["recall_at_5"]["1"] + 10
    (still,) = (place / "shared/out/runs/still").glob("*/train")
    spoilt, expected = (load_file(path / "model/open_clip_model.safetensors") for path in (folder, still))
    for name in ("token_embedding.weight", "text_projection", "visual.head.proj.weight"):
        torch.testing.assert_close(spoilt[name], expected[name], rtol=0, atol=1e-5)


def test_first_weights_when_they_bring_a_text_tower_then_refused(trained: Table) -> None:
    assert "brings a text tower, in whose place train.textStart Ridge" in trained["brought"]["error"]
