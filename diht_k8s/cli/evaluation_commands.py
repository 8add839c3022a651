"""Commands around evaluation: `diht convert`."""

from __future__ import annotations

import argparse
from typing import Any


def add_evaluation_commands(commands: Any) -> None:
    """Register them."""
    _add_convert(commands)


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
