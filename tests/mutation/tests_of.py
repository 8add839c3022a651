"""Which tests answer for a module: the ones that the mutation driver runs against its mutants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_UNIT: Final = "tests/unit/stages/train/test_"
_RECIPE: Final = "tests/recipe/train/test_"
_TRAIN: Final = "diht_k8s.stages.train."

_OF_OBSERVATION: Final = [
    f"tests/unit/controller/test_{name}.py"
    for name in ("observe", "after_the_end", "runs", "budget", "first_seen", "nodes", "ownership")
]

_OF_PLANNING: Final = ["tests/unit/pipeline", "tests/unit/controller"]

CORE: Final[dict[str, list[str]]] = {
    "diht_k8s.pipeline.attempts": _OF_PLANNING,
    "diht_k8s.pipeline.failure_policy": _OF_PLANNING,
    "diht_k8s.pipeline.plan": _OF_PLANNING,
    "diht_k8s.pipeline.run_status": _OF_PLANNING,
    "diht_k8s.controller.observe": _OF_OBSERVATION,
    "diht_k8s.stages.filter.text_spotting.matching": ["tests/unit/stages/filter/test_matching.py"],
    "diht_k8s.stages.filter.minhash_forest": ["tests/unit/stages/filter/test_minhash_forest.py"],
    "diht_k8s.stages.filter.deduplication": ["tests/unit/stages/filter/test_repeat_search.py"],
    "diht_k8s.stages.train.data.sampler": ["tests/unit/stages/train/test_sampler.py"],
    "diht_k8s.stages.train.loss.losses": [
        "tests/unit/stages/train/test_losses.py",
        "tests/unit/stages/train/test_losses.py",
    ],
    "diht_k8s.stages.train.loss.embedding_distillation": ["tests/unit/stages/train/test_losses.py"],
    "diht_k8s.stages.train.loss.hn_nce": ["tests/unit/stages/train/test_losses.py"],
}
"""The planner, what it observes, and the pure parts of the recipe."""


def _tests(unit: str = "", recipe: str = "") -> list[str]:
    return [*(f"{_UNIT}{name}.py" for name in unit.split()), *(f"{_RECIPE}{name}.py" for name in recipe.split())]


TRAIN: Final[dict[str, list[str]]] = {
    f"{_TRAIN}{module}": tests
    for module, tests in {
        "checkpoint.checkpoint": _tests("checkpoint", "shared_state"),
        "checkpoint.checkpointer": _tests("checkpoint", "one_rank"),
        "checkpoint.fencing": _tests("checkpoint"),
        "checkpoint.init_from": _tests("stage", "warm_start"),
        "checkpoint.tensors": _tests("checkpoint", "one_rank warm_start stand_in"),
        "checkpoint.warm_start": _tests("", "warm_start"),
        "compiler": _tests("compiling"),
        "collectives": _tests("checkpoint", "rendezvous losses_distributed one_rank stand_in"),
        "data.augment": _tests("augment", "loader"),
        "data.normalisation": _tests("augment", "one_rank"),
        "data.batch": _tests("batch", "loader one_rank"),
        "data.collate": _tests("", "loader"),
        "data.dataset": _tests("", "loader"),
        "data.loader": ["tests/unit/runtime/test_preflight.py", *_tests("", "loader")],
        "deepspeed_engine": _tests("engine", "gradient_reduction collective_order"),
        "data.sampler": _tests("sampler"),
        "engine": _tests("engine", "one_rank options"),
        "flops": _tests("estimate", "flops"),
        "loop": _tests("", "one_rank options"),
        "loss.embedding_distillation": _tests("losses", "losses_distributed"),
        "loss.hn_nce": _tests("losses"),
        "loss.hn_nce_fused": _tests("", "hn_nce_fused hn_nce_kernels"),
        "loss.hn_nce_kernels": _tests("", "hn_nce_fused hn_nce_kernels"),
        "loss.losses": _tests("losses", "hn_nce_kernels"),
        "metrics": _tests("telemetry"),
        "model.batch_norm": _tests("", "batch_norm"),
        "model.configurations": _tests("configurations"),
        "model.export": _tests("card", "warm_start one_rank"),
        "model.student": _tests("image_sizes", "model one_rank"),
        "precision": _tests("precision"),
        "optimizer": _tests("schedule engine", "model"),
        "setup": _tests("setup", "one_rank batch_norm"),
        "stage": _tests("stage", "bad_input"),
        "telemetry": _tests("telemetry", "one_rank"),
        "validation": _tests("", "one_rank"),
    }.items()
} | {"diht_k8s.runtime.indexing": ["tests/unit/runtime/test_indexing.py"]}
"""All of the training but its estimate, and the index that it completes."""

_STAGE: Final = "tests/recipe/evaluate/test_stage.py"


def _evaluate(unit: str = "", recipe: str = "", stage: str = "", imports: str = "") -> list[str]:
    """Unit tests come first, since they end a mutant soonest; of the stage's tests only some are named."""
    return [
        *(f"tests/unit/stages/evaluate/test_{name}.py" for name in unit.split()),
        *(f"tests/recipe/evaluate/test_{name}.py" for name in recipe.split()),
        *(f"tests/recipe/evaluate/imports/test_{name}.py" for name in imports.split()),
        *(f"{_STAGE}::test_{name}" for name in stage.split()),
    ]


