"""What each part of the demo's training adds, by seed: R@5 in both directions and zero-shot accuracy in percent; R@5
minus the BPE ridge at the same dimension, paired over the images.

The variants: the ridge start with word vectors and without; contrast alone and regression alone, each at the end of the
training; both at the end; both, chosen on development. Filter and label are made once. The variants are compared on
the development split; only `start`, `end` and `chosen` with `--split HeldOut` are meant for the report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks._arguments import make_parser

ROOT: Final = Path(__file__).resolve().parent.parent
WITHOUT_WORDS: Final = ["train.words=null", "train.distillation.regression=null"]
VARIANTS: Final = {
    "ridge": ["train.interpolate=[0]", *WITHOUT_WORDS],
    "start": ["train.interpolate=[0]"],
    "contrast": ["train.interpolate=[1]", "train.distillation.regression=null"],
    "regression": ["train.interpolate=[1]", "train.distillation.regression.weight=1e6"],
    "end": ["train.interpolate=[1]"],
    "chosen": [],
}
"""Fields that differ from the demo's. AdamW ignores a loss's scale, so a weight of 1e6 leaves contrast no part."""


def main() -> None:
    """Train each variant with each seed and print a line for each."""
    parser = make_parser("words", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--split", choices=["Development", "HeldOut"], default="Development")
    parser.add_argument("--workdir", help="keeps the stages' outputs there (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = arguments.workdir or folder
        for seed in arguments.seeds:
            for variant in arguments.variants:
                fields = [f"train.seed={seed}", f"evaluate.split={arguments.split}", *VARIANTS[variant]]
                result = {"benchmark": "words", "variant": variant, "seed": seed, **measured(fields, workdir)}
                print(json.dumps(result), flush=True)


def measured(fields: list[str], workdir: str) -> dict[str, Any]:
    """Figures of the demo with some fields changed."""
    changes = [part for field in fields for part in ("--set", field)]
    command = [Path(sys.executable).parent / "diht", "run", "examples/demo.yaml", "--workdir", workdir, *changes]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    report = json.loads((ROOT / workdir / "runs/demo/runs/latest/evaluate/report.json").read_text())
    retrieval, classes = (
        next(each for each in report["benchmarks"] if each["name"].endswith(name))
        for name in ("-retrieval", "-classes")
    )
    directions = ("text_to_image", "image_to_text")
    recalls = {"model": retrieval, **{each["name"]: each for each in retrieval["references"]}}
    return {
        "r5": {
            name: [round(100 * each[key]["recall"]["5"], 1) for key in directions] for name, each in recalls.items()
        },
        "above_ridge": [
            [round(100 * value, 1) for value in (found["value"], *found["interval"])]
            for found in (retrieval["references"][0]["difference"][key] for key in directions)
        ],
        "zero_shot": round(100 * classes["top1"], 1),
    }


if __name__ == "__main__":
    main()
