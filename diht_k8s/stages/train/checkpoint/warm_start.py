"""First weights (`train.initFrom`): a model, one tower, a network whose weights a package brings, or another run's checkpoint.

In: a URI. Out: weights under the student's names (`model.first_weights`), or the checkpoint to go on from.
"""

from __future__ import annotations

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import MARKER
from diht_k8s.api.train import InitFrom
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label.teacher_weights import read_weights
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.checkpoint import Saved
from diht_k8s.stages.train.checkpoint.init_from import weights_file
from diht_k8s.stages.train.checkpoint.state import is_weight
from diht_k8s.stages.train.model.first_weights import load_first_weights
from diht_k8s.stages.train.model.student import Student


def start_from(
    storage: Storage, start: InitFrom, model: Student, *, image_only: bool = False, rank: int = 0, world: int = 1
) -> Saved | None:
    """Put the first weights into a model that no engine holds yet (a collective).

    Args:
        storage: reads them.
        start: where they are.
        model: takes them.
        image_only: refuse weights with a text tower; a checkpoint that is gone on from has its own.
        rank: of this process.
        world: number of processes.

    Returns:
        The checkpoint to resume from, with optimiser and position; None if only weights were requested.

    Raises:
        UserError: nothing is there, it cannot be read, or it is of another model; the first weight that differs is named.
        DataError: a checkpoint is damaged.
    """
    place = weights_file(storage, start)
    if start.kind == "Checkpoint":
        return checkpoint.read(storage, start.uri.rstrip("/"), rank=rank, world=world)
    if place.endswith(MARKER):
        saved = checkpoint.read(storage, place.removesuffix(MARKER).rstrip("/"), rank=rank, world=world)
        _start_from_tower(storage, saved, model)
        state = {key.removeprefix("buffer|"): saved.state[key] for key in saved.state if is_weight(key)}
    else:
        state = read_weights(storage, place)
    load_first_weights(model, state, place, image_only=image_only)
    return None


def _start_from_tower(storage: Storage, saved: Saved, model: Student) -> None:
    """Take the locked image tower, of which a checkpoint has the digest alone, from where its training took it."""
    tower = saved.cursor.tower
    if tower is None:
        return
    if tower.uri is None:
        raise UserError(
            f"train.initFrom {saved.uri} lacks its locked image tower, which was drawn from a seed: give the model that the "
            "training exported (OUTPUT/train/DIGEST/model)"
        )
    start_from(storage, InitFrom(uri=tower.uri), model)
