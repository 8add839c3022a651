"""Zero-shot evaluation beside clip-benchmark; R@k both ways beside the whole matrix, sorted.

`zero-shot`: CPU time from start to report, clip-benchmark 1.6.2, JPEG of 384 x 288, random weights: ViT-B/32 with 40
images, one round; the demo's model with 1,000, under load down to 0.74 x, since decoding threads compete with torch's.
The gain is texts without padding and channels last.

`retrieval`: `--sizes 5000 25000 64`, one thread, equal recall; 4 x at width 256.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks._arguments import make_parser
from benchmarks.judge import judge, timed
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.recipe.evaluate.small_run import export_model

CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "demo": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
    },
    "ViT-B-32": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "RN50": {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
}
"""The demo's model, so small that reading and decoding count, and two of the usual size."""

SHARDS: Final = 2
"""clip-benchmark's loader needs one for each of its processes."""
Seconds = tuple[float, float]
"""wall, CPU."""


@dataclass(frozen=True)
class Prompts:
    """What the text tower gets: `classes` x `templates` texts; ImageNet with OpenAI's templates has 1.6 of them an
    image.
    """

    classes: int
    templates: int

    def lines(self) -> list[str]:
        """The templates; OpenAI's 80 are as long."""
        import open_clip

        return [make("{c}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES[: self.templates]]


def make_benchmark(folder: Path, images: int, prompts: Prompts) -> None:
    """A classification set in clip-benchmark's layout: smooth noise, 384 x 288 JPEG."""
    rng = np.random.default_rng(0)
    (folder / "test").mkdir(parents=True)

    def sample(row: int) -> tuple[str, dict[str, bytes]]:
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((384, 288), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        return f"s{row:07d}", {"jpg": buffer.getvalue(), "cls": str(row % prompts.classes).encode()}

    for shard in range(SHARDS):
        rows = range(shard * images // SHARDS, (shard + 1) * images // SHARDS)
        write_samples(Storage(), str(folder / "test" / f"{shard}.tar"), map(sample, rows))
    (folder / "test" / "nshards.txt").write_text(str(SHARDS))
    (folder / "classnames.txt").write_text("\n".join(f"thing {n}" for n in range(prompts.classes)))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts.lines()))


def ours(root: Path, model: Path, output: Path, prompts: Prompts) -> tuple[float, float]:
    """(wall, CPU) seconds of `diht stage evaluate`."""
    spec = {
        "data": {"sources": [{"name": "none", "shards": [f"{root}/none.tar"]}], "output": str(output)},
        "evaluate": {
            "model": str(model),
            "benchmarks": [
                {
                    "name": "noise",
                    "type": "Classification",
                    "shards": [f"{root}/test/*.tar"],
                    "classNames": f"{root}/classnames.txt",
                    "templates": prompts.lines(),
                }
            ],
        },
    }
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "bench"}, "spec": spec}
    document = output.with_suffix(".json")
    document.write_text(json.dumps(run))
    command = [sys.executable, "-m", "diht_k8s.cli", "stage", "evaluate", "--run", str(document)]
    found, seconds, cpu_seconds = timed(command)
    found.check_returncode()
    return seconds, cpu_seconds


