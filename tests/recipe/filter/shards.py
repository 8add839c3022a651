"""Small shards, runs and images for the filter's tests."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import locate, run_stage
from diht_k8s.stages.filter import stage
from diht_k8s.stages.filter.scores import Row, open_scores
from diht_k8s.stages.filter.shard_filter import ShardFilter

Member = tuple[str, bytes]
DISABLED = {"mode": "Disabled"}


def drawn(
    text: str = "", *, size: tuple[int, int] = (96, 64), colour: str = "lightblue", kind: str = "PNG", **save: Any
) -> bytes:
    """An image with a text in black; `colour` makes images differ."""
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).text((4, size[1] // 3), text, font=ImageFont.load_default(18), fill="black")
    buffer = io.BytesIO()
    image.save(buffer, kind, **save)
    return buffer.getvalue()


def encoded(image: Image.Image, kind: str = "PNG", **save: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **save)
    return buffer.getvalue()


def pair(key: str, caption: str | bytes, image: bytes | None = None, **meta: Any) -> list[Member]:
    """Members of one sample: image, then caption as .txt (bytes) or .json."""
    text = (
        (f"{key}.txt", caption)
        if isinstance(caption, bytes)
        else (f"{key}.json", json.dumps({"caption": caption, **meta}).encode())
    )
    return [(f"{key}.png", drawn() if image is None else image), text]


def tar_of(members: Iterable[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def scene(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)


CAPTIONS = (
    "a small dog chasing a red ball",
    "iphone case",
    "a man riding a brown horse on the beach",
    "red car",
    "two girls share an umbrella",
    "server",
)


def write_shards(folder: Path, captions: Iterable[Iterable[str]] = (CAPTIONS[:3], CAPTIONS[3:])) -> str:
    """Shards `00000.tar`, ... of the captions; returns the pattern that matches them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, group in enumerate(captions):
        members = [member for i, caption in enumerate(group) for member in pair(f"{number}-{i}", caption)]
        (folder / f"{number:05}.tar").write_bytes(tar_of(members))
    return f"{folder}/*.tar"


def run_of(
    output: Path | str, shards: str | list[str], rules: Mapping[str, Any] | None = None, **source: Any
) -> DihtRun:
    """A run with the filter stage only."""
    pattern = {"shards": [shards] if isinstance(shards, str) else shards} if shards else {}
    document = {
        "apiVersion": "diht.dev/v1alpha1",
        "kind": "DihtRun",
        "metadata": {"name": "test"},
        "spec": {
            "data": {"sources": [{"name": "web", **pattern, **source}], "output": str(output)},
            "filter": {"minActions": 0, "textSpotting": DISABLED, **(rules or {})},
        },
    }
    return DihtRun.model_validate(document)


def work(run: DihtRun, worker: int = 0, workers: int = 1, stop: StopFlag | None = None) -> Committed | None:
    """Filter as one of several processes; None where another one commits."""
    return run_stage(stage, run, Stage.FILTER, worker=worker, workers=workers, stop=stop)


def filter_with(run: DihtRun, *, worker: int = 0, workers: int = 1, stop: StopFlag | None = None) -> Committed:
    committed = work(run, worker, workers, stop)
    assert committed is not None
    return committed


def filter_pairs(
    folder: Path, members: Iterable[Member], rules: Mapping[str, Any] | None = None, **source: Any
) -> Committed:
    """Filter the shard `a.tar` of these members to FOLDER/out."""
    (folder / "a.tar").write_bytes(tar_of(members))
    return filter_with(run_of(folder / "out", f"{folder}/a.tar", rules, **source))


def with_spec(run: DihtRun, **fields: Any) -> DihtRun:
    """The run with other fields of its spec; None leaves one out."""
    document = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"] = {name: given for name, given in (document["spec"] | fields).items() if given is not None}
    return DihtRun.model_validate(document)


def tolerating(run: DihtRun, limit: int | str) -> DihtRun:
    """The run with a limit for damaged shards."""
    data = run.spec.data.model_copy(update={"max_bad_shards": limit})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"data": data})})


def filter_by_two(run: DihtRun, program: Callable[..., object] = work, *, workers: int = 2) -> list[int | None]:
    """Exit codes of two parallel processes that share the shards; with `workers=1` each processes all of them."""
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=program, args=(run,), kwargs={"worker": worker % workers, "workers": workers})
        for worker in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    return [process.exitcode for process in both]


def filter_slowly(run: DihtRun, worker: int = 0, workers: int = 1) -> None:
    """Run the stage with a pause after each batch, so kills hit between any two writes; run it in its own process."""
    apply_rules = ShardFilter._apply_rules

    def apply_and_wait(*arguments: object) -> object:
        time.sleep(0.05)
        return apply_rules(*arguments)  # type: ignore[arg-type]

    ShardFilter._apply_rules = apply_and_wait  # type: ignore[method-assign, assignment]
    work(run, worker, workers)


def config_of(run: DihtRun) -> str:
    """The config digest of the filter stage."""
    return sha256_of(_located(run)[1])


def folder_of(run: DihtRun) -> Path:
    """Where the filter of a run writes, also before it has begun."""
    return Path(_located(run)[0].stage(Stage.FILTER))


def _located(run: DihtRun) -> tuple[Layout, dict[str, Any]]:
    return locate(stage, run, Storage(run.spec.storage), Layout(run.spec.data.output), Stage.FILTER)


def forget(output: Path) -> None:
    """Delete the markers but not the scores, as if the stage had been killed right before its end."""
    for name in ("COMMITTED.json", "STARTED.json"):
        (output / "runs/latest/filter" / name).unlink(missing_ok=True)
    shutil.rmtree(output / "runs/latest/filter" / "summaries", ignore_errors=True)


def report_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "runs/latest/filter/report.json").read_text())


def rows_of(output: Path, shard: str) -> list[Row]:
    path = output / "runs/latest/filter" / "scores" / f"{shard}.parquet"
    return list(open_scores(path.read_bytes(), str(path)).rows())


def files_of(output: Path) -> dict[str, bytes]:
    """Scores, kept shards and report, without markers."""
    folder = output / "runs/latest/filter"
    names = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in (".parquet", ".tar")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*names, folder / "report.json"]}


def kept_keys(output: Path, shard: str) -> list[str]:
    with tarfile.open(output / "runs/latest/filter" / "kept" / f"{shard}.tar") as tar:
        return list(dict.fromkeys(name.partition(".")[0] for name in tar.getnames()))
