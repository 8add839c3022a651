"""Commands around evaluation: `diht benchmarks` and `diht convert`."""

from __future__ import annotations

import argparse
from typing import Any


def add_evaluation_commands(commands: Any) -> None:
    """Register them."""
    _add_benchmarks(commands)
    _add_convert(commands)


def _add_benchmarks(commands: Any) -> None:
    parser = commands.add_parser("benchmarks", help="list known benchmarks, and which lie below a folder")
    parser.description = (
        "List the benchmarks of a catalogue; with ROOT, say which lie below it (ROOT/NAME/test/*.tar, the layout of "
        "clip-benchmark). --yaml prints those that are whole as spec.evaluate.benchmarks, ready to be pasted into a run document."
    )
    parser.add_argument("root", metavar="ROOT", nargs="?", help="folder or s3:// prefix that holds benchmarks")
    parser.add_argument(
        "--list", default="diht29", dest="catalogue", metavar="NAME", help="diht29 (default) or datacomp38"
    )
    parser.add_argument("--yaml", action="store_true", help="print a part of a run document")
    parser.set_defaults(command=_benchmarks)


def _benchmarks(options: argparse.Namespace) -> int:
    from diht_k8s.recipe.runtime.stage import exit_code_of

    def work() -> None:
        from diht_k8s.cli.benchmark_list import benchmark_list, benchmark_yaml

        if options.yaml:
            print(benchmark_yaml(options.catalogue, options.root), end="")
        else:
            print(benchmark_list(options.catalogue, options.root))

    return exit_code_of(work)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="write a model in another layout")
    parser.description = (
        "Write a model in another layout. SOURCE is a folder with open_clip_config.json, a checkpoint file (.safetensors, .pt, "
        ".pth, .bin, or a released DiHT .ckpt) or an open_clip NAME/TAG. TARGET is a folder (open_clip's layout), a file "
        "NAME.safetensors (weights alone) or NAME.ckpt (the released DiHT layout; its SHA-256 is put into the name)."
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="open_clip's name of a checkpoint file's architecture, if its shapes do not tell",
    )
    parser.set_defaults(command=_convert)


def _convert(options: argparse.Namespace) -> int:
    def work() -> None:
        from diht_k8s.recipe.evaluation.convert import convert
        from diht_k8s.recipe.shards.storage import Storage

        for uri in convert(options.source, options.target, Storage(), architecture=options.architecture):
            print(uri)

    from diht_k8s.recipe.runtime.stage import exit_code_of

    return exit_code_of(work)
