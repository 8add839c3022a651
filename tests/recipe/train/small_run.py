"""A small run after filter and label: drawn images, captions, some soft labels, and the document to train on it."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diht_k8s.api.documents import dump, load
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.feature_files import hash64
from diht_k8s.data.shards.shard_index import ShardIndex
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.commit import artefact, commit
from diht_k8s.stages.label.features import TeacherFeatures, write_embeddings
from diht_k8s.stages.label.soft_labels import top_k, write_labels
from diht_k8s.stages.label.vocabulary import Concepts, ConceptVocabulary
from tests.folders import flat
from tests.ports import free_port
from tests.recipe.train import fork_server

RANK_PROGRAM = Path(__file__).with_name("train_rank.py")
ON_STAND_IN = RANK_PROGRAM.with_name("stand_in_rank.py")
ORDER = RANK_PROGRAM.with_name("order_rank.py")
ROOT = RANK_PROGRAM.parents[3]
ON_DEVICES = ROOT / "tests/gpu/rank.py"
FORKED = {
    RANK_PROGRAM: fork_server.TRAINING,
    ON_STAND_IN: ("tests.recipe.train.stand_in_rank", *fork_server.TRAINING),
    ORDER: fork_server.TRAINING,
    ON_DEVICES: fork_server.TRAINING,
}
"""Programs of ranks that are forked, each from a server that has imported what it names; other ones are started."""
FORK_VARIABLE = "DIHT_TEST_FORK"
"""Set where ranks are forked from this process, which then has no threads: the mutation driver spares their imports."""
SHARDS = (70, 41, 57)
OBJECTS, ATTRIBUTES = 12, 5
VIT: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
EFFICIENTNET = {
    **VIT,
    "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
}
LITE = {
    **VIT,
    "vision_cfg": {**EFFICIENTNET["vision_cfg"], "timm_model_name": "tf_efficientnet_lite0", "image_size": 224},
}
"""Its weights are packaged."""
Table = dict[str, dict[str, Any]]
"""Settings, or what trainings found, by name."""
LABEL: dict[str, Any] = {"inputs": {}, "config": {"teacher": {"textEmbeddings": True}}}
"""What decided the labels."""
RESNET = {**VIT, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
WORDS = ("red", "green", "small", "large", "house", "tree", "cat", "dog", "with", "and", "garden", "hat")


class Indexed(dict[str, ShardIndex]):
    """The indexes of some shards by name."""

    def of(self, name: str) -> ShardIndex | None:
        """The index of a shard."""
        return self.get(name)


def document(folder: Path, *, data: Path | None = None, name: str = "run", **train: Any) -> DihtRun:
    """The run document over what `make_data(data)` wrote; the training writes below `folder`."""
    data = data or folder
    body = {
        "modelConfig": VIT,
        "shards": [f"{data}/made/filter/kept/*.tar"],
        "labels": f"{data}/made/label",
        "samples": 16 * 50,
        "batchSize": 16,
        "optimizer": {"lr": 1e-3, "eps": 1e-6},
        "precision": "fp32",
        "zeroStage": 0,
        "checkpoint": {"everySamples": 10**9},
        **train,
    }
    spec = {
        "data": {
            "sources": [{"name": "drawn", "shards": [f"{data}/made/filter/kept/*.tar"]}],
            "output": f"{folder}/out",
        },
        "train": {key: value for key, value in body.items() if value is not None},
    }
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name}, "spec": spec}
    return load(json.dumps(run), name="small.yaml")


def make_data(folder: Path, shards: tuple[int, ...] = SHARDS, *, captions: int | None = None) -> None:
    """Kept shards and labels, both committed; a third has no label. `captions` limits the number of distinct ones."""
    storage, layout, rng = Storage(), flat(f"{folder}/made"), np.random.default_rng(0)
    vocabulary = ConceptVocabulary(
        sum(shards),
        Concepts(tuple(f"object {i}" for i in range(OBJECTS)), (9,) * OBJECTS),
        Concepts(tuple(f"attribute {i}" for i in range(ATTRIBUTES)), (9,) * ATTRIBUTES),
        {},
    )
    for number, size in enumerate(shards):
        write_samples(storage, layout.kept(f"drawn-{number}"), pairs(number, size, rng, captions))
        heads = [top_k(rng.dirichlet(np.full(n, 0.3), size).astype(np.float32), 3) for n in (OBJECTS, ATTRIBUTES)]
        uids = [f"{number}-{index}" for index in range(size)]
        header = {"schema_version": SCHEMA_VERSION, "top_k": 3, "vocabulary_sha256": vocabulary.sha256}
        write_labels(storage, layout.labels(f"drawn-{number}"), uids, rng.random(size) > 0.33, heads, header)
        write_teacher(storage, layout.embeddings(f"drawn-{number}"), uids)
    counts = [{"name": f"drawn-{i}", "source": "drawn", "input": size, "kept": size} for i, size in enumerate(shards)]
    artefacts = [artefact(storage, layout, Stage.FILTER, f"kept/{count['name']}.tar") for count in counts]
    commit(storage, layout, Stage.FILTER, {"inputs": {}}, artefacts, {"shards": counts})
    content = json.dumps(vocabulary.document({"schema_version": SCHEMA_VERSION})).encode()
    storage.write_bytes(layout.vocabulary, content)
    labels = [artefact(storage, layout, Stage.LABEL, "vocabulary.json")]
    commit(storage, layout, Stage.LABEL, LABEL, labels, {})


def write_teacher(storage: Storage, uri: str, uids: Sequence[str], config_sha256: str = sha256_of(LABEL)) -> None:
    """Embeddings of a CLIP-type teacher, which could not see every seventh image."""
    rng = np.random.default_rng(len(uids))
    image_NE, text_NE = (torch.from_numpy(rng.normal(size=(len(uids), 6)).astype(np.float32)) for _ in range(2))
    text_NE /= text_NE.norm(dim=1, keepdim=True)
    hash_N = torch.tensor([hash64(uid) for uid in uids])
    found = TeacherFeatures(image_NE, hash_N, hash_N, torch.arange(len(uids)) % 7 != 0, {})
    write_embeddings(storage, uri, found, text_NE, {"config_sha256": config_sha256})


def pairs(
    shard: int, size: int, rng: np.random.Generator, captions: int | None = None
) -> list[tuple[str, dict[str, bytes]]]:
    """Images of noise around a colour, each with a caption of two to eight words."""
    found = []
    for index in range(size):
        colour = rng.integers(0, 200, 3)
        pixels = (colour + rng.integers(0, 55, (40, 36, 3))).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        words = rng.choice(WORDS, int(rng.integers(2, 9)))
        caption = f"{' '.join(words)} {index}" if captions is None else f"cat {index % captions}"
        others = [caption, " ".join(words[::-1]), f"only {words[0]}"]  # what `captions: Drawn` draws from
        meta = {"uid": f"{shard}-{index}", "caption": caption, "captions": others, "caption_weights": [1, 1, 2]}
        found.append((f"{index:05}", {"png": buffer.getvalue(), "json": json.dumps(meta).encode()}))
    return found


def environment(**more: str) -> dict[str, str]:
    """One thread a process, nothing written outside of the test's folder."""
    root = str(Path(__file__).resolve().parents[3])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "DIHT_PROGRESS_SECONDS": "1000", **more}


