"""`diht init`: looks at shards and at this machine, and writes a run document whose defaults fit. It never asks."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from diht_k8s.cli.onboarding.defaults import Machine
    from diht_k8s.recipe.shards.storage import Storage

PLACES: Final = ("laptop", "gpu-node", "cluster")
SHARDS: Final = ("*.tar", "*.tar.gz", "*.tgz")
MAX_NAME: Final = 40
FILE: Final = "run.yaml"


def add_init(commands: Any) -> None:
    """Add the command to a parser's commands."""
    parser = commands.add_parser("init", help="look at shards and this machine, and write a run document that fits")
    parser.description = (
        "Look at shards of image-caption pairs (counts, image sizes, captions) and at this machine, and write a "
        "commented run document: model, batch, samples, topK, minCount, workers, thresholds, and a held-out split by "
        "groups, whose pairs are copied to runs/NAME-held-out. It never asks; what it chose stands in the document."
    )
    parser.add_argument(
        "data", metavar="DATA", nargs="?", default=".", help="folder or s3:// prefix of the shards, or a pattern (.)"
    )
    parser.add_argument("--output", metavar="FILE", default=FILE, help=f"the run document ({FILE})")
    parser.add_argument("--name", metavar="NAME", help="name of the run; that of DATA's folder if unset")
    parser.add_argument(
        "--for", choices=PLACES, dest="place", metavar="PLACE",
        help="laptop, gpu-node or cluster; this machine's if unset: gpu-node where it has a GPU",
    )  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_init)


def _init(options: argparse.Namespace) -> int:
    from diht_k8s.api.documents import load
    from diht_k8s.api.errors import ExitCode, UserError
    from diht_k8s.cli.imports import progress_bar
    from diht_k8s.cli.onboarding.defaults import choose_defaults
    from diht_k8s.cli.onboarding.run_template import RunNames, render_document
    from diht_k8s.recipe.filter import CaptionParser
    from diht_k8s.recipe.inspection.dataset_profile import MAX_PROFILED, profile_dataset
    from diht_k8s.recipe.inspection.held_out import write_held_out
    from diht_k8s.recipe.shards.storage import Storage

    path = Path(options.output).expanduser()
    if path.exists() and not options.replace:
        raise UserError(
            f"{path} exists: diht init ... --output OTHER.yaml writes another file, --replace this one again"
        )
    storage = Storage()
    patterns = shard_patterns(storage, options.data)
    name = run_name(options.name or options.data)
    with progress_bar("pairs") as bar:
        task = bar.add_task("look at", total=None)
        look = profile_dataset(
            storage, storage.expand(patterns), CaptionParser(), lambda: bar.advance(task), most=MAX_PROFILED
        )
    machine = this_machine()
    place = options.place or ("gpu-node" if machine.gpus else "laptop")
    base = options.data.rstrip("/").rpartition("/")[0] if options.data.startswith("s3://") else "runs"
    names = RunNames(name, patterns, f"{base}/{name}", f"{base}/{name}-held-out")
    held = write_held_out(storage, look, names.held_out)
    text = render_document(names, look, held, machine, choose_defaults(look, held, machine, place))
    run = load(text, name=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if options.json:
        facts = {"pairs": look.total, "held_out": len(held.pairs), "held_out_folder": names.held_out}
        print(json.dumps({"file": str(path), "run": run.metadata.name, "for": place, **facts}))
        return ExitCode.DONE
    print(f"{path}: run {run.metadata.name} for {place}; {len(held.pairs)} groups are held out in {names.held_out}")
    print(f"to start it: diht {'submit' if place == 'cluster' else 'run'} {path}")
    return ExitCode.DONE


def run_name(text: str) -> str:
    """A run's name made of a folder's: lower-case letters, digits and dashes."""
    parts = [
        part for part in text.split("/") if part not in ("", ".", "..") and not any(sign in part for sign in "*?[{")
    ]
    words = parts[-1].partition(".")[0] if parts else Path.cwd().name
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:MAX_NAME].strip("-")
    return name if name[:1].isalpha() else f"run-{name}".strip("-")[:MAX_NAME]


def shard_patterns(storage: Storage, data: str) -> list[str]:
    """The patterns for `data.sources[].shards`.

    Args:
        storage: where the shards are.
        data: a folder, a prefix, a pattern or a shard.

    Raises:
        UserError: no shards are there; the message says what to do with what is.
    """
    from diht_k8s.api.errors import UserError
    from diht_k8s.api.layout import join

    if any(character in data for character in "*?[{") or data.endswith(tuple(suffix[1:] for suffix in SHARDS)):
        storage.expand([data])
        return [data]
    folders = [data, *(join(data, name) for name in storage.folders(data))]
    for folder in folders:
        found = storage.names(folder)
        patterns = [join(folder, suffix) for suffix in SHARDS if any(name.endswith(suffix[1:]) for name in found)]
        if patterns:
            return patterns
    if not storage.exists(data):
        raise UserError(f"{data} does not exist: name the folder of the shards")
    raise UserError(f"{data} holds no shards (*.tar): write its images as shards first: diht import {data} data/{run_name(data)}")  # fmt: skip


def this_machine() -> Machine:
    """Cores that this process may use, memory, GPUs that it may see."""
    import psutil

    from diht_k8s.cli import placement
    from diht_k8s.cli.onboarding.defaults import Machine

    found = placement.this_machine()
    return Machine(found.cores, psutil.virtual_memory().total / 2**30, found.gpus)
