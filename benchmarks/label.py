"""The stage label beside its teacher's forward pass, in one and two processes; the student with and without heads.

The demo's pool, EfficientNet-Lite0 at 128 px, one thread a process; CPU time, the best round. Taken beside ten other
jobs: figures moved by a tenth between calls, and above 1 is noise. Two processes with their starts: 1.52 x.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks._arguments import make_parser
from diht_k8s.api.documents import dump, load
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.stage import locate, run_stage
from diht_k8s.stages.label import stage as label_stage
from diht_k8s.stages.label.teacher import TeacherNetwork, load_teacher
from diht_k8s.stages.label.teacher_weights import weights_uri
from diht_k8s.stages.train.loss.losses import hn_nce_loss, soft_label_loss
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student

ROOT: Final = Path(__file__).resolve().parents[1]
CLASSES: Final = (166, 67)
TOP_K: Final = 10
TRAINING_IMAGES: Final = 200
"""Whole shards train the heads, so this is one of the demo's shards: the other images pass the teacher in predict."""


def main() -> None:
    """Measure the parts that are asked for."""
    parser = make_parser("label", __doc__)
    parser.add_argument("parts", nargs="*", default=["stage", "processes", "student"], help="stage, processes, student")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--shards", default="0000[0-7]", help="of the demo (default: %(default)s)")
    options = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = filtered(options.shards, Path(folder)) if set(options.parts) - {"student"} else None
        for part in options.parts:
            if part == "student":
                found = student(options.rounds)
            else:
                assert run is not None, "the other parts need the filter's output"
                found = {"stage": whole_stage, "processes": processes}[part](run, options.rounds)
            print(json.dumps({"benchmark": "label", "part": part, **found, "torch": torch.__version__}), flush=True)


def filtered(shards: str, folder: Path) -> DihtRun:
    """The demo's run with some shards, filtered by captions alone."""
    sources = json.dumps([{"name": "clips", "shards": [f"examples/data/train/{shards}.tar.gz"]}])
    overrides = [f"data.sources={sources}", f"data.output={folder}/run", "label.workers=1", "filter.workers=1"]
    text = (ROOT / "examples/demo.yaml").read_text()
    run = load(text, name="demo.yaml", overrides=[*overrides, "filter.textSpotting.mode=Disabled"])
    from diht_k8s.stages.filter import stage as filter_stage

    quietly(lambda: run_stage(filter_stage, run, Stage.FILTER))
    return run


def whole_stage(run: DihtRun, rounds: int) -> dict[str, Any]:
    """CPU time of the stage over that of the teacher alone, with and without decoding."""
    assert run.spec.label is not None, "the demo labels"
    teacher = load_teacher(run.spec.label.teacher, Storage(), weights_uri(run.spec.label.teacher), torch.device("cpu"))
    images = [
        sample.image
        for shard in kept_shards(run.spec, Storage(), run_layout(run, Storage()))
        for sample in read_pairs(Storage(), shard)
    ]
    ready = [teacher.preprocess(decode(data)) for data in images]
    label(run)  # loads what is loaded once a process
    competitors: dict[str, Callable[[], object]] = {
        "forward": lambda: forward(teacher, ready),
        "decode_and_forward": lambda: forward(teacher, [teacher.preprocess(decode(data)) for data in images]),
        "decode": lambda: [teacher.preprocess(decode(data)) for data in images],
        "stage": lambda: label(run),
    }
    best = best_cpu(competitors, rounds)
    summary = json.loads((label_folder(run) / "COMMITTED.json").read_text())["summary"]
    return {
        "pictures": len(images),
        "cpu_s": {name: round(seconds, 2) for name, seconds in best.items()},
        "with_decoding": round(best["decode_and_forward"] / best["stage"], 3),
        "without_decoding": round(best["forward"] / (best["stage"] - best["decode"]), 3),
        "bytes_per_picture": summary["bytes_per_picture"],
        "heads_cpu_s": round(heads_seconds(run), 2),
    }


def label(run: DihtRun) -> None:
    """The whole stage from nothing."""
    shutil.rmtree(label_folder(run), ignore_errors=True)
    quietly(lambda: run_stage(label_stage, run, Stage.LABEL))


def label_folder(run: DihtRun) -> Path:
    """Where the run's labels lie."""
    return Path(locate(label_stage, run, Storage(), run_layout(run, Storage()), Stage.LABEL)[0].stage(Stage.LABEL))


def heads_seconds(run: DihtRun) -> float:
    """CPU time of the heads' training and measuring: the step alone, with features and vocabulary there."""
    folder = label_folder(run)
    for name in ("heads.json", "teacher_heads.safetensors", "COMMITTED.json"):
        (folder / name).unlink()
    before = time.process_time()
    quietly(lambda: run_stage(label_stage, run, Stage.LABEL, step="heads"))
    return time.process_time() - before


