from __future__ import annotations

from typing import Any

import open_clip
import pytest
from open_clip.tokenizer import SimpleTokenizer

from diht_k8s.api.errors import UserError
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


TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def accepted(train: Train) -> bool:
    try:
        model_configuration(train)
    except UserError:
        return False
    return True


class Clips:
    """In place of CLIP's tokenizer, which would read its 49,408 words for each model."""

    def __init__(self, **_: Any) -> None:
        pass


def test_names_when_accepted_then_open_clips_tokenizer_is_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_clip.factory.SimpleTokenizer is SimpleTokenizer
    monkeypatch.setattr(open_clip.factory, "SimpleTokenizer", Clips)
    trains = [Train(samples=1, model=name) for name in open_clip.list_models()]
    names = [train.model for train in trains if accepted(train)]
    assert {"ViT-B-32", "ViT-L-14-336", "RN50"} <= set(names)
    for name in names:
        assert type(open_clip.get_tokenizer(name)) is Clips
        assert open_clip.get_model_config(name)["text_cfg"].get("vocab_size", 49408) == 49408


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-H-14-CLIPA", "needs the tokenizer bert-base-uncased"),
        ("ViT-L-14-worldwide", "needs the tokenizer google/mt5-base"),
        ("ViT-bigG-14-worldwide", "needs the tokenizer facebook/xlm-v-base"),
        ("roberta-ViT-B-32", "has the text tower roberta-base"),
        ("coca_ViT-B-32", "is a CoCa"),
        ("ViT-B-16-SigLIP", "needs the tokenizer timm/ViT-B-16-SigLIP"),
    ],
)
def test_name_when_its_text_side_is_not_clips_then_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"train.model {name} {reason}"):
        model_configuration(Train(samples=1, model=name))


@pytest.mark.parametrize("text", [{"hf_tokenizer_name": "bert-base-uncased"}, {"tokenizer_kwargs": {"clean": "lower"}}])
def test_configuration_when_it_asks_for_another_tokenizer_then_refused(text: dict[str, Any]) -> None:
    config = {"embed_dim": 16, "vision_cfg": {}, "text_cfg": {**TEXT, **text}}
    with pytest.raises(UserError, match=r"train.modelConfig needs the tokenizer"):
        model_configuration(Train(samples=1, model_config_=config))