_ANSWERS: Final = "answers_when_ranked_equal_open_clip_question_by_question"
_LOST: Final = "stage_when_a_worker_is_lost_ends_in_the_same_bytes_each_shard_encoded_once"
_FAILS: Final = "stage_when_one_benchmark_fails_keeps_the_others_and_says_which"
_CAPTIONS: Final = "benchmark_when_images_have_several_captions_or_cannot_be_read_counts_them"

EVALUATE: Final[dict[str, list[str]]] = {
    f"diht_k8s.stages.evaluate.{module}": tests
    for module, tests in {
        "answer_ranking": _evaluate("answer_ranking", "", f"{_ANSWERS} {_FAILS}"),
        "benchmark_images": _evaluate("benchmark_images", "decode prefetch", _CAPTIONS),
        "catalogue.discovery": _evaluate("", "folder_names catalogue"),
        "class_texts": _evaluate(
            "benchmark_images classification soundness", "class_texts packaged_texts folder_names", ""
        ),
        "classification": _evaluate("classification task_figures", "report_contents", _CAPTIONS),
        "encoding": _evaluate("benchmark_images", "prefetch", f"{_LOST} {_CAPTIONS}"),
        "few_shot": _evaluate("few_shot task_figures"),
        "group_tasks": _evaluate("group_tasks", "group_tasks"),
        "importing": _evaluate("", "packaged_texts", imports="import import_input"),
        "measure": _evaluate("soundness", "group_tasks", f"{_ANSWERS} {_CAPTIONS}"),
        "results": _evaluate("task_figures", "", _LOST),
        "retrieval": _evaluate("retrieval task_figures", "report_contents", _CAPTIONS),
        "ridge_reference": _evaluate("", "ridge_reference report_contents"),
        "scores": _evaluate("scores retrieval"),
        "soundness": _evaluate("soundness", "broken_models"),
        "stage": _evaluate("", "evaluation_only broken_models", f"{_LOST} {_CAPTIONS}"),
    }.items()
} | {"diht_k8s.models.features": _evaluate("", "text_length")}
"""The evaluation but its models and its progress lines."""

OTHERS: Final = {f"diht_k8s.pipeline.{name}": _OF_PLANNING for name in ("elasticity", "goodput")}
"""Outside of the sets: what other modules' tests answer for."""

SETS: Final = {"core": CORE, "train": TRAIN, "evaluate": EVALUATE}

_TIERS: Final = ("unit", "contract", "fuzz", "recipe", "s3")
_ROOT: Final = Path(__file__).parents[2]


def tests_of(module: str) -> list[str]:
    """The tests that answer for any module of the product: those of the tables, else the files that import it, the
    cheapest tier first.
    """
    for table in (*SETS.values(), OTHERS):
        if module in table:
            return table[module]
    package, _, name = module.rpartition(".")
    imports = re.compile(rf"{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    files = [file for tier in _TIERS for file in sorted((_ROOT / "tests" / tier).rglob("test_*.py"))]
    return [str(file.relative_to(_ROOT)) for file in files if imports.search(file.read_text())]
