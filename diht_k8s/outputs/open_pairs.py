"""The pairs that a run kept, as a pipeline of webdataset: for open_clip's trainer, or a training of your own.

In: a run. Out: a `webdataset.DataPipeline` of undecoded samples, as webdataset's readers give them: `__key__`,
`__url__`, members by suffix (`jpg`, `txt`, `json`, ...) and, where asked for, `__labels__`. Further stages are
appended:

    pairs = open_pairs("my-run.yaml", labels=True)
    pairs = pairs.compose(wds.shuffle(1000), wds.decode("pilrgb"), wds.rename(image="jpg;png;jpeg;webp", text="txt"))

Shards are divided over nodes and over the loader's workers, so each pair comes once an epoch. Runs that keep lists in
place of copies (`filter.output: KeepList`) are read from their raw shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from diht_k8s.api.documents import load, read_text
from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import storable
from diht_k8s.data.shards.sources import Shard, input_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.stages.label.soft_labels import HEADS, Labels, read_labels

if TYPE_CHECKING:
    from webdataset.pipeline import DataPipeline


def open_pairs(run: DihtRun | str | PathLike[str], *, labels: bool = False, keep_lists: str = "") -> DataPipeline:
    """The pairs that a run's filter kept, in the order of its shards.

    Each sample has a caption under `txt`, also where the raw shard has it in the .json. With `labels` it has
    `__labels__`: for each head HEAD of `object` and `attribute` the arrays `HEAD_ids` (int64, [K]) and
    `HEAD_probabilities` (float32, [K]), likeliest first; probabilities are all 0 where the image has no label.

    Args:
        run: the run, or the path of its document.
        labels: join each pair with its soft labels.
        keep_lists: folder of keep lists of the raw shards (`shards.keep_lists.write_keep_list`), which take the place
            of what the filter kept; a shard without a list is not read.

    Raises:
        UserError: the document is wrong, or the filter (with `labels` also the stage label) is not committed.
        ValueError: both `labels`, which belong to what the filter kept, and `keep_lists`.
        DataError: while it is read: a shard is damaged, or shards and labels do not belong together.
    """
    from webdataset.pipeline import DataPipeline
    from webdataset.shardlists import split_by_node, split_by_worker

    if labels and keep_lists:
        raise ValueError("labels are those of the pairs that the filter kept: leave out labels or keep_lists")
    if not isinstance(run, DihtRun):
        run = load(read_text(fspath(run)), name=fspath(run))
    storage = Storage(run.spec.storage)
    layout = run_layout(run, storage)
    if labels:
        read_committed(storage, layout, Stage.LABEL)
    found = _listed(run, storage, keep_lists) if keep_lists else kept_shards(run.spec, storage, layout)
    shards = [{"url": shard.uri, "shard": shard} for shard in found]

    def samples(urls: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for url in urls:
            yield from _samples(storage, url["shard"], layout if labels else None)

    return DataPipeline(lambda: iter(shards), split_by_node, split_by_worker, samples)


def _listed(run: DihtRun, storage: Storage, folder: str) -> list[Shard]:
    """The raw shards that have a keep list in a folder."""
    names = set(storage.names(folder))
    found = [(shard, f"{shard.name}.parquet") for shard in input_shards(run.spec, storage)]
    return [replace(shard, keep_list=join(folder, name)) for shard, name in found if name in names]


def _samples(storage: Storage, shard: Shard, layout: Layout | None) -> Iterator[dict[str, Any]]:
    """The samples of a shard; with their labels if there is a layout."""
    labels = None if layout is None else read_labels(storage, layout.labels(shard.name))
    count = 0
    for number, pair in enumerate(read_pairs(storage, shard)):
        count += 1
        sample = {"__key__": pair.key, "__url__": shard.uri, "txt": pair.caption.encode(), **pair.members}
        if labels is not None:
            if number >= len(labels.uids) or labels.uids[number] != storable(pair.uid):
                raise _mismatch(shard, number)
            sample["__labels__"] = _row(labels, number)
        yield sample
    if labels is not None and count != len(labels.uids):
        raise _mismatch(shard, count)


def _row(labels: Labels, number: int) -> dict[str, Any]:
    """The soft labels of one pair."""
    heads = dict(zip(HEADS, (labels.objects, labels.attributes), strict=True))
    arrays = {"ids": "ids_NK", "probabilities": "probabilities_NK"}
    return {
        f"{head}_{name}": getattr(found, each)[number] for head, found in heads.items() for name, each in arrays.items()
    }


def _mismatch(shard: Shard, number: int) -> DataError:
    return DataError(f"the labels of {shard.uri} are of other pairs (row {number}): run the stage label again")
