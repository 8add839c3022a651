"""The locked image tower of a training (`train.lockImageTower`): its first weights, and that a resume has the same ones.

In: a student with its first weights, or a checkpoint, which has the tower's digest alone. Out: the student without its tower.
"""

from __future__ import annotations

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import InitFrom, Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint.checkpoint import Saved, TowerDigest
from diht_k8s.stages.train.checkpoint.warm_start import start_from
from diht_k8s.stages.train.model.student import Student


def lock_tower(storage: Storage, train: Train, model: Student, saved: Saved | None) -> TowerDigest | None:
    """Lock the image tower of a student that no engine holds yet; of a checkpoint, the one that it was trained on.

    Args:
        storage: reads the tower's weights.
        train: what is asked for.
        model: with its first weights where no checkpoint is gone on from.
        saved: the checkpoint, whose other weights are loaded afterwards.

    Returns:
        What checkpoints say of the tower; None where it is trained.

    Raises:
        UserError: the checkpoint has another tower, or was trained without a locked one, or with one.
    """
    if not train.lock_image_tower:
        if saved is not None and saved.cursor.tower is not None:
            raise UserError(f"the checkpoint {saved.uri} has a locked image tower: set train.lockImageTower: true")
        return None
    if saved is None:
        start = train.init_from
        model.lock_image_tower()
        assert model.locked is not None
        return TowerDigest(sha256=model.locked.sha256, uri=None if start is None else start.uri)
    tower = saved.cursor.tower
    if tower is None:
        raise UserError(
            f"the checkpoint {saved.uri} has trained its image tower: remove train.lockImageTower, or take the "
            "checkpoint's weights only (initFrom.kind Weights)"
        )
    if tower.uri is not None:
        start_from(storage, InitFrom(uri=tower.uri), model)
    model.lock_image_tower()
    assert model.locked is not None
    if model.locked.sha256 != tower.sha256:
        raise UserError(
            f"the checkpoint {saved.uri} was trained on another image tower ({tower.sha256[:12]}) than "
            f"{tower.uri or 'the seed'} gives now ({model.locked.sha256[:12]}): put that tower's file back, or choose "
            "another data.output"
        )
    return tower