def gang(
    program: str,
    folder: Path,
    world: int,
    *arguments: str,
    modules: Sequence[str] | None = None,
    own: Callable[[int], dict[str, str]] = lambda rank: {},
    seconds: float = 250,
) -> None:
    """Do `main` of a module, or a function after a colon, in each of `world` processes; what one prints is in RANK.log.

    Args:
        program: its first argument is the folder.
        arguments: the others.
        modules: what the fork server imports before; by default the program.
        own: variables of a rank beside torchrun's.
    """
    port, ranks = str(free_port()), []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        place |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        with (folder / f"{rank}.log").open("w") as log:
            ranks.append(
                fork_server.start(
                    program,
                    str(folder),
                    *arguments,
                    variables=environment(**{**place, **own(rank)}),
                    modules=(program.partition(":")[0],) if modules is None else modules,
                    stdout=log,
                    stderr=log,
                )
            )
    try:
        codes = [rank.wait(seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world, (folder / "0.log").read_text()


@dataclass(frozen=True)
class Job:
    """A training for `train_in_ranks`."""

    run: DihtRun
    stop_after: int | None = None
    """the last rank requests a stop after this many steps of the attempt."""
    fp16_scale: float | None = None
    """let a CPU train in fp16, from this loss scale on."""
    finite_steps: int | None = None
    """steps of this attempt before a gradient of the last rank is NaN while the loss is finite."""
    infinite_loss: bool = False
    """... before its loss is infinite while the gradients are finite, instead."""
    spoilt_steps: int | None = None
    """how many steps that lasts; to the end if None."""
    whole_view: bool = False
    """let it see each image as an evaluation does, without a random crop."""
    refused: tuple[tuple[int, str, int, int], ...] = ()
    """writes that the storage refuses: (rank, part of the URI, first, number), the first write being 0."""


def train_in_ranks(
    world: int,
    jobs: dict[str, Job],
    folder: Path,
    *,
    program: Path = RANK_PROGRAM,
    seconds: float = 550,
    **variables: str,
) -> dict[str, Any]:
    """Do each job in the same `world` processes, one after the other, step by step recorded, all within `seconds`.

    Returns:
        for each job {"losses": [total, contrastive, object, attribute, embedding] of each step, "uids": of each step in
        global order, "weights": the checkpoint state at the end, "norms": gradient norms, "error": None or exit code
        and text, "began": steps before the first one, "said": at its start}.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    content = {name: {**vars(job), "run": dump(job.run)} for name, job in jobs.items()}
    (folder / "jobs.json").write_text(json.dumps(content))
    rendezvous = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    ranks = [
        _start(program, folder, environment(RANK=str(rank), LOCAL_RANK=str(rank), **rendezvous, **variables))
        for rank in range(world)
    ]
    codes = _wait_for(ranks, seconds)
    assert codes == [0] * world, codes
    return torch.load(folder / "results.pt")


def _start(program: Path, folder: Path, variables: dict[str, str]) -> Rank:
    if program == RANK_PROGRAM and FORK_VARIABLE in os.environ:
        return _ForkedFromHere(program, folder, variables)
    on_a_card = (
        program == ON_DEVICES and variables.get("CUDA_VISIBLE_DEVICES") != ""
    )  # a fork may not take its driver along
    if program in FORKED and not on_a_card:
        module = ".".join(program.relative_to(ROOT).with_suffix("").parts)
        return fork_server.start(module, str(folder), variables=variables, modules=FORKED[program])
    return subprocess.Popen([sys.executable, str(program), str(folder)], env=variables)


class _ForkedFromHere:
    """A rank that is a fork of this process; as much of `Popen` as is used here."""

    def __init__(self, program: Path, folder: Path, variables: dict[str, str]) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_rank, args=(program, folder, variables))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _rank(program: Path, folder: Path, variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    runpy.run_path(str(program))["main"](str(folder))


Rank = fork_server.Forked | _ForkedFromHere | subprocess.Popen[bytes]


def _wait_for(ranks: Sequence[Rank], seconds: float) -> list[int | None]:
    """Exit codes of all ranks; once one fails, the others, which would wait for it in a collective, are killed."""
    deadline = time.monotonic() + seconds
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks) or time.monotonic() > deadline:
            time.sleep(2)  # for what the others still have to say
            for rank in ranks:
                rank.kill()
        time.sleep(0.1)
    return [rank.wait() for rank in ranks]


def lines(place: Path, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (place / name / "out" / "runs/latest/train" / "metrics.jsonl").read_text().splitlines()
    ]
