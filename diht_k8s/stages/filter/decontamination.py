"""Fingerprints of the benchmark images that must not be trained on, by names from `spec.evaluate.benchmarks`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import Spec
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import BadShards
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.fingerprints import Gallery, gallery_of

logger = logging.getLogger(__name__)


def benchmark_shards(spec: Spec, storage: Storage, name: str) -> list[str]:
    """The shards of a benchmark of `spec.evaluate`.

    Raises:
        UserError: no benchmark has this name.
    """
    benchmarks = [] if spec.evaluate is None else spec.evaluate.benchmarks
    for benchmark in benchmarks:
        if benchmark.name == name:
            return storage.expand(benchmark.shards)
    known = ", ".join(benchmark.name for benchmark in benchmarks) or "none"
    raise UserError(
        f"spec.filter.decontaminate: no benchmark is called {name} (there are: {known}): "
        "add it to spec.evaluate.benchmarks"
    )


def read_gallery(spec: Spec, storage: Storage, names: Sequence[str], stop: StopFlag) -> Gallery | None:
    """Fingerprints of all images of the benchmarks; None if `names` is empty."""
    return gallery_of(_images(spec, storage, names, stop)) if names else None


def _images(spec: Spec, storage: Storage, names: Sequence[str], stop: StopFlag) -> Iterator[bytes]:
    uris = [uri for name in names for uri in benchmark_shards(spec, storage, name)]
    bad_shards = BadShards(spec.data.max_bad_shards, len(uris))
    for uri in uris:
        samples = read_samples(storage, uri, check=lambda: stop.raise_if_requested("finished shards are kept"))
        yield from (sample.image for sample in bad_shards.salvage(uri, samples))
    for uri, damage in bad_shards.found.items():
        logger.warning("%s; images behind the damage are not kept out of the training", damage.of(uri))
