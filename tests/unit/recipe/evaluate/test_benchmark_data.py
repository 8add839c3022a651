"""What a benchmark's samples say beside image and caption."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.evaluate import Benchmark
from diht_k8s.recipe.evaluate.benchmark_data import group_of
from diht_k8s.recipe.evaluate.class_texts import templates_of
from diht_k8s.recipe.shards.samples import Sample
from diht_k8s.recipe.shards.storage import Storage


def sample(npy: bytes) -> Sample:
    return Sample(key="a", members={"npy": npy}, uid="a", caption="", meta={}, problem=None)


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([3, 2017]))
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a.npy", array())
    return buffer.getvalue()


def test_group_is_the_first_number_of_the_array() -> None:
    assert group_of(sample(array())) == "3"


@pytest.mark.parametrize("npy", [archive(), b"PK\x03\x04 cut off", b"", b"text"])
def test_group_when_the_member_is_something_else_is_an_error_of_the_data(npy: bytes) -> None:
    with pytest.raises(DataError, match=r"sample a: its \.npy is not an array of numbers"):
        group_of(sample(npy))


def test_templates_when_openai80_is_named_are_its_80_prompts_beside_the_others() -> None:
    benchmark = Benchmark.model_validate(
        {
            "name": "b",
            "type": "Classification",
            "shards": ["0.tar"],
            "classNames": "names.txt",
            "templates": ["openai80", "{c}"],
        }
    )
    templates = templates_of(Storage(), benchmark).lines
    assert len(set(templates)) == 81
    assert (templates[0], templates[-1]) == ("a bad photo of a {}.", "{c}")
    assert all("{}" in template for template in templates[:-1])
