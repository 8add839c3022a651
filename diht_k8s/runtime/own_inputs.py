"""Refuses a run with a source inside a stage folder of its own output, with patterns expanded and paths resolved."""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.api.braces import expanded
from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.api.run import DihtRun, Stage, literal_part, own_input_message, source_patterns
from diht_k8s.data.shards.storage import Storage


def check_own_inputs(run: DihtRun, storage: Storage) -> None:
    """Check a run before it writes anything.

    Raises:
        UserError: says which source lies in which folder.
    """
    folders = [storage.location(join(run.spec.data.output, name)) for name in Stage]
    for field, pattern in source_patterns(run.spec):
        for uri in dict.fromkeys(place for item in expanded(pattern) for place in _places(storage, item, folders)):
            for name, folder in zip(Stage, folders, strict=True):
                if _inside(uri, folder):
                    raise UserError(own_input_message(field, pattern, join(run.spec.data.output, name)))


def _places(storage: Storage, pattern: str, folders: Sequence[str]) -> list[str]:
    """Where the matches of a pattern lie; they are listed only if some could lie in one of the folders."""
    start = literal_part(pattern)
    place = storage.location(start or ".")
    if start != pattern and not any(_inside(place, folder) for folder in folders):
        if not any(_inside(folder, place) for folder in folders):
            return [place]
        return [storage.location(uri) for uri in storage.matches(pattern)]
    return [place]


def _inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")
