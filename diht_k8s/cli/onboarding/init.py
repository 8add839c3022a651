"""`diht init`: a run document with defaults that fit the shards and this machine. It never asks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from diht_k8s.api.base import in_object_store
from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.cli.display import progress_bar, show
from diht_k8s.cli.onboarding.run_template import Hardware, RunNames, choose_defaults, render_document
from diht_k8s.cli.placement import this_machine
from diht_k8s.data.shards.storage import Storage
from diht_k8s.inspection.dataset_profile import hold_out, profile_dataset, write_held_out

SHARDS: Final = ("*.tar", "*.tar.gz", "*.tgz")
MAX_NAME: Final = 40
PATTERN: Final = "*?[{"


def init_command(
    data: str,
    output: str,
    name: str | None,
    hardware: Hardware | None,
    words: str | None,
    *,
    replace: bool,
    as_json: bool,
) -> int:
    """Write a run document and its held-out split; the exit code.

    Args:
        data: folder, prefix or pattern of the shards.
        output: the run document.
        name: of the run; that of the data's folder if unset.
        hardware: that the run is for; this machine's if unset.
        words: table of word vectors that a small pool's text tower begins with.
        replace: write over an existing document and held-out pairs.
        as_json: print one JSON object in place of text.
    """
    from diht_k8s.stages.filter import CaptionParser  # imports spaCy, which diht doctor does without

    path = Path(output).expanduser()
    if path.is_dir() or any(each.exists() and not each.is_dir() for each in path.parents):
        raise UserError(f"--output {path} is no file in a folder: name the run document to write")
    if path.exists() and not replace:
        raise UserError(
            f"{path} exists: diht init ... --output OTHER.yaml writes another file, --replace this one again"
        )
    storage = Storage()
    patterns = shard_patterns(storage, data)
    name = run_name(name or data)
    with progress_bar("pairs") as bar:
        task = bar.add_task("look at", total=None)
        profile = profile_dataset(storage, storage.expand(patterns), CaptionParser(), lambda: bar.advance(task))
    machine = this_machine()
    hardware = hardware or ("gpu-node" if machine.gpus else "laptop")
    base = data.rstrip("/").rpartition("/")[0] if in_object_store(data) else "runs"
    names = RunNames(name, patterns, f"{base}/{name}", f"{base}/{name}-held-out", words)
    held = hold_out(storage, profile)
    text = render_document(names, profile, held, machine, choose_defaults(profile, held, machine, hardware))
    run = load(text, name=str(path))
    write_held_out(storage, held, names.held_out, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    development, held_out = held.development, len(held.pairs) - held.development
    facts = {"pairs": profile.total, "held_out": held_out, "held_out_folder": names.held_out}
    starts = f"diht {'submit' if hardware == 'cluster' else 'run'} {shlex.quote(str(path))}"
    lines = [
        f"{path}: run {run.metadata.name} for {hardware}; {held_out} groups are held out in {names.held_out}, "
        f"{development} for development",
        f"to start it: {starts}",
    ]
    return show({"file": str(path), "run": run.metadata.name, "for": hardware, **facts}, lines, as_json=as_json)


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
    if any(character in data for character in PATTERN) and not in_object_store(data) and Path(data).is_dir():
        raise UserError(f"{data} holds signs of a pattern ({PATTERN}): rename the folder")
    if any(character in data for character in PATTERN) or data.endswith(tuple(suffix[1:] for suffix in SHARDS)):
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
    raise UserError(
        f"{data} holds no shards (*.tar): write its images as shards first: diht import {shlex.quote(data)} "
        f"data/{run_name(data)}"
    )
