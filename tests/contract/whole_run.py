"""A small whole run of real programs on drawn images, for tests that look at all that it leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file

from diht_k8s.api.layout import STAGE_FILES, pattern_of
from diht_k8s.api.run import Stage
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.contract.local import FORKED
from tests.folders import located
from tests.recipe.evaluate.small_run import CONFIG, draw, pairs
from tests.recipe.train import fork_server

ROOT = Path(__file__).resolve().parents[2]
TEACHER = "test_resnet.r160_in1k"
FILTER = {"minActions": 0, "textSpotting": {"mode": "Disabled"}, "workers": 1}
TRAIN = {"modelConfig": CONFIG, "samples": 32, "batchSize": 16, "precision": "fp32"}
PLAIN = {**TRAIN, "distillation": {"mode": "Disabled"}}
IMPORTED = (FORKED, *fork_server.TRAINING, "spacy.lang.en", *(f"diht_k8s.stages.{stage}.stage" for stage in Stage))
NOTES = ("notes.txt", ".hidden")


def document(name: str, **spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "data": {"sources": [{"name": "web", "shards": ["out/raw/*.tar"]}], "output": "out"},
        "filter": FILTER,
        "label": {
            "workers": 1,
            "teacher": {"model": f"timm/{TEACHER}", "weights": "teacher.safetensors", "imageSize": 32},
            "heads": {"epochs": 1, "batchSize": 32},
            "topK": 3,
        },
        "train": TRAIN,
        "evaluate": {"benchmarks": [{"name": "pairs", "type": "Retrieval", "shards": ["heldout/0.tar"]}]},
        **spec,
    }
    body = {key: value for key, value in body.items() if value is not None}
    return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name}, "spec": body}


def prepare() -> None:
    storage = Storage()
    for number in range(2):
        write_samples(storage, f"out/raw/{number}.tar", pairs(40, 1000 * (number + 1)))
    write_samples(storage, "heldout/0.tar", pairs(12, 9000))
    weights = timm.create_model(TEACHER).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, "teacher.safetensors")
    Path("list.txt").write_text("1000-3\n")
    Path("run.json").write_text(json.dumps(document("tiny")))
    bare: dict[str, Any] = {"label": None, "evaluate": None, "train": PLAIN}
    Path("raw.json").write_text(json.dumps(document("raw", filter=None, **bare)))
    Path("other.json").write_text(json.dumps(document("other", filter={**FILTER, "minComplexity": 0}, **bare)))
    for number in range(3):
        Path("photos").mkdir(exist_ok=True)
        Path(f"photos/{number}.png").write_bytes(draw("red", "disc", number))
        Path(f"photos/{number}.txt").write_text(f"a red disc {number}")


def walk(step: str) -> int:
    words = step.format(model=located("out").model if "{model}" in step else "").split()
    if words[0] != "run" and words[:2] != ["stage", "train"]:
        return main(words)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return fork_server.start(FORKED, str(Path.cwd()), *words, variables=env, modules=IMPORTED).wait(600)


def unknown(output: Path) -> list[str]:
    """Files in stage folders that are neither notes nor known as ours."""
    return [
        str(path)
        for stage in Stage
        for path in output.glob(f"{stage}/????????????????/**/*")
        if path.is_file()
        and path.name not in NOTES
        and pattern_of(str(path.relative_to(output)).split("/", 2)[2], STAGE_FILES[stage]) is None
    ]
