"""Zero-shot evaluation end to end against clip-benchmark, and retrieval among many embeddings against the naive full matrix.

`zero-shot`: both programs from start to report, on the same shards, model and number of processes; CPU time of everything they
start. Each is run on few and on many pictures, so that the pictures' own rate (without imports) is known too.
`retrieval`: seconds and peak memory of both directions of R@k, ours and the whole matrix sorted. One JSON line each.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks.judge import judge, timed
from diht_k8s.recipe.shards.samples import write_samples
from diht_k8s.recipe.shards.storage import Storage
from tests.recipe.evaluation.small_run import export_model

CLASSES: Final = 10
CONFIG: Final = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
"""The demo's architecture: small, so that reading and decoding count."""


def make_benchmark(folder: Path, pictures: int) -> None:
    """A classification set in clip-benchmark's layout: smooth noise, 384 x 288 JPEG."""
    rng = np.random.default_rng(0)
    (folder / "test").mkdir(parents=True)

    def sample(row: int) -> tuple[str, dict[str, bytes]]:
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((384, 288), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        return f"s{row:07d}", {"jpg": buffer.getvalue(), "cls": str(row % CLASSES).encode()}

    write_samples(Storage(), str(folder / "test" / "0.tar"), map(sample, range(pictures)))
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(f"thing {n}" for n in range(CLASSES)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n{c}")


def ours(root: Path, model: Path, output: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of `diht stage evaluate`."""
    spec = {
        "data": {"sources": [{"name": "none", "shards": [f"{root}/none.tar"]}], "output": str(output)},
        "evaluate": {
            "model": str(model),
            "benchmarks": [
                {
                    "name": "noise",
                    "type": "Classification",
                    "shards": [f"{root}/test/0.tar"],
                    "classNames": f"{root}/classnames.txt",
                    "templates": ["a photo of {c}.", "{c}"],
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


def zero_shot(pictures: tuple[int, int], rounds: int) -> dict[str, Any]:
    """CPU seconds of both, best of the rounds, in turn."""
    found: dict[str, dict[int, list[float]]] = {name: {n: [] for n in pictures} for name in ("ours", "clip_benchmark")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_model(folder / "model", CONFIG)
        for number in pictures:
            make_benchmark(folder / f"wds{number}", number)
        for turn in range(rounds):
            for number in pictures:
                root, output = folder / f"wds{number}", folder / f"out{number}-{turn}"
                found["ours"][number].append(ours(root, folder / "model", output)[1])
                verdict = judge("zeroshot_classification", root, folder / "model", folder / "c.json", loaders=0)
                found["clip_benchmark"][number].append(verdict.cpu_seconds)
    few, many = pictures
    best = {name: {n: min(values) for n, values in times.items()} for name, times in found.items()}
    rates = {name: (many - few) / (times[many] - times[few]) for name, times in best.items()}
    return {
        "cpu_seconds": {name: {str(n): round(value, 2) for n, value in times.items()} for name, times in best.items()},
        "pictures_per_cpu_second_end_to_end": {name: round(many / times[many], 1) for name, times in best.items()},
        "end_to_end": round(best["clip_benchmark"][many] / best["ours"][many], 2),
        "pictures_per_cpu_second_without_start": {name: round(rate, 1) for name, rate in rates.items()},
        "without_start": round(rates["ours"] / rates["clip_benchmark"], 2),
    }


def embeddings(images: int, texts: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit features of pictures and their captions, the captions near their picture, and the picture of each caption."""
    rng = np.random.default_rng(0)
    image_of_text = np.arange(texts) % images
    image_ND = rng.standard_normal((images, dim), dtype=np.float32)
    text_MD = image_ND[image_of_text] + 2 * rng.standard_normal((texts, dim), dtype=np.float32)
    for values in (image_ND, text_MD):
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    return image_ND, text_MD, image_of_text


def chunked(image_ND: np.ndarray, text_MD: np.ndarray, image_of_text: np.ndarray) -> list[float]:
    """R@1, R@5, R@10 of picture to caption, then of caption to picture, ours."""
    from diht_k8s.recipe.evaluation.retrieval import expected_hits, standing

    ids = np.arange(len(image_ND))
    both = (standing(image_ND, ids, text_MD, image_of_text), standing(text_MD, image_of_text, image_ND, ids))
    return [float(expected_hits(*counts, cutoff).mean()) for counts in both for cutoff in (1, 5, 10)]


def naive(image_ND: np.ndarray, text_MD: np.ndarray, image_of_text: np.ndarray) -> list[float]:
    """The same from the whole matrix, the ten best by a partial sort."""
    scores_NM = image_ND @ text_MD.T
    found: list[float] = []
    ids = np.arange(len(image_ND))
    for scores, queries, gallery in ((scores_NM, ids, image_of_text), (scores_NM.T, image_of_text, ids)):
        best = np.argpartition(-scores, 10, axis=1)[:, :10]
        order = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1), axis=1)
        right = gallery[order] == queries[:, None]
        found += [float(right[:, :cutoff].any(axis=1).mean()) for cutoff in (1, 5, 10)]
    return found


def _measured(function: Callable[..., list[float]], sizes: tuple[int, int, int], pipe: Any) -> None:
    arrays = embeddings(*sizes)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.monotonic(), time.process_time()
    recall = function(*arrays)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(
        {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "mib_above_features": round((peak - base) / 1024),
            "recall": [round(value, 6) for value in recall],
        }
    )


def measured(function: Callable[..., list[float]], sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Seconds and peak memory above the features, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(function, sizes, sender))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["zero-shot", "retrieval"])
    parser.add_argument("--pictures", type=int, nargs=2, default=(200, 3000), metavar=("FEW", "MANY"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs=3, default=(10_000, 50_000, 512), metavar=("IMAGES", "TEXTS", "DIM"))
    parser.add_argument("--without-naive", action="store_true", help="the whole matrix would not fit")
    options = parser.parse_args()
    if options.part == "zero-shot":
        found = zero_shot(tuple(options.pictures), options.rounds)
    else:
        found = {"sizes": list(options.sizes), "ours": measured(chunked, tuple(options.sizes))}
        if not options.without_naive:
            found["naive"] = measured(naive, tuple(options.sizes))
    print(json.dumps({"benchmark": f"evaluate {options.part}", **found}))


if __name__ == "__main__":
    main()
