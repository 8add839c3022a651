"""Refuses a run whose input lies inside a stage folder of its own output, with patterns expanded and paths resolved."""

from __future__ import annotations

from collections.abc import Mapping

from braceexpand import braceexpand

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.own_inputs import input_uris, literal_part, own_input_message
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.shards.storage import Storage


def check_own_inputs(run: DihtRun, storage: Storage) -> None:
    """Check a run before it writes or removes anything.

    Raises:
        UserError: says which input lies in which folder.
    """
    layout = Layout(run.spec.data.output)
    folders = {stage: storage.location(layout.stage(stage)) for stage in run.spec.stages}
    for field, pattern in input_uris(run.spec):
        for uri in dict.fromkeys(place for item in braceexpand(pattern) for place in _places(storage, item, folders)):
            for stage, folder in folders.items():
                if _inside(uri, folder):
                    raise UserError(own_input_message(field, pattern, layout.stage(stage), stage))


def _places(storage: Storage, pattern: str, folders: Mapping[Stage, str]) -> list[str]:
    """Where the matches of a pattern lie; they are listed only if some could lie in one of the folders."""
    start = literal_part(pattern)
    place = storage.location(start or ".")
    if start != pattern and not any(_inside(place, folder) for folder in folders.values()):
        if not any(_inside(folder, place) for folder in folders.values()):
            return [place]
        return [storage.location(uri) for uri in storage.matches(pattern)]
    return [place]


def _inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")
