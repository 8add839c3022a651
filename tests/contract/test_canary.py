"""Files of people survive every command: notes in every folder below an output, and raw shards inside it, byte by byte.

Real programs on 80 drawn images. A new command must be added here: to the steps, or to those that touch no output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file

from diht_k8s.api.layout import STAGE_FILES, pattern_of
from diht_k8s.api.run import Stage
from diht_k8s.cli.arguments import make_parser, parsers_of
from diht_k8s.cli.main import main
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.shards.tar_writer import write_samples
from tests.folders import located
from tests.recipe.evaluate.small_run import CONFIG, draw, pairs

ROOT = Path(__file__).resolve().parents[2]
TEACHER = "test_resnet.r160_in1k"
ON_A_CLUSTER = {"submit", "watch", "why", "retry", "cancel"}
"""They talk to an API server and know no storage."""
STEPS = [
    "doctor out/raw", "validate run.json", "estimate run.json --gpu H100", "parse dog", "plan run.json --image i",
    "stage filter --run run.json", "stage label --run run.json", "stage train --run run.json",
    "stage evaluate --run run.json", "run run.json", "run other.json --until filter", "doctor run.json",
    "concepts run.json", "path run.json filter", "index run.json", "index raw.json", "index raw.json",
    "uids run.json --output out/uids.npy", "explain run.json 1000-4", "report run.json --output out/comparison.html",
    "sweep run.json --seeds 1 --output out/sweep.html", "status out", "list .",
    "logs other.json filter", "purge run.json --exclude list.txt", "index run.json", "stage label --run run.json",
    "convert {model} out/converted", "import photos out/imported", "import photos out/imported --replace",
    "init out/raw --output out/new.yaml", "benchmarks out", "benchmarks-import photos out/benchmark", "completion bash",
    "schema --output out/schema.json", "crd --output out/crd.yaml", "samples --output out/samples", "chart out/chart",
    "prune out", "prune out --keep other", "prune out --keep other --yes", "prune out --yes",
]  # fmt: skip
REFUSING = {"benchmarks-import", "doctor", "estimate", "uids"}
"""What they say of this data is tested elsewhere; here it only matters that nothing is lost."""


FILTER = {"minActions": 0, "textSpotting": {"mode": "Disabled"}, "workers": 1}
TRAIN = {"modelConfig": CONFIG, "samples": 32, "batchSize": 16, "precision": "fp32"}
PLAIN = {**TRAIN, "distillation": {"mode": "Disabled"}}
NOTES = ("notes.txt", ".hidden")


def document(name: str, **spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "data": {"sources": [{"name": "web", "shards": ["out/raw/*.tar"]}], "output": "out"},
        "filter": FILTER,
        "label": {
            "workers": 1, "teacher": {"model": f"timm/{TEACHER}", "weights": "teacher.safetensors", "imageSize": 32},
            "heads": {"epochs": 1, "batchSize": 32}, "topK": 3,
        },
        "train": TRAIN,
        "evaluate": {"benchmarks": [{"name": "pairs", "type": "Retrieval", "shards": ["heldout/0.tar"]}]},
        **spec,
    }  # fmt: skip
    body = {key: value for key, value in body.items() if value is not None}
    return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name}, "spec": body}


class Canary:
    """A person's files below an output."""

    def __init__(self, output: Path) -> None:
        self.output, self.files = output, dict[Path, bytes]()

    def put(self) -> None:
        """A note into each folder that has none yet, with the content of its place."""
        for folder in (
            self.output,
            *(path for path in self.output.rglob("*") if path.is_dir() and not path.is_symlink()),
        ):
            for name in NOTES:
                if (path := folder / name) not in self.files:
                    self.files[path] = str(path).encode()
                    path.write_bytes(self.files[path])

    def lost(self) -> list[str]:
        return [
            str(path.relative_to(self.output)) for path, content in self.files.items()
            if not path.is_file() or path.read_bytes() != content
        ]  # fmt: skip


def test_every_command_is_walked_or_touches_no_output() -> None:
    assert {step.split()[0] for step in STEPS} | ON_A_CLUSTER == set(parsers_of(make_parser()))


@pytest.mark.timeout(900)
def test_files_of_people_survive_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    canary = Canary(tmp_path / "out")
    canary.files |= {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.tar")}
    canary.put()
    for step in STEPS:
        code = walk(step)
        assert (canary.lost(), step) == ([], step)
        assert code == 0 or step.split()[0] in REFUSING, step
        assert unknown(tmp_path / "out") == [], step
        canary.put()
    left = {path.parents[1].name for path in (tmp_path / "out").glob("*/*/STARTED.json")}
    assert left == {"filter"}, "what only the other run needs has gone"


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
    command = [sys.executable, "-P", "-m", "diht_k8s.cli", *words]
    return subprocess.run(command, env=env, timeout=600, check=False).returncode


def unknown(output: Path) -> list[str]:
    """Files in stage folders that are neither notes nor known as ours."""
    return [
        str(path)
        for stage in Stage
        for path in output.glob(f"{stage}/????????????????/**/*")
        if path.is_file() and path.name not in NOTES
        and pattern_of(str(path.relative_to(output)).split("/", 2)[2], STAGE_FILES[stage]) is None
    ]  # fmt: skip
