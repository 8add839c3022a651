"""The report of an evaluation: `report.json`, one self-contained `report.html`, and the model's card with its
results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from diht_k8s.api.layout import join
from diht_k8s.api.run import Stage
from diht_k8s.report.cards import PATH, card_with_results
from diht_k8s.report.content import gather_evidence, report_content, without_images
from diht_k8s.report.page import render
from diht_k8s.runtime.stage import Context

__all__ = ["write_report"]


def write_report(context: Context, results: Sequence[dict[str, Any]]) -> None:
    """Write the files, without timestamps so that the same run gives the same bytes."""
    content = report_content(context.run, context.config, results, gather_evidence(context))
    document = json.dumps(without_images(content), indent=1, ensure_ascii=False)
    context.storage.write_bytes(context.layout.report(Stage.EVALUATE), document.encode())
    context.storage.write_bytes(context.layout.report(Stage.EVALUATE, "html"), render(content).encode())
    card = card_with_results(_trained_card(context), content)
    context.storage.write_bytes(join(context.layout.stage(Stage.EVALUATE), PATH), card.encode())


def _trained_card(context: Context) -> str | None:
    """The card that the training has written beside the model; None for a model from elsewhere."""
    evaluate = context.run.spec.evaluate
    assert evaluate is not None, "the stage is there"
    if evaluate.model is not None or not context.storage.exists(uri := join(context.layout.model, PATH)):
        return None
    return context.storage.read_text(uri)
