from __future__ import annotations

import pytest

from diht_k8s.stages.filter.captions.language import foreign_margin, is_english


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small dog chasing a red ball", True),
        ("iPhone 12 Case Blue Leather", True),
        ("Cr\u00e8me br\u00fbl\u00e9e with a caramel crust", True),
        ("Acer palmatum", True),
        ("Gnocchi al pesto from the Trattoria Quattro Passi", True),
        ("Gnocchi al pesto, Trattoria Quattro Passi", False),
        ("\u0421\u043a\u0440\u0438\u043d\u0448\u043e\u0442 \u0438\u0433\u0440\u044b The Witcher", False),
        ("Jurk of rok voor de zomer", False),
        ("Her ser du en r\u00f8d bil", False),
        ("En and sv\u00f8mmer i s\u00f8en", False),
        ("Ung and sv\u00f8mmer i vannet", False),
        ("and i sj\u00f8en med unger", False),
        ("Von weit her kommt ein Zug", False),
        ("Her renk elbise d\u00fckkanda", False),
        ("", True),
        ("12 / 34", True),
        ("\ud83d", True),
        ("le chien et le chat dans la maison", False),
        ("Der Hund und die Katze im Garten", False),
        ("una casa con el perro en la playa", False),
        ("\u5c0f\u72d7\u5728\u8349\u5730\u4e0a\u8dd1\u6765\u8dd1\u53bb", False),
        ("\u0441\u043e\u0431\u0430\u043a\u0430 \u043d\u0430 \u0442\u0440\u0430\u0432\u0435", False),
        ("La r&eacute;daction a s&eacute;lectionn&eacute; le portable", False),
    ],
)
def test_caption_is_english_unless_another_language_is_far_likelier(caption: str, expected: bool) -> None:
    assert is_english(caption) is expected


def test_margin_decides() -> None:
    caption = "ein Hund spielt im Garten"
    language, margin = foreign_margin(caption)
    assert (language, margin > 1) == ("de", True)
    assert is_english(caption, margin + 1)
    assert not is_english(caption, margin - 1)


def test_long_text_is_cut() -> None:
    assert foreign_margin("a dog in the garden " * 1000 + "le chien dans la maison " * 1000)[0] == "en"
