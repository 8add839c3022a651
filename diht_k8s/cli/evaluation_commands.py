"""Commands around evaluation: `diht benchmarks`, `diht convert` and `diht report`."""

from __future__ import annotations

import argparse
from typing import Any


def add_evaluation_commands(commands: Any) -> None:
    """Register them."""
    _add_benchmarks(commands)
    _add_convert(commands)
    _add_report(commands)


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
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this benchmark only; may be repeated"
    )
    parser.add_argument("--yaml", action="store_true", help="print a part of a run document")
    parser.set_defaults(command=_benchmarks)


def _benchmarks(options: argparse.Namespace) -> int:
    from diht_k8s.recipe.runtime.stage import exit_code_of

    def work() -> None:
        from diht_k8s.cli.benchmark_list import benchmark_list, benchmark_yaml

        if options.yaml:
            print(benchmark_yaml(options.catalogue, options.root, options.only), end="")
        else:
            print(benchmark_list(options.catalogue, options.root, options.only))

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
        from diht_k8s.recipe.evaluate.models.convert import convert
        from diht_k8s.recipe.shards.storage import Storage

        for uri in convert(options.source, options.target, Storage(), architecture=options.architecture):
            print(uri)

    from diht_k8s.recipe.runtime.stage import exit_code_of

    return exit_code_of(work)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser("report", help="compare the evaluations of several runs side by side")
    parser.description = (
        "Compare evaluations side by side: a table on stdout and a page. Each RUN is a run's output folder, or its report.json. "
        "Runs that differ in nothing but the seed are one column with its spread."
    )
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--output", metavar="FILE", default="comparison.html", help="the page (comparison.html)")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from diht_k8s.recipe.runtime.stage import exit_code_of

    def work() -> None:
        from diht_k8s.cli.comparing import compare

        print(compare(options.runs, options.output))

    return exit_code_of(work)
