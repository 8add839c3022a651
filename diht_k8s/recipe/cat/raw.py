"""Raw shards with unusual names: pictures and captions under keys that the run names, given the names that all later stages know.

In: a shard with `imageKey` or `captionKey`. Out: samples whose picture is `.jpg` (the decoders go by the content) and whose caption is `.txt`;
so the kept shards are written, and nobody behind the filter needs to know.
"""

from __future__ import annotations

from collections.abc import Iterator

from diht_k8s.recipe.shards.samples import IMAGE_SUFFIXES, TOO_LARGE, Sample, make_sample, read_samples
from diht_k8s.recipe.shards.sets import Shard
from diht_k8s.recipe.shards.storage import Storage


def read_raw(storage: Storage, shard: Shard) -> Iterator[Sample]:
    """The samples of a raw shard, in order, under the usual names."""
    for sample in read_samples(storage, shard.uri):
        yield with_usual_names(sample, shard.image_key, shard.caption_key)


def with_usual_names(sample: Sample, image_key: str | None, caption_key: str | None) -> Sample:
    """The sample with its picture and caption where later stages look for them.

    Args:
        sample: as it lies in the shard; suffixes are lower-case.
        image_key: suffix of the picture; None leaves it.
        caption_key: suffix of the caption, or its name in the .json; None leaves it.
    """
    if image_key is None and caption_key is None:
        return sample
    members, problem = dict(sample.members), sample.problem if sample.problem == TOO_LARGE else None
    if image_key is not None:
        picture = members.pop(image_key.lower(), None)
        members = {suffix: data for suffix, data in members.items() if suffix not in IMAGE_SUFFIXES}
        if picture is not None:
            members["jpg"] = picture
    if caption_key is not None:
        caption = _caption(members, sample, caption_key)
        if caption is None:
            problem = problem or "caption_missing"
        else:
            members["txt"] = caption
    return make_sample(sample.key, members, problem)


def _caption(members: dict[str, bytes], sample: Sample, key: str) -> bytes | None:
    """A member's content, taken out, or a text of the .json."""
    member = members.pop(key.lower(), None)
    value = sample.meta.get(key)
    if member is not None or not isinstance(value, str):
        return member
    return value.encode(errors="surrogatepass")
