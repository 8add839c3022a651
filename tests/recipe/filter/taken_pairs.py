"""An output whose pairs a takedown removes: two shards, filtered and labelled."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load

from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.feature_files import hash64, write_tensors
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs import takedown
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.commit import artefact, commit, read_committed, start
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import point
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.label.soft_labels import read_labels, write_labels
from tests.folders import located
from tests.recipe.filter.shards import drawn, filter_with, pair, rows_of, run_of, tar_of
from tests.recipe.label.conftest import TEACHER, teacher_weights  # noqa: F401 (a fixture)

GOOD = "a small dog chasing a red ball"
URL = "https://example.org/4.jpg"
LABEL_COUNTS = {"samples": 5, "labelled": 4, "bad": {"picture_unreadable": 1}}


class Bench:
    """Two shards, filtered and labelled: a-0 to a-3 (a-2 is dropped) and b-0, b-1; uids are the keys."""

    def __init__(self, folder: Path, output: str = "Shards") -> None:
        self.folder, self.storage = folder, Storage()
        colours = iter(("red", "green", "blue", "pink", "grey", "gold"))
        for shard, captions in (("a", [GOOD, GOOD, "server", GOOD]), ("b", [GOOD, GOOD])):
            members = [
                member
                for number, caption in enumerate(captions)
                for member in pair(
                    f"{shard}-{number}",
                    caption,
                    drawn(colour=next(colours)),
                    uid=f"{shard}-{number}",
                    url=URL[:-5] + f"{shard}{number}",
                    source_path=f"photos/{shard}-{number}.png",
                )
            ]
            (folder / f"{shard}.tar").write_bytes(tar_of(members))
        self.run = run_of(folder / "out", f"{folder}/*.tar", {"output": output})
        filter_with(self.run)
        self.layout = located(folder / "out")
        self.label()
        self.layout = located(folder / "out")

    def label(self) -> None:
        """Write the files of the label stage, with numbers that identify the row."""
        names, config = ["report.json"], {"inputs": {"filter": self.committed(Stage.FILTER).identity}}
        self.layout = self.layout.at(Stage.LABEL, sha256_of(config))
        start(self.storage, self.layout, Stage.LABEL, config, {})
        point(self.run, self.storage, self.layout, Stage.LABEL)
        for shard in self.kept():
            uids = [row.uid for row in rows_of(self.folder / "out", shard.name) if row.kept]
            ids = np.arange(len(uids), dtype=np.uint16)[:, None]
            head = (ids, np.ones((len(uids), 1), np.float16))
            header = {"schema_version": SCHEMA_VERSION, "top_k": 1}
            uri = self.layout.labels(shard.name)
            write_labels(self.storage, uri, uids, np.ones(len(uids), bool), [head, head], header)
            self.storage.write_bytes(f"{self.layout.stage(Stage.LABEL)}/features/{shard.name}.safetensors", b"features")
            rows = {"uid_hash": torch.tensor([hash64(uid) for uid in uids]), "usable": torch.ones(len(uids)).bool()}
            rows["features"] = torch.eye(len(uids), 8).half()
            write_tensors(self.storage, self.layout.embeddings(shard.name), rows, header)
            names += [f"labels/{shard.name}.parquet", f"embeddings/{shard.name}.safetensors"]
        examples = [{"uid": uid, "caption": GOOD} for uid in ("a-0", "b-1")]
        self.storage.write_bytes(self.layout.report(Stage.LABEL), json.dumps({"examples": examples}).encode())
        artefacts = [artefact(self.storage, self.layout, Stage.LABEL, name) for name in names]
        commit(self.storage, self.layout, Stage.LABEL, config, artefacts, LABEL_COUNTS)

    def kept(self) -> list[Shard]:
        return kept_shards(self.run.spec, self.storage, self.layout)

    def committed(self, stage: Stage) -> Committed:
        return read_committed(self.storage, self.layout, stage)

    def listed(self, *entries: str) -> str:
        path = self.folder / "list.txt"
        path.write_text("# takedowns\n" + "\n".join(entries))
        return str(path)

    def purge(self, *entries: str, run: DihtRun | None = None) -> takedown.PurgeResult:
        return purge(run or self.run, self.storage, self.listed(*entries), StopFlag())

    def labels(self, shard: str) -> tuple[list[str], list[int]]:
        found = read_labels(self.storage, self.layout.labels(shard))
        return found.uids, found.objects.ids_NK[:, 0].tolist()

    def embedded(self, shard: str) -> list[int]:
        """Which rows of the embeddings are there, by where their only number is; each is that of its label's pair."""
        found = load(self.storage.read_bytes(self.layout.embeddings(shard)))
        assert found["uid_hash"].tolist() == [hash64(uid) for uid in self.labels(shard)[0]]
        return found["features"][:, :4].argmax(axis=1).tolist()

    def check_artefacts(self) -> None:
        """Assert that every artefact of both markers matches its file."""
        for stage in (Stage.FILTER, Stage.LABEL):
            for item in self.committed(stage).artefacts:
                assert artefact(self.storage, self.layout, stage, item.path) == item, item.path

    def everything(self) -> dict[str, bytes]:
        files = (
            path
            for path in sorted((self.folder / "out").rglob("*"))
            if path.is_file() and "runs" not in path.parts and "takedowns" not in path.parts
        )
        return {str(path): path.read_bytes() for path in files}


def entry(kind: str) -> str:
    """Entries that name the pair a-1 in four ways."""
    if kind == "path":
        return "photos/a-1.png"
    digests = {"url": URL[:-5].encode() + b"a1", "image": drawn(colour="green")}
    return "a-1" if kind == "uid" else hashlib.sha256(digests[kind]).hexdigest()


def made_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def without_times(bench: Bench) -> dict[str, Any]:
    """The files of a run, except those that name its input by time or path."""
    found: dict[str, Any] = {
        "rows": [rows_of(bench.folder / "out", shard) for shard in ("web-a", "web-b")],
        "labels": [bench.labels(shard) for shard in ("web-a", "web-b")],
        "embeddings": [bench.embedded(shard) for shard in ("web-a", "web-b")],
        "kept": {path.name: path.read_bytes() for path in (bench.folder / "out/runs/latest/filter/kept").iterdir()},
        "files": sorted(
            re.sub(r"/[0-9a-f]{16}/", "/", name.removeprefix(str(bench.folder))) for name in bench.everything()
        ),
    }
    for stage in (Stage.FILTER, Stage.LABEL):
        summary = dict(bench.committed(stage).summary)
        for measured in ("wall_seconds", "process_seconds"):
            summary.pop(measured, None)
        found[stage] = summary
    return found
