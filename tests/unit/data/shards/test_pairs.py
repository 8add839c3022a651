"""Images and captions under unusual names get the usual ones."""

from __future__ import annotations

import json

import pytest

from diht_k8s.data.shards.pairs import with_usual_names
from diht_k8s.data.shards.samples import make_sample

META = json.dumps({"alt_text": "a dog", "caption": "other", "uid": "u", "number": 3}).encode()


@pytest.mark.parametrize(
    ("members", "image_key", "caption_key", "image", "caption", "problem"),
    [
        ({"img": b"i", "json": META}, "img", "alt_text", b"i", "a dog", None),
        ({"img": b"i", "png": b"thumbnail", "txt": b"a cat"}, "IMG", None, b"i", "a cat", None),
        ({"jpg": b"i", "cap.en": b"a cat", "cap.de": b"eine Katze"}, None, "cap.en", b"i", "a cat", None),
        ({"jpg": b"i", "txt": b"no", "json": META}, None, "alt_text", b"i", "a dog", None),
        ({"jpg": b"i", "txt": b"no", "json": META}, None, "number", b"i", "", "caption_missing"),
        ({"jpg": b"i", "json": META}, "img", None, b"", "", "picture_missing"),
        ({"jpg": b"i", "json": META}, None, None, b"i", "other", None),
        ({"jpg": b"i", "cap": b"\xff"}, None, "cap", b"i", "", "caption_not_utf8"),
    ],
)
def test_sample_has_the_image_and_caption_that_the_run_names(
    members: dict[str, bytes], image_key: str | None, caption_key: str | None, image: bytes, caption: str, problem: str
) -> None:
    sample = with_usual_names(make_sample("k", members), image_key, caption_key)
    assert sample.problem == problem
    if problem is None:
        assert (sample.image, sample.caption) == (image, caption)


def test_what_was_too_large_stays_so() -> None:
    sample = make_sample("k", {"img": b"", "txt": b"a dog"}, "member_too_large")
    assert with_usual_names(sample, "img", None).problem == "member_too_large"


def test_uid_of_the_json_stays() -> None:
    assert with_usual_names(make_sample("k", {"img": b"i", "json": META}), "img", "alt_text").uid == "u"
