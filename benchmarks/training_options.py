"""WSD and stages of the resolution beside a cosine at one size, by `ablation/PROTOCOL-3.md`.

Prints means, and differences paired over seeds: of the loss with t intervals of 98.3 %, of R@5, chosen after the
results, of 95 %.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._arguments import make_parser

PUBLISHED: Final = Path(__file__).parent / "ablation/options.jsonl"
VARIANTS: Final = ("cosine", "wsd", "stages", "short")
COMPARED: Final = (("wsd", "cosine"), ("stages", "cosine"), ("stages", "short"))
AFTERWARDS: Final = (("short", "cosine"),)
"""Not in the protocol: how much of a training's length the measure sees."""
EXPLORED: Final = "style R@5"
"""Chosen after the results, for what the loss hardly sees; its intervals are of 95 %, each by itself."""
SAMPLES: Final = 64_000
"""Of all variants but the short one."""
LEVEL: Final = 1 - 0.05 / len(COMPARED)
MEASURE: Final = "validation_loss"
ACCURACIES: Final = ("validation_image_to_text_top1", "validation_text_to_image_top1")
GALLERIES: Final = ("style-names", "style")


def collect(output: Path) -> list[dict[str, Any]]:
    """The committed trainings of whole seeds of an output, with their evaluations where there are any, by seed and
    variant.
    """
    evaluated = {_started(folder)["reads"]["train"]: folder for folder in _committed(output / "evaluate")}
    found: list[dict[str, Any]] = []
    for folder in _committed(output / "train"):
        config = _started(folder)["config"]
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        line = {"variant": variant_of(config["config"]), "seed": config["seed"], "steps": last["step"]}
        line |= {name: last[name] for name in (MEASURE, *ACCURACIES)}
        if (evaluation := evaluated.get(f"train/{folder.name}")) is not None:
            line |= _recalls(json.loads((evaluation / "report.json").read_text()))
        found.append(line)
    of_seed = Counter(line["seed"] for line in found)
    whole = [line for line in found if of_seed[line["seed"]] == len(VARIANTS)]
    return sorted(whole, key=lambda line: (line["seed"], VARIANTS.index(line["variant"])))


def _committed(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/COMMITTED.json"))


def _started(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "STARTED.json").read_text())


def variant_of(config: Mapping[str, Any]) -> str:
    """The variant of a training by what its settings say beside the defaults."""
    if config["samples"] != SAMPLES:
        return "short"
    if "stages" in config:
        return "stages"
    return "wsd" if config["schedule"].get("type") == "WSD" else "cosine"


def _recalls(report: Mapping[str, Any]) -> dict[str, float]:
    """R@5 in percent of the galleries, the mean of both directions."""
    found: dict[str, float] = {}
    for each in report["benchmarks"]:
        if each["name"] in GALLERIES:
            sides = [each[side]["recall"]["5"] for side in ("text_to_image", "image_to_text")]
            found[f"{each['name']} R@5"] = round(50 * sum(sides), 3)
    return found


def difference(
    lines: Sequence[Mapping[str, Any]], one: str, other: str, measure: str = MEASURE, level: float = LEVEL
) -> tuple[float, float, float]:
    """Mean of one variant's measure less the other's over the seeds that have both, and the ends of its interval."""
    from scipy import stats

    found = {(line["variant"], line["seed"]): line[measure] for line in lines if measure in line}
    seeds = sorted({line["seed"] for line in lines})
    gaps = np.array([found[one, s] - found[other, s] for s in seeds if {(one, s), (other, s)} <= found.keys()])
    half = stats.t.ppf((1 + level) / 2, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    mean = float(gaps.mean())
    return mean, mean - float(half), mean + float(half)


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means by variant, and the protocol's differences."""
    names = [name for name in lines[0] if name not in ("variant", "seed", "steps")]
    means = {
        variant: {
            name: round(float(np.mean([line[name] for line in lines if line["variant"] == variant])), 4)
            for name in names
        }
        for variant in VARIANTS
    }

    def gaps(measure: str, level: float) -> dict[str, list[float]]:
        pairs = (*COMPARED, *AFTERWARDS)
        return {f"{a} - {b}": [round(each, 4) for each in difference(lines, a, b, measure, level)] for a, b in pairs}

    explored = {"chosen after the results": {EXPLORED: gaps(EXPLORED, 0.95)}} if EXPLORED in names else {}
    return {
        "benchmark": "training_options",
        "seeds": len({line["seed"] for line in lines}),
        "means": means,
        MEASURE: gaps(MEASURE, LEVEL),
        **explored,
    }


def main() -> None:
    """Run it."""
    parser = make_parser("training_options", __doc__)
    parser.add_argument("--collect", type=Path, metavar="OUTPUT", help="publish the trainings of this output first")
    options = parser.parse_args()
    if options.collect is not None:
        PUBLISHED.write_text("".join(json.dumps(line) + "\n" for line in collect(options.collect)))
    print(json.dumps(summary([json.loads(line) for line in PUBLISHED.read_text().splitlines()])))


if __name__ == "__main__":
    main()