def forward(teacher: TeacherNetwork, images: list[torch.Tensor]) -> None:
    """The network on ready images, in the batches that the stage takes."""
    for start in range(0, len(images), teacher.batch_size):
        teacher.features(torch.stack(images[start : start + teacher.batch_size]))


def processes(run: DihtRun, rounds: int) -> dict[str, Any]:
    """The step predict in one process of one thread against two, where few images have cached features.

    Wall time, and the CPU time of the busiest process, which a loaded machine stretches less.
    """
    assert run.spec.label is not None, "the demo labels"
    few = run.spec.label.model_copy(update={"max_samples": TRAINING_IMAGES})
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"label": few})})
    folder = label_folder(run)
    shutil.rmtree(folder, ignore_errors=True)
    for step in ("vocabulary", "heads"):
        quietly(lambda step=step: run_stage(label_stage, run, Stage.LABEL, step=step))
    numbers = (1, 2)
    wall, work, start_up = ({number: float("inf") for number in numbers} for _ in range(3))
    for _ in range(rounds):
        for number in numbers:
            shutil.rmtree(folder / "labels", ignore_errors=True)
            (folder / "COMMITTED.json").unlink(missing_ok=True)
            began = time.perf_counter()
            spent = workers(run, number)
            wall[number] = min(wall[number], time.perf_counter() - began)
            start_up[number] = min(start_up[number], max(start for start, _ in spent))
            work[number] = min(work[number], max(worked for _, worked in spent))
    return {
        "wall_s": {str(number): round(wall[number], 1) for number in numbers},
        "start_up_cpu_s": {str(number): round(start_up[number], 1) for number in numbers},
        "busiest_work_cpu_s": {str(number): round(work[number], 1) for number in numbers},
        "wall_ratio": round(wall[1] / wall[2], 2),
        "work_ratio": round(work[1] / work[2], 2),
        "ratio_with_start_up": round((work[1] + start_up[1]) / (work[2] + start_up[2]), 2),
    }


def workers(run: DihtRun, number: int) -> list[tuple[float, float]]:
    """Run the step predict in `number` workers at a time; CPU seconds of each for start-up and for work."""
    environment = {**os.environ, "DIHT_RUN": dump(run), "OMP_NUM_THREADS": "1"}
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks._label_worker", str(worker), str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker in range(number)
    ]
    outputs = [process.communicate()[0] for process in begun]
    if any(process.returncode for process in begun):
        raise SystemExit("a worker of the stage label failed")
    return [
        (float(start_up), float(work)) for start_up, work in (output.splitlines()[-1].split() for output in outputs)
    ]


def student(rounds: int) -> dict[str, Any]:
    """CPU time of a training step of the demo's model without heads over that of one with heads and their loss."""
    train = load((ROOT / "examples/demo.yaml").read_text(), name="demo.yaml").spec.train
    assert train is not None, "the demo trains"
    config = model_configuration(train)
    steps = {name: training_step(config, classes) for name, classes in (("without", (0, 0)), ("with", CLASSES))}
    for step in steps.values():
        step()
    best = best_cpu(steps, 4 * rounds)
    return {
        "batch": 256,
        "cpu_s": {name: round(seconds, 4) for name, seconds in best.items()},
        "ratio": round(best["without"] / best["with"], 3),
    }


def training_step(config: dict[str, Any], classes: tuple[int, int]) -> Callable[[], object]:
    """A step on made-up images and captions: what it costs does not depend on what they show."""
    torch.manual_seed(0)
    batch, size = 256, config["vision_cfg"]["image_size"]
    model = Student(config, num_objects=classes[0], num_attributes=classes[1]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    images_B3HW = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    tokens_BT = torch.randint(1, 40_000, (batch, 16))
    tokens_BT[:, 9] = 49_407
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids_BK = [torch.randint(0, max(1, number), (batch, TOP_K)) for number in classes]
    probabilities_BK, mask_B = torch.full((batch, TOP_K), 1 / TOP_K), torch.ones(batch, dtype=torch.bool)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            features = model(images_B3HW, tokens_BT, 100.0)
        loss = hn_nce_loss(features.image_BD, features.text_BD, features.logit_scale)
        for logits_BC, ids in zip((features.object_logits_BC, features.attribute_logits_BC), ids_BK, strict=True):
            if logits_BC is not None:
                loss = loss + soft_label_loss(logits_BC, ids, probabilities_BK, mask_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def best_cpu(competitors: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each over the rounds, in turn within each round."""
    best = dict.fromkeys(competitors, float("inf"))
    for _ in range(rounds):
        for name, work in competitors.items():
            before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            work()
            best[name] = min(best[name], sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before)
    return best


def quietly(work: Callable[[], object]) -> None:
    """Without the stage's progress lines."""
    with contextlib.redirect_stdout(io.StringIO()):
        work()


if __name__ == "__main__":
    main()
