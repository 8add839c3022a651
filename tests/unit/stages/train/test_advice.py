"""Advice: CPUs that feed a card, and the card that a node's label names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.pods import merged
from diht_k8s.stages.train.estimate.advice import IMAGES_PER_CORE, advice, cpus_needed, starved
from diht_k8s.stages.train.estimate.gpus import GPUS, gpu_of, name_of_product

SAMPLES = Path(__file__).parents[4] / "manifests" / "samples"


def estimated(images: float, *, ranks: int = 8, nodes: int = 2) -> Any:
    """An estimate by the images a second that each pod trains."""
    pace = SimpleNamespace(samples_per_second=images * nodes)
    return SimpleNamespace(gpu="H100", nodes=nodes, processes_per_node=ranks, pace=pace, utilisation=0.45)


@pytest.mark.parametrize(
    ("images", "size", "cpus"),
    [(8 * 408, "mix", 16), (8 * 409, "mix", 24), (8 * 408, "1024x768", 24), (1.0, "mix", 16), (8 * 4080, "mix", 88)],
)
def test_cpus_when_images_a_second_are_known_then_one_for_each_rank_and_its_workers(
    images: float, size: str, cpus: int
) -> None:
    assert cpus_needed(estimated(images), size) == cpus


@pytest.mark.parametrize(
    ("cpus", "workers", "warns"),
    [
        (88, None, False),
        (87.9, None, True),
        (None, None, False),
        (None, 10, False),
        (None, 9, True),
        (88, 9, True),
        (40, 10, True),
        (1, 0, True),
    ],
)
def test_pod_when_it_has_fewer_cpus_than_its_cards_need_then_one_line(
    cpus: float | None, workers: int | None, warns: bool
) -> None:
    lines = starved(estimated(8 * 4080), cpus, workers)
    assert len(lines) == int(warns)
    assert all("ask for cpu 88" in line and "of 32,640 images/s" in line for line in lines)


def test_speeds_when_images_are_smaller_then_higher() -> None:
    assert IMAGES_PER_CORE["512x384"] > IMAGES_PER_CORE["512x512"] > IMAGES_PER_CORE["1024x768"]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H100-PCIe", "H100-PCIe"),
        ("nvidia-h100-80gb", "H100"),
        ("NVIDIA-H200", "H200"),
        ("nvidia-h200-141gb", "H200"),
        ("NVIDIA-B200", "B200"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80"),
        ("NVIDIA-A100-PCIE-40GB", "A100-40"),
        ("nvidia-tesla-a100", "A100-40"),
        ("nvidia-a100-80gb", "A100-80"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-L4", "L4"),
        ("NVIDIA-A10G", "A10G"),
        ("Tesla-V100-SXM2-16GB", None),
        ("Tesla-T4", "T4"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", None),
        ("NVIDIA-L40", None),
        ("NVIDIA-H200-NVL", None),
        ("NVIDIA-GeForce-RTX-3090", "RTX-3090"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090"),
        ("NVIDIA-RTX-A6000", "RTX-A6000"),
        ("NVIDIA-RTX-6000-Ada-Generation", "RTX-6000-Ada"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000"),
        ("NVIDIA-GeForce-RTX-3090-Ti", None),
        ("NVIDIA-GeForce-RTX-4090-D", None),
        ("NVIDIA-GeForce-RTX-4090-Laptop-GPU", None),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition", None),
        ("Quadro-RTX-6000", None),
    ],
)
def test_card_when_a_label_names_it_then_found(label: str, name: str | None) -> None:
    assert name_of_product(label) == name
    assert name is None or name in GPUS


@pytest.mark.parametrize("given", ["RTX4090", "rtx-4090", "RTX 4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090"])
def test_card_when_it_is_named_as_people_do_then_found(given: str) -> None:
    assert gpu_of(given).name == "RTX-4090"


def test_samples_when_they_train_on_8_gpus_then_their_cpus_feed_8_h100() -> None:
    runs = [load(path.read_text(), name=path.name) for path in sorted(SAMPLES.glob("*.yaml"))]
    asked = {}
    for run in runs:
        if run.spec.train is None:
            continue
        resources = merged(run.spec.pods, run.spec.train.pods).resources
        if resources.get("nvidia.com/gpu") == 8:
            asked[run.spec.train.model, run.spec.train.micro_batch_size, resources["cpu"]] = run
    assert [key[0] for key in asked] == ["ViT-B-16"]  # one estimate answers for all
    assert [advice(run, "H100") for run in asked.values()] == [[]]
