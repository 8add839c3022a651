"""Kept pairs as a pipeline of webdataset: the same ones that open_clip reads, with soft labels, in a trainer of
others.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import webdataset
from open_clip_train.data import filter_no_caption_or_no_image, get_wds_dataset
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from webdataset.pipeline import DataPipeline

from diht_k8s import open_pairs
from diht_k8s.api.documents import dump
from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label.soft_labels import read_labels
from tests.folders import located
from tests.recipe.filter.shards import CAPTIONS, encoded, filter_with, pair, run_of, tar_of
from tests.recipe.label.conftest import Make, label

# webdataset leaves the shards that it has read to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
BATCH = 8
wds: Any = webdataset
"""its names are not declared."""


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def filtered(folder: Path, output: str) -> Any:
    """Two shards whose captions stand in a .txt, some of which the filter drops."""
    for shard in range(2):
        members = [
            member
            for number, caption in enumerate(CAPTIONS)
            for member in pair(f"{shard}{number}", caption.encode(), picture(10 * shard + number))
        ]
        (folder / f"{shard}.tar").write_bytes(tar_of(members))
    run = run_of(folder / "out", f"{folder}/*.tar", {"output": output})
    filter_with(run)
    return run


def as_open_clip(pairs: DataPipeline, batch: int = BATCH) -> DataPipeline:
    """The stages that open_clip's trainer puts behind its reader."""
    return pairs.compose(
        wds.select(filter_no_caption_or_no_image),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=pil_to_tensor, text=lambda text: open_clip.tokenize(text)[0]),
        wds.to_tuple("image", "text"),
        wds.batched(batch),
    )


@pytest.mark.parametrize("output", ["Shards", "KeepList"])
def test_pairs_in_open_clips_own_pipeline_equal_what_it_reads_of_the_kept_shards(tmp_path: Path, output: str) -> None:
    ours = list(as_open_clip(open_pairs(filtered(tmp_path, output))))
    (tmp_path / "copies").mkdir()
    filtered(tmp_path / "copies", "Shards")
    arguments = SimpleNamespace(
        train_data=None,
        val_data=f"{tmp_path}/copies/out/runs/latest/filter/kept/web-{{0..1}}.tar",
        val_num_samples=8,
        batch_size=BATCH,
        world_size=1,
        workers=0,
    )
    theirs = list(get_wds_dataset(arguments, pil_to_tensor, is_train=False, tokenizer=open_clip.tokenize).dataloader)
    assert sum(len(images) for images, _ in ours) > 4
    for (images, texts), (their_images, their_texts) in zip(ours, theirs, strict=True):
        assert torch.equal(torch.as_tensor(images), torch.as_tensor(their_images))
        assert torch.equal(torch.as_tensor(texts), torch.as_tensor(their_texts))


def test_pairs_come_with_their_soft_labels(make_kept: Make, tmp_path: Path) -> None:
    kept = make_kept().write()
    run = kept.run()
    label(run)
    document = tmp_path / "run.json"
    document.write_text(dump(run))
    found = list(open_pairs(document, labels=True).compose(wds.decode("pilrgb")))
    assert [sample["__key__"] for sample in found] == [each.uid for pairs in kept.shards for each in pairs]
    labels = [read_labels(Storage(), located(kept.folder).labels(f"shapes-{number:02}")) for number in range(3)]
    for name, values in {
        "object_ids": [shard.objects.ids_NK for shard in labels],
        "object_probabilities": [shard.objects.probabilities_NK for shard in labels],
        "attribute_ids": [shard.attributes.ids_NK for shard in labels],
        "attribute_probabilities": [shard.attributes.probabilities_NK for shard in labels],
    }.items():
        np.testing.assert_array_equal([sample["__labels__"][name] for sample in found], np.concatenate(values))
    assert found[0]["txt"] == found[0]["json"]["caption"] == "a red circle"
    assert found[0]["png"].size == (32, 32)


def test_loaders_workers_and_nodes_share_the_shards(make_kept: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = make_kept(shards=5, pairs=4).write()
    keys = [each.uid for pairs in kept.shards for each in pairs]
    found = list[str]()
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        loader = wds.WebLoader(open_pairs(kept.run()), batch_size=None, num_workers=2)
        found += [sample["__key__"] for sample in loader]
    assert sorted(found) == sorted(keys)


@pytest.mark.parametrize(
    "change", [lambda pairs: pairs[:-1], lambda pairs: [*pairs, pairs[0]], lambda pairs: pairs[::-1]]
)
def test_labels_of_other_pairs_are_refused(make_kept: Make, change: Any) -> None:
    kept = make_kept(shards=1).write()
    run = kept.run()
    label(run)
    kept.shards = [change(kept.shards[0])]
    kept.write()
    with pytest.raises(
        DataError, match=r"the labels of .*shapes-00.tar are of other pairs .*run the stage label again"
    ):
        list(open_pairs(run, labels=True))


def test_run_without_labels_has_pairs_but_no_labels(make_kept: Make) -> None:
    run = make_kept(shards=1, pairs=3).write().run()
    assert [set(sample) for sample in open_pairs(run)] == [{"__key__", "__url__", "png", "txt", "json"}] * 3
    with pytest.raises(UserError, match="run the stage label first"):
        open_pairs(run, labels=True)
