from __future__ import annotations

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.runtime.commit import Count, require_equal


def test_equal_counts_are_accepted() -> None:
    require_equal("x", "do", Count(3, "rows"), Count(3, "samples"), Count(3, "lines"))


@pytest.mark.parametrize(("second", "third", "said"), [(4, 3, "4 samples"), (3, 2, "2 lines")])
def test_counts_that_differ_are_refused_with_both_numbers_and_names(second: int, third: int, said: str) -> None:
    with pytest.raises(DataError, match=f"x: 3 rows, but {said}: do"):
        require_equal("x", "do", Count(3, "rows"), Count(second, "samples"), Count(third, "lines"))
