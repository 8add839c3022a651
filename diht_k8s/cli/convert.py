"""`diht convert`: a model written for Hugging Face's transformers."""

from __future__ import annotations

from diht_k8s.cli.display import show
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.convert import convert


def convert_command(source: str, target: str, architecture: str | None, *, as_json: bool) -> int:
    """Write the model and print the files; the exit code."""
    written = convert(source, target, Storage(), architecture=architecture)
    return show(written, written, as_json=as_json)
