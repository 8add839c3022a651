"""Thresholds out of range are refused before anything is read, with the field and its bounds."""

from __future__ import annotations

import pytest

from diht_k8s.api.documents import check

DOCUMENT = """
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: a-run}
spec:
  data: {sources: [{name: web, shards: [a.tar]}], output: out}
  filter: {}
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("minComplexity=-1", "spec.filter.minComplexity"),
        ("minComplexity=101", "spec.filter.minComplexity"),
        ("minActions=-1", "spec.filter.minActions"),
        ("minActions=one", "spec.filter.minActions"),
        ("textSpotting.minConfidence=0.2", "spec.filter.textSpotting.minConfidence"),
        ("textSpotting.minConfidence=1.1", "spec.filter.textSpotting.minConfidence"),
        ("textSpotting.minMatchedCharacters=0", "spec.filter.textSpotting.minMatchedCharacters"),
        ("textSpotting.detectorSize=63", "spec.filter.textSpotting.detectorSize"),
        ("maxBadPercent=101", "spec.filter.maxBadPercent"),
        ("maxAspectRatio=-1", "spec.filter.maxAspectRatio"),
        ("minSide=4097", "spec.filter.minSide"),
        ("workers=0", "spec.filter.workers"),
        ("language=fr", "spec.filter.language"),
        ("actionRule=Object", "spec.filter.actionRule"),
    ],
)
def test_threshold_out_of_range_is_refused_with_its_field(override: str, said: str) -> None:
    run, found = check(DOCUMENT, overrides=[f"filter.{override}"])
    assert run is None
    assert [str(item) for item in found if said in str(item)]
