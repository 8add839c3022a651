"""The operator, whose reconciliations raise or hang, as DIHT_TEST_RECONCILE says."""

from __future__ import annotations

import os
import time
from typing import Any

from diht_k8s.controller import reconcile


def fail(*arguments: Any, **options: Any) -> Any:
    if os.environ["DIHT_TEST_RECONCILE"] == "hang":
        time.sleep(3600)
    raise AssertionError("the test says so")


reconcile.decide = fail
