"""Files of people survive every command: notes in every folder below an output, and raw shards inside it, byte by byte.

Real programs on 80 drawn images. A new command must be added here: to the steps, or to those that touch no output.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.cli.arguments import make_parser, parsers_of
from tests.contract.whole_run import NOTES, prepare, unknown, walk

ON_A_CLUSTER = {"submit", "watch", "retry", "cancel"}
"""They talk to an API server and know no storage."""
STEPS = [
    "doctor out/raw",
    "validate run.json",
    "estimate run.json --gpu H100",
    "parse dog",
    "plan run.json --set pods.image=i",
    "stage filter --run run.json",
    "stage label --run run.json",
    "stage train --run run.json",
    "stage evaluate --run run.json",
    "run run.json",
    "run other.json --until filter",
    "doctor run.json",
    "concepts run.json",
    "path run.json filter",
    "index run.json",
    "index raw.json",
    "index raw.json",
    "uids run.json --output out/uids.npy",
    "explain run.json 1000-4",
    "report run.json --output out/comparison.html",
    "sweep run.json --seeds 1 --output out/sweep.html",
    "status out",
    "list .",
    "logs other.json filter",
    "purge run.json --exclude list.txt",
    "index run.json",
    "stage label --run run.json",
    "convert {model} out/converted",
    "import photos out/imported",
    "import photos out/imported --replace",
    "init out/raw --output out/new.yaml",
    "benchmarks out",
    "benchmarks-import photos out/benchmark",
    "completion bash",
    "schema --output out/schema.json",
    "crd --output out/crd.yaml",
    "samples --output out/samples",
    "chart out/chart",
    "prune out",
    "prune out --keep other",
    "prune out --keep other --yes",
    "prune out --yes",
]
REFUSING = {"benchmarks-import", "doctor", "estimate", "uids"}
"""What they say of this data is tested elsewhere; here it only matters that nothing is lost."""


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
            str(path.relative_to(self.output))
            for path, content in self.files.items()
            if not path.is_file() or path.read_bytes() != content
        ]


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
