from __future__ import annotations

import numpy as np

from diht_k8s.stages.train.data.sampler import generator


def test_generator_depends_on_seed_and_names_only() -> None:
    def draw(seed: int, *names: object) -> np.ndarray:
        return generator(seed, *names).integers(0, 2**62, 4)

    assert (draw(0, "crop", 1, "u") == draw(0, "crop", 1, "u")).all()
    for other in (draw(1, "crop", 1, "u"), draw(0, "crop", 2, "u"), draw(0, "crop", 1, "v"), draw(0, "crop1", "", "u")):
        assert (other != draw(0, "crop", 1, "u")).any()


def test_draws_of_a_seed_are_the_same_in_every_version() -> None:
    assert generator(3, "samples", 1, 2, 1).integers(0, 1000, 4).tolist() == [402, 224, 622, 635]