def zero_shot(model: str, images: tuple[int, int], prompts: Prompts, loaders: int, rounds: int) -> dict[str, Any]:
    """Wall and CPU seconds of both from start to report, the best of the rounds, in turn; the first ever compiles
    modules.
    """
    found: dict[str, dict[int, list[Seconds]]] = {name: {n: [] for n in images} for name in ("ours", "clip_benchmark")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_model(folder / "model", CONFIGS[model])
        for number in images:
            make_benchmark(folder / f"wds{number}", number, prompts)
        for turn in range(rounds):
            for number in images:
                root, output = folder / f"wds{number}", folder / f"out{number}-{turn}"
                found["ours"][number].append(ours(root, folder / "model", output, prompts))
                verdict = judge("zeroshot_classification", root, folder / "model", folder / "c.json", loaders=loaders)
                found["clip_benchmark"][number].append((verdict.seconds, verdict.cpu_seconds))
    kinds = {kind: _compared(found, images, index) for index, kind in enumerate(("wall", "cpu"))}
    return {"model": model, "prompts": prompts.classes * prompts.templates, "loaders": loaders, **kinds}


def _compared(found: dict[str, dict[int, list[Seconds]]], images: tuple[int, int], index: int) -> dict[str, Any]:
    few, many = images
    best = {name: {n: min(each[index] for each in runs) for n, runs in times.items()} for name, times in found.items()}
    rates = {name: (many - few) / max(times[many] - times[few], 1e-9) for name, times in best.items()}
    return {
        "seconds": {name: {str(n): round(value, 2) for n, value in times.items()} for name, times in best.items()},
        "end_to_end": round(best["clip_benchmark"][many] / best["ours"][many], 2),
        "pictures_per_second_without_start": {name: round(rate, 1) for name, rate in rates.items()},
        "without_start": round(rates["ours"] / rates["clip_benchmark"], 2),
    }


def embeddings(images: int, texts: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit features of images and their captions, the captions near their image, and the image of each caption."""
    rng = np.random.default_rng(0)
    image_of_text = np.arange(texts) % images
    image_ND = rng.standard_normal((images, dim), dtype=np.float32)
    text_MD = image_ND[image_of_text] + 2 * rng.standard_normal((texts, dim), dtype=np.float32)
    for values in (image_ND, text_MD):
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    return image_ND, text_MD, image_of_text


def chunked(image_ND: np.ndarray, text_MD: np.ndarray, image_of_text: np.ndarray, share: float) -> list[float]:
    """R@1, R@5, R@10 of image to caption, then of caption to image, ours; of the first queries only where `share` is
    below 1.
    """
    from diht_k8s.stages.evaluate.retrieval import expected_hits, rank_counts

    ids = np.arange(len(image_ND))
    directions = ((image_ND, ids, text_MD, image_of_text), (text_MD, image_of_text, image_ND, ids))
    found: list[float] = []
    for queries_QD, query_ids, gallery_GD, gallery_ids in directions:
        asked = slice(round(share * len(queries_QD)))
        counts = rank_counts(queries_QD[asked], query_ids[asked], gallery_GD, gallery_ids)
        found += [float(expected_hits(*counts, cutoff).mean()) for cutoff in (1, 5, 10)]
    return found


def naive(image_ND: np.ndarray, text_MD: np.ndarray, image_of_text: np.ndarray, share: float) -> list[float]:
    """The same from the whole matrix, the ten best by a partial sort."""
    assert share == 1, "the matrix is made whole"
    scores_NM = image_ND @ text_MD.T
    found: list[float] = []
    ids = np.arange(len(image_ND))
    for scores, queries, gallery in ((scores_NM, ids, image_of_text), (scores_NM.T, image_of_text, ids)):
        best = np.argpartition(-scores, 10, axis=1)[:, :10]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1), axis=1)
        right = gallery[order] == queries[:, None]
        found += [float(right[:, :cutoff].any(axis=1).mean()) for cutoff in (1, 5, 10)]
    return found


def _peak_kib() -> int:
    """Of this program since it began; `ru_maxrss` would hold its parent's."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def _measured(function: Callable[..., list[float]], folder: str, share: float, pipe: Any) -> None:
    arrays = [np.load(f"{folder}/{number}.npy") for number in range(3)]
    base = _peak_kib()
    began, cpu = time.monotonic(), time.process_time()
    recall = function(*arrays, share)
    peak = _peak_kib()
    pipe.send(
        {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "mib_above_features": round((peak - base) / 1024),
            "recall": [round(value, 6) for value in recall],
        }
    )


def measured(function: Callable[..., list[float]], sizes: tuple[int, int, int], share: float = 1) -> dict[str, Any]:
    """Seconds and peak memory above the features, in a process that loads them: making them takes more than a search
    does.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        for number, array in enumerate(embeddings(*sizes)):
            np.save(f"{folder}/{number}.npy", array)
        process = context.Process(target=_measured, args=(function, folder, share, sender))
        process.start()
        sender.close()
        found = receiver.recv()
        process.join()
    return found


def main() -> None:
    """Run it."""
    parser = make_parser("evaluate", __doc__)
    parser.add_argument("part", choices=["zero-shot", "retrieval"])
    parser.add_argument("--images", type=int, nargs=2, default=(200, 3000), metavar=("FEW", "MANY"))
    parser.add_argument("--model", choices=list(CONFIGS), default="demo")
    parser.add_argument("--prompts", type=int, nargs=2, default=(10, 2), metavar=("CLASSES", "TEMPLATES"))
    parser.add_argument(
        "--loaders", type=int, default=2, help="processes in which clip-benchmark decodes; ours are threads"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs=3, default=(10_000, 50_000, 512), metavar=("IMAGES", "TEXTS", "DIM"))
    parser.add_argument("--share", type=float, default=1, help="of each direction's queries, against the whole gallery")
    parser.add_argument("--without-naive", action="store_true", help="the whole matrix would not fit")
    options = parser.parse_args()
    if options.part == "zero-shot":
        found = zero_shot(
            options.model, tuple(options.images), Prompts(*options.prompts), options.loaders, options.rounds
        )
    else:
        ours_found = measured(chunked, tuple(options.sizes), options.share)
        found = {"sizes": list(options.sizes), "share": options.share, "ours": ours_found}
        if not options.without_naive:
            found["naive"] = measured(naive, tuple(options.sizes))
    print(json.dumps({"benchmark": f"evaluate {options.part}", **found}))


if __name__ == "__main__":
    main()
