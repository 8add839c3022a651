"""A CLIP-type teacher's embeddings of images and captions: what the label stage stores, and when it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, StopRequested, UserError
from diht_k8s.api.label import Teacher
from diht_k8s.data.feature_files import hash64, remove_rows
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label import predict_step
from diht_k8s.stages.label.teacher import check_weights
from tests.folders import located
from tests.recipe.label.conftest import Make, label

NAME = "embeddings-test"
CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """A small CLIP that open_clip knows by name, and its weights."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME).eval()
    save_file(model.state_dict(), folder / "weights.safetensors")
    return model, str(folder / "weights.safetensors")


@pytest.fixture
def make_clip_kept(make_kept: Make, clip: tuple[Any, str]) -> Callable[..., Any]:
    """Kept pairs with this teacher; one of the three shards trains the heads, so the others' features are not
    stored.
    """

    def make(**options: Any) -> Any:
        kept = make_kept(pairs=20, **options)
        kept.label["teacher"] = {"model": f"open_clip/{NAME}", "weights": clip[1], "textEmbeddings": True}
        kept.label["maxSamples"] = 20
        return kept

    return make


def test_embeddings_are_the_teachers_own_of_every_kept_pair(
    make_clip_kept: Callable[..., Any], clip: tuple[Any, str]
) -> None:
    kept, model = make_clip_kept(), clip[0]
    kept.shards[1][3].image = b"no image"
    kept.rules["maxBadPercent"] = 10
    committed = label(kept.write().run())
    assert committed is not None
    layout, tokenize = located(kept.folder), open_clip.get_tokenizer(NAME)
    view: Any = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    assert len(Storage().names(layout.features("").rpartition("/")[0])) == 1
    for number, pairs in enumerate(kept.shards):
        name = f"shapes-{number:02}"
        found = load_file(layout.embeddings(name))
        samples = list(read_pairs(Storage(), Shard(name, layout.kept(name), "shapes")))
        usable = [number != 1 or row != 3 for row in range(20)]
        with torch.inference_mode():
            pixels = torch.stack([view(decode(each.image)) for each, use in zip(samples, usable, strict=True) if use])
            image_NE = model.encode_image(pixels, normalize=True)
            text_NE = model.encode_text(tokenize([each.caption for each in samples]), normalize=True)
        rows = torch.tensor(usable)
        torch.testing.assert_close(
            found["features"][rows].float(), torch.cat([image_NE, text_NE[rows]], 1), atol=1e-3, rtol=0
        )
        assert found["features"].dtype == torch.float16
        assert not found["features"][~rows].any()
        assert found["usable"].tolist() == usable
        assert found["uid_hash"].tolist() == [hash64(pair.uid) for pair in pairs]
    assert json.loads(header_of(layout.embeddings("shapes-00")))["config_sha256"] == committed.config_sha256
    assert committed.config["config"]["teacher"]["textEmbeddings"] is True  # what a training looks for
    stored = [item.path for item in committed.artefacts if item.path.startswith("embeddings/")]
    assert stored == [f"embeddings/shapes-{number:02}.safetensors" for number in range(3)]


def test_embeddings_that_nobody_asks_for_are_not_made_and_change_no_digest(make_clip_kept: Callable[..., Any]) -> None:
    kept = make_clip_kept(shards=1).write()
    without = {**kept.label["teacher"], "textEmbeddings": False}
    committed = label(kept.run(teacher=without))
    assert committed is not None
    assert "textEmbeddings" not in committed.config["config"]["teacher"]
    assert not Storage().names(located(kept.folder).embeddings("").rpartition("/")[0])


def test_embeddings_of_a_stage_that_was_stopped_before_the_labels_have_the_same_bytes(
    make_clip_kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = make_clip_kept(name="whole").write(), make_clip_kept(name="broken").write()
    label(whole.run())

    def stopped(*_: Any) -> None:
        raise StopRequested("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(predict_step, "write_labels", stopped)
        with pytest.raises(StopRequested):
            label(broken.run())
    for step in ("heads", "predict"):
        label(broken.run(), step=step)
    made, again = (located(each.folder) for each in (whole, broken))
    for number in range(3):
        name = f"shapes-{number:02}"
        assert Path(made.embeddings(name)).read_bytes() == Path(again.embeddings(name)).read_bytes()


def test_file_of_embeddings_that_is_lost_ends_the_stage_without_a_marker(
    make_clip_kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, finish = make_clip_kept(shards=2).write().run(), predict_step.finish

    def lost(job: Any) -> Any:
        Path(job.context.layout.embeddings("shapes-01")).unlink()
        return finish(job)

    monkeypatch.setattr(predict_step, "finish", lost)
    with pytest.raises(DataError, match="2 shards have kept pairs, but 1 files of embeddings"):
        label(run)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (lambda key: key.startswith("visual."), "positional_embedding is missing"),
        (lambda key: key != "text_projection", "text_projection is missing"),
    ],
    ids=["image tower alone", "a tensor less"],
)
def test_weights_without_the_text_tower_are_refused(
    kept: Callable[[str], bool], says: str, clip: tuple[Any, str]
) -> None:
    weights = {key: value.to("meta") for key, value in clip[0].state_dict().items() if kept(key)}
    name = f"open_clip/{NAME}"
    check_weights(Teacher(model=name), weights, "weights.pt")
    with pytest.raises(UserError, match=says):
        check_weights(Teacher(model=name, text_embeddings=True), weights, "weights.pt")


def test_rows_that_are_removed_are_gone_and_the_others_stay(make_clip_kept: Callable[..., Any]) -> None:
    kept = make_clip_kept(shards=1).write()
    label(kept.run())
    uri = located(kept.folder).embeddings("shapes-00")
    before, header = load_file(uri), header_of(uri)
    for _ in range(2):  # the second time there is nothing to do
        remove_rows(Storage(), uri, {0, 7}, 20)
        after, left = load_file(uri), [row for row in range(20) if row not in (0, 7)]
        assert all(torch.equal(after[name], before[name][left]) for name in before)
    assert header_of(uri) == header
    with pytest.raises(DataError, match="has 18 rows for 25 kept pairs"):
        remove_rows(Storage(), uri, {0, 7}, 25)
    Path(uri).write_bytes(b"junk")
    with pytest.raises(DataError, match="is damaged"):
        remove_rows(Storage(), uri, {0, 7}, 20)


def header_of(uri: str) -> str:
    content = Path(uri).read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["diht"]
