from __future__ import annotations

from typing import Annotated, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from diht_k8s.api.base import Keyed

ITEMS = 40_000


class Counted:
    """A key that counts how often it is compared, and gives up long before a quadratic check ends."""

    comparisons: ClassVar[int] = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        if Counted.comparisons > ITEMS:
            raise RuntimeError("more comparisons than items")
        return isinstance(other, Counted) and self.value == other.value


class Item(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: Counted


LIST = TypeAdapter(Annotated[list[Item], Keyed("name")])


@pytest.mark.parametrize("repeated", [False, True], ids=["distinct", "last repeated"])
def test_keyed_list_is_checked_in_one_pass(monkeypatch: pytest.MonkeyPatch, repeated: bool) -> None:
    monkeypatch.setattr(Counted, "comparisons", 0)
    values = [*range(ITEMS), *([ITEMS - 1] if repeated else [])]
    items = [{"name": Counted(value)} for value in values]
    if repeated:
        with pytest.raises(ValidationError, match="each may appear only once"):
            LIST.validate_python(items)
    else:
        assert len(LIST.validate_python(items)) == ITEMS
