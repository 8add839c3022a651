from __future__ import annotations

from diht_k8s.api.field_problems import model_names
from diht_k8s.api.gangs import shows_batch_statistics
from diht_k8s.api.train import Train
from diht_k8s.stages.train.model.configurations import model_configuration


def test_batch_statistics_of_open_clips_own_models_are_known_by_name_as_by_configuration() -> None:
    problems = model_names().problems
    names = [name for name in model_names().of("open_clip") if not problems[f"open_clip/{name}"]]
    found = {name: shows_batch_statistics(Train(model=name, samples=64, batch_size=16)) for name in names}
    layers = {
        name: model_configuration(Train(model=name, samples=64, batch_size=16))["vision_cfg"].get("layers")
        for name in names
    }
    assert found == {name: isinstance(each, list) for name, each in layers.items()}
    assert set(found.values()) == {False, True}
