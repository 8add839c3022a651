from __future__ import annotations

import pytest

from diht_k8s.stages.filter.captions.lexicon import Lexicon, make_lexicon

VERBS = (
    "ride rid sit hope hop bake park paint line store watch go carry use visit ski plan fire lie tie dive hide create "
    "run chase dress cover cool"
)
NOUNS = "dog pizza box berry cookie lady knife wolf glass glasses church potato bus child ski man woman leaf"


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return make_lexicon(
        {"verb": VERBS.split(), "noun": NOUNS.split(), "adj": ["small"], "adv": ["here"]},
        {"verb": {"ran": ["run"], "sat": ["sit"]}, "noun": {"men": ["man"], "children": ["child"]}},
    )


@pytest.mark.parametrize(
    ("form", "lemma"),
    [
        *(("riding", "ride"), ("rides", "ride"), ("sitting", "sit"), ("hoping", "hope"), ("hopping", "hop")),
        *(("baking", "bake"), ("parked", "park"), ("painted", "paint"), ("lined", "line"), ("stored", "store")),
        *(("watches", "watch"), ("goes", "go"), ("carries", "carry"), ("carried", "carry"), ("using", "use")),
        *(("visiting", "visit"), ("skiing", "ski"), ("planned", "plan"), ("fired", "fire"), ("lying", "lie")),
        *(("tying", "tie"), ("diving", "dive"), ("hiding", "hide"), ("created", "create"), ("ran", "run")),
        *(("chasing", "chase"), ("dressed", "dress"), ("covered", "cover"), ("cooling", "cool"), ("ride", "ride")),
    ],
)
def test_verb_forms_give_their_lemma(lexicon: Lexicon, form: str, lemma: str) -> None:
    assert lexicon.verb(form) == lemma


@pytest.mark.parametrize(
    ("form", "lemma"),
    [
        *(("dogs", "dog"), ("pizzas", "pizza"), ("boxes", "box"), ("berries", "berry"), ("cookies", "cookie")),
        *(("ladies", "lady"), ("knives", "knife"), ("wolves", "wolf"), ("leaves", "leaf"), ("churches", "church")),
        *(("potatoes", "potato"), ("buses", "bus"), ("children", "child"), ("men", "man"), ("women", "woman")),
        *(("glasses", "glasses"), ("people", "people"), ("paris", "paris"), ("glass", "glass"), ("dog", "dog")),
    ],
)
def test_nouns_give_their_singular_and_names_stay(lexicon: Lexicon, form: str, lemma: str) -> None:
    assert lexicon.noun(form) == lemma
