from __future__ import annotations

import pytest

from diht_k8s.recipe.filter.captions.language import is_english


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small dog chasing a red ball", True),
        ("iPhone 12 Case Blue Leather", True),
        ("Café Müller", True),
        ("", True),
        ("12 / 34", True),
        ("le chien et le chat dans la maison", False),
        ("Der Hund und die Katze", False),
        ("una casa con el perro", False),
        ("小狗在草地上", False),
        ("собака на траве", False),
        ("ein Mann mit the a dog", True),
        ("Sushi 寿司 at a bar", True),
    ],
)
def test_caption_is_english_without_evidence_of_another_language(caption: str, expected: bool) -> None:
    assert is_english(caption) is expected
