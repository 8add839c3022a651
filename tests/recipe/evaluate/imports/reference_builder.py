"""clip-benchmark's command on small originals: it reads them by its own builder and downloads nothing.

Runs in clip-benchmark's environment: `python reference_builder.py MODEL OUTPUT ROOTS TASK DATASET...`; ROOTS holds
`{dataset}`.
"""

from __future__ import annotations

import sys

import clip_benchmark.cli
import torchvision.datasets


def trust_files() -> None:
    """Drawn files do not have the checksums of the originals, and what is there need not be fetched."""
    for name in ("cifar", "stl10", "flowers102"):
        module = getattr(torchvision.datasets, name)
        module.check_integrity = lambda *_, **__: True
    for name in ("CIFAR10", "CIFAR100", "StanfordCars", "STL10", "MNIST", "Flowers102", "FGVCAircraft", "Food101"):
        kind = getattr(torchvision.datasets, name)
        for method in ("download", "_download"):
            if hasattr(kind, method):
                setattr(kind, method, lambda self: None)


def main() -> None:
    """Evaluate each data set; metrics go to OUTPUT/DATASET.json."""
    model, output, roots, task, *names = sys.argv[1:]
    trust_files()
    sys.argv[1:] = [
        *(
            "eval",
            "--dataset",
            *names,
            "--dataset_root",
            roots,
            "--task",
            task,
            "--output",
            f"{output}/{{dataset}}.json",
        ),
        *("--model", f"local-dir:{model}", "--pretrained", "", "--no_amp", "--quiet", "--num_workers", "0"),
        *("--recall_k", "1", "5", "10"),
    ]
    clip_benchmark.cli.main()


if __name__ == "__main__":
    main()
