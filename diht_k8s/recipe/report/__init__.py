"""The run's report: `report.json` and one self-contained `report.html` from results and the other stages' output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from diht_k8s.api.run import Stage
from diht_k8s.recipe.report.content import report_content, without_images
from diht_k8s.recipe.report.evidence import gather
from diht_k8s.recipe.report.page import render
from diht_k8s.recipe.runtime.stage import Context

__all__ = ["write_report"]


def write_report(context: Context, results: Sequence[dict[str, Any]]) -> None:
    """Write both files, without timestamps so that the same run gives the same bytes."""
    content = report_content(context.run, context.config, results, gather(context))
    document = json.dumps(without_images(content), indent=1, ensure_ascii=False)
    context.storage.write_bytes(context.layout.report(Stage.EVALUATE), document.encode())
    context.storage.write_bytes(context.layout.report(Stage.EVALUATE, "html"), render(content).encode())
