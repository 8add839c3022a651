"""How often a training step waits for the device: ours and DeepSpeed 0.19.8's.

On the tests' stand-in accelerator, no GPU; without the first step.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._arguments import make_parser
from tests.recipe.train.small_run import RANK_PROGRAM, Job, document, make_data, train_in_ranks

STEPS, BATCH = 3, 16
SETTINGS: dict[str, dict[str, Any]] = {
    "0": {"zeroStage": 0},
    "1": {"zeroStage": 1},
    "2": {"zeroStage": 2},
    "2, offload Optimizer": {"zeroStage": 2, "offload": "Optimizer"},
    "3": {"zeroStage": 3},
}


def main() -> None:
    """Count and print."""
    parser = make_parser("waits", __doc__)
    parser.add_argument("--places", action="store_true", help="print file and line of each wait")
    parser.add_argument("--trace", action="store_true", help="print what follows what in a step of ZeRO 0")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_data(folder / "data")
        found = {ranks: _counted(folder, ranks) for ranks in arguments.ranks}
    print("| zeroStage | ranks | ours | DeepSpeed's |\n|---|---|---|---|")
    for ranks, results in found.items():
        for name, result in results.items():
            *_, last = result["waits"]
            print(f"| {name} | {ranks} | {last.get('diht_k8s', 0)} | {last.get('deepspeed', 0)} |")
    if arguments.places:
        for ranks, results in found.items():
            for name, result in results.items():
                print(f"\nzeroStage {name}, ranks {ranks}")
                for line, count in Counter(result["places"][-1]).most_common():
                    print(f"{count:4} {line}")
    if arguments.trace:
        for ranks, results in found.items():
            print(f"\nzeroStage 0, ranks {ranks}: {' | '.join(_order(results['0']['trace']))}")


def _order(trace: list[tuple[str, str]]) -> list[str]:
    """What follows what from the end of the second step to that of the third."""
    ends = [place for place, each in enumerate(trace) if each == ("host", "ends the step")]
    order: list[str] = []
    for stream, what in trace[ends[1] : ends[2] + 1]:
        kind = "computes, collectives" if what in ("computes", "collective") else what
        kind += "" if stream in ("host", "compute") else ", on a stream of its own"
        if order[-1:] != [kind]:
            order.append(kind)
    return order


def _counted(folder: Path, ranks: int) -> dict[str, Any]:
    jobs = {
        name: Job(document(folder / f"{name} {ranks}", data=folder / "data", samples=STEPS * BATCH, **train))
        for name, train in SETTINGS.items()
    }
    program = RANK_PROGRAM.with_name("stand_in_rank.py")
    results = train_in_ranks(ranks, jobs, folder / f"ranks-{ranks}", program=program)
    for name, result in results.items():
        if result["error"] is not None:
            raise SystemExit(f"zeroStage {name}, {ranks} ranks: {result['error']}")
    return results


if __name__ == "__main__":
    main()
