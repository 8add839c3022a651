"""`spec.data` and `spec.storage`: sources of pairs, the output folder, access to storage."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from diht_k8s.api.base import PLACEMENT, Keyed, Model, Name, ObjectName, Text, Uri
from diht_k8s.api.braces import check_braces


def _few_enough(patterns: list[str]) -> list[str]:
    check_braces(patterns)
    return patterns


FewEnough: Final = AfterValidator(_few_enough)
"""Refuses patterns whose braces stand for more names than a run reads shards."""
Shards = Annotated[list[Uri], Field(min_length=1, max_length=256), FewEnough]
"""Brace ranges (`{00000..00127}.tar`) and globs (`*.tar`), each expanded in order."""
SHARDS_OR_CAPTIONS: Final = "a source has shards or captions: give exactly one of them"


MemberKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class Source(Model):
    """Image-caption pairs in shards, or captions whose images are not downloaded yet."""

    name: Name
    """name in reports."""
    shards: Shards | None = None
    """shards: WebDataset tar files, plain or gzipped; braces and globs are expanded."""
    captions: Shards | None = None
    """captions: tables of URLs and captions (Parquet, CSV, TSV, JSON lines); the filter lists those worth a
    download."""
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """weight in training: an epoch reads the lightest source once, others as often as they are heavier."""
    image_key: MemberKey | None = None
    """imageKey: suffix of images other than jpg, jpeg, png and webp; needs the stage filter."""
    caption_key: MemberKey | None = None
    """captionKey: captions' suffix, their name in the .json, or a table's column; unset reads the .txt, or `caption` or
    `text` of the .json; needs the stage filter."""
    filter: bool = True
    """filter: false passes a clean set on but for bad pairs, exclude, decontaminate and duplicates."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.shards is None) == (self.captions is None):
            raise ValueError(SHARDS_OR_CAPTIONS)
        return self


def _count_or_percentage(given: Any, handler: ValidatorFunctionWrapHandler) -> str | int:
    """One problem in place of one for each branch of the union."""
    try:
        return handler(given)
    except ValidationError as error:
        raise ValueError(f"{given!r} is neither a count nor a percentage: write for example 10 or 1%") from error


Percentage = Annotated[str, StringConstraints(pattern=r"^(100|[0-9]{1,2}(\.[0-9]{1,4})?)%$", max_length=8)]
CountOrPercentage = Annotated[
    Percentage | Annotated[int, Field(ge=0, le=1_000_000)], WrapValidator(_count_or_percentage)
]


class Data(Model):
    """Input and output."""

    sources: Annotated[list[Source], Keyed("name"), Field(max_length=64)] = []
    """sources of pairs; a run that only evaluates needs none."""
    output: Uri
    """output: the folder of all that the run writes."""
    max_bad_shards: Annotated[CountOrPercentage, Field(json_schema_extra=PLACEMENT)] = 0
    """maxBadShards: damaged shards, a number or percentage (1%), that a stage tolerates."""


class SecretRef(Model):
    """A Secret in the run's namespace."""

    name: ObjectName
    """name of a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for gs:// GOOGLE_CREDENTIALS, for az://
    AZURE_STORAGE_CONNECTION_STRING."""


class StorageRule(Model):
    """How to reach the URIs below a prefix; the longest prefix wins."""

    prefix: Uri
    """prefix of the URIs."""
    endpoint_url: Annotated[
        str | None, Field(alias="endpointURL", max_length=1024, pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+(/[^?#@]*)?$")
    ] = None
    """endpointURL: unset means AWS, Google Cloud Storage or the account that the credentials name."""
    region: Text | None = None
    """region of the bucket; S3 only."""
    secret_ref: SecretRef | None = None
    """secretRef: credentials; unset uses the pod's identity or this machine's environment."""
