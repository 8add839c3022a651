"""What the start of a training will refuse about a network of timm's: unequal parts of a batch, sizes of images.

The network is made without memory for its weights, in seconds, and only where it is timm's and learns: of the others
the document's text says enough (`api.gangs`).
"""

from __future__ import annotations

import functools
import json
import warnings
from typing import NamedTuple

import torch

from diht_k8s.api.errors import UserError
from diht_k8s.api.field_problems import FieldProblem
from diht_k8s.api.gangs import unequal_parts
from diht_k8s.api.train import Train
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student, has_batch_statistics, require_passing_images


class TimmNetwork(NamedTuple):
    """What matters here of a network that learns."""

    batch_statistics: bool
    """whether it takes statistics over a batch."""
    refusal: str | None
    """what is wrong with its images."""


def timm_problems(train: Train) -> list[FieldProblem]:
    """The refusals of a training whose image tower is timm's and learns; none for one that cannot be made, as its stage
    says.
    """
    network = timm_network(train)
    found: list[FieldProblem] = []
    unequal = unequal_parts(train, train.num_nodes * train.processes_per_node) if network.batch_statistics else None
    if unequal is not None:
        found.append(FieldProblem(("spec", "train", unequal.field), unequal.message))
    if network.refusal is not None:
        found.append(
            FieldProblem(("spec", "train", "modelConfig" if train.model is None else "model"), network.refusal)
        )
    return found


def timm_network(train: Train) -> TimmNetwork:
    """What is known of such a training's network; nothing of one that cannot be made.

    Raises:
        UserError: the model cannot be trained.
    """
    configuration = json.dumps(model_configuration(train))
    try:
        return _network(configuration)
    except UserError:
        return TimmNetwork(False, None)


@functools.cache
def _network(configuration: str) -> TimmNetwork:
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        student = Student(json.loads(configuration))
    refusal = None
    try:
        require_passing_images(student.image_tower.to("meta"))
    except UserError as error:
        refusal = str(error)
    except RuntimeError:  # torch has no rule for one of its operations on tensors without data
        pass
    return TimmNetwork(has_batch_statistics(student), refusal)
