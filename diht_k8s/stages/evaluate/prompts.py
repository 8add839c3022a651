"""Prompts: templates filled with texts, and prompt ensembling as in CLIP. Pure.

Shapes: T texts (class names, captions, answers), P prompts, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEXT: Final = "{}"
CLASS: Final = "{c}"
"""Placeholders of the text; clip-benchmark writes the second."""
QUESTION: Final = "{question}"
ANSWER: Final = "{answer}"
"""Placeholders of a question and of one candidate answer (AnswerRanking)."""
ARTICLE: Final = "{A}"
"""Placeholder of `A` or `An` before the text; DataComp's prompt for the cues of WinoGAViL has one."""
PLACES: Final = (TEXT, CLASS, QUESTION, ANSWER, ARTICLE)


def prompts(texts: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every text in every template, templates of one text together."""
    return [fill(template, text) for text in texts for template in templates]


def fill(template: str, text: str) -> str:
    """A template with its placeholder, `{c}` or `{}`, replaced. Braces in the text stay."""
    return template.replace(CLASS if CLASS in template else TEXT, text)


def ensemble_prompts(features_PD: NDArray[np.float32], texts: int) -> NDArray[np.float32]:
    """The mean of the unit features of each text's prompts, normalised to unit length.

    Args:
        features_PD: unit features of the prompts, as many for each text, prompts of one text together.
        texts: T.

    Returns:
        [T, D], unit length.
    """
    mean_TD = features_PD.reshape(texts, -1, features_PD.shape[1]).mean(axis=1)
    return mean_TD / np.maximum(np.linalg.norm(mean_TD, axis=1, keepdims=True), 1e-12)
