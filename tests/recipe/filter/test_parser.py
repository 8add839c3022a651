"""The caption parser on every kind of caption in the guidelines; `test_parser_accuracy` measures its accuracy."""

from __future__ import annotations

import pytest

from diht_k8s.stages.filter import CaptionParser
from diht_k8s.stages.filter.captions.graph import CaptionGraph

PARSER = CaptionParser()
Triple = tuple[str | None, str, str | None]


def parsed(caption: str) -> CaptionGraph:
    return PARSER.parse([caption])[0]


def test_one_caption_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write parse\(\[caption\]\)\[0\]"):
        PARSER.parse("a caption")


def triples(graph: CaptionGraph) -> set[Triple]:
    names = graph.names
    return {
        (None if one is None else names[one], predicate, None if two is None else names[two])
        for one, predicate, two in graph.relations
    }


def attributes(graph: CaptionGraph) -> set[tuple[str, str]]:
    return {(graph.names[index], name) for index, name in graph.attributes}


@pytest.mark.parametrize(
    ("caption", "objects", "expected"),
    [
        ("a polar bear near a pizza box", ["polar bear", "pizza box"], set()),
        ("men's running shoes", ["man", "running shoe"], set()),
        ("a smiling woman", ["woman"], {("woman", "smiling")}),
        ("two small dogs", ["dog"], {("dog", "two"), ("dog", "small")}),
        ("the dog is small and fluffy", ["dog"], {("dog", "small"), ("dog", "fluffy")}),
        ("tall and short candles", ["candle"], {("candle", "tall"), ("candle", "short")}),
        ("RED FOX IN FRESH SNOW", ["fox", "snow"], {("fox", "red"), ("snow", "fresh")}),
        ("Leather Wallet - Brown", ["leather wallet"], {("leather wallet", "brown")}),
        ("a dress in navy", ["dress"], {("dress", "navy")}),
        ("dark blue shirt", ["shirt"], {("shirt", "dark blue")}),
        ("orange juice", ["orange juice"], set()),
        ("gold plated ring", ["ring"], {("ring", "plated")}),
        ("a hardwood maple floor", ["hardwood maple floor"], set()),
        ("Oswin Brakk And Lena Gryner", ["oswin brakk", "lena gryner"], set()),
        ("red compact laundry hamper", ["laundry hamper"], {("laundry hamper", "red"), ("laundry hamper", "compact")}),
        ("a Caribbean cruise", ["cruise"], {("cruise", "caribbean")}),
        ("starfish petal decal", ["starfish petal decal"], set()),
        ("Green T-Shirt Bag", ["t-shirt bag"], {("t-shirt bag", "green")}),
        ("Ball Pattern- Blue", ["ball pattern"], {("ball pattern", "blue")}),
        ("Silver Plated Teapot Lid", ["teapot lid"], {("teapot lid", "plated")}),
        ("House at 27 Alder Lane, New York", ["house", "alder lane", "new york"], set()),
        ("12 Piece Tea Set White", ["tea set"], {("tea set", "white")}),
        ("two pieces of cake", ["piece", "cake"], {("piece", "two")}),
        ("hundreds of angry bees", ["bee"], {("bee", "hundreds"), ("bee", "angry")}),
        (
            "Oak Shelf, Extendable, Natural Finish",
            ["oak shelf", "finish"],
            {("oak shelf", "extendable"), ("finish", "natural")},
        ),
        ("Tin Box (Polished)", ["tin box"], {("tin box", "polished")}),
        ("Rain Boots for Kids, Leakproof", ["rain boot", "kid"], {("rain boot", "leakproof")}),
        ("Vintage Men's Watch", ["man", "watch"], {("watch", "vintage")}),
        ("Dark Blue Women's Boots", ["woman", "boot"], {("boot", "dark blue")}),
        ("Matching Dark Blue Girls' Hats", ["girl", "hat"], {("hat", "matching"), ("hat", "dark blue")}),
        ("Vintage Men's and Women's Hats", ["man", "woman", "hat"], {("hat", "vintage")}),
        ("Stylish Women's, a dog", ["woman", "dog"], {("woman", "stylish")}),
        ("Vintage Men's - a house", ["man", "house"], {("man", "vintage")}),
        ("Vintage Men's", ["man"], {("man", "vintage")}),
        ("Dark Blue Men's", ["man"], {("man", "dark blue")}),
        ("a rack for stylish women's near a tree", ["rack", "woman", "tree"], {("woman", "stylish")}),
        ("smiling girls' faces", ["girl", "face"], {("girl", "smiling")}),
        ("excited children's faces", ["child", "face"], {("child", "excited")}),
        ("happy kids' party", ["kid", "party"], {("kid", "happy")}),
        ("the little girl's red kite", ["girl", "kite"], {("girl", "little"), ("kite", "red")}),
        ("a soup that tastes salty", ["soup"], {("soup", "salty")}),
        ("the room is next to a hall and quiet", ["room", "hall"], {("room", "quiet")}),
        ("Gluten Free Oat Bar", ["oat bar"], {("oat bar", "free")}),
        ("Extra Long Silk Tie", ["silk tie"], {("silk tie", "long")}),
        ("Short Sleeved Linen Shirt", ["linen shirt"], {("linen shirt", "sleeved")}),
        ("a three legged dog", ["dog"], {("dog", "legged")}),
        ("a meeting of the board (Wed Aug 25)", ["meeting", "board"], set()),
        ("a woman with a red id card", ["woman", "id card"], {("id card", "red")}),
        ("Two Handed Sword", ["sword"], {("sword", "handed")}),
        ("a 3 legged stool", ["stool"], {("stool", "legged")}),
        ("a four wheeled cart", ["cart"], {("cart", "wheeled")}),
        ("two winged horses", ["horse"], {("horse", "two"), ("horse", "winged")}),
        ("a man handed the boy a cup", ["man", "boy", "cup"], set()),
        ("a girl crowned with flowers", ["girl", "flower"], set()),
        ("Lamp, Battery Operated", ["lamp"], {("lamp", "operated")}),
        ("Loose Fit Gloves", ["fit glove"], {("fit glove", "loose")}),
        ("Baby Blue Garden Boots", ["garden boot"], {("garden boot", "baby blue")}),
        ("Nylon Cap - Grey/Royal Blue", ["nylon cap"], {("nylon cap", "grey"), ("nylon cap", "royal blue")}),
        ("Wool Coat Brown", ["wool coat"], {("wool coat", "brown")}),
        ("tired but happy runners", ["runner"], {("runner", "tired"), ("runner", "happy")}),
        ("silk scarf, navy and white dots", ["silk scarf", "dot"], {("dot", "navy"), ("dot", "white")}),
        ("4 bedroom detached house", ["bedroom house"], {("bedroom house", "4"), ("bedroom house", "detached")}),
        ("elf with light hair", ["elf", "hair"], {("hair", "light")}),
        ("the taller tower near Brakker Forest", ["tower", "brakker forest"], {("tower", "taller")}),
        ("IMG_2034.jpg", [], set()),
        ("Concert, 12 May 1978", ["concert"], set()),
        ("sandals $20 50% off", ["sandal"], set()),
        ("a bowl of cereal and a cup", ["bowl", "cereal", "cup"], set()),
        ("a dog and a dog", ["dog", "dog"], set()),
        ("Oak &amp; Ash Trays &ndash; Brown", ["oak", "ash tray"], {("ash tray", "brown")}),
        ("<b>Solid Oak</b> Drawer Knob", ["oak drawer knob"], {("oak drawer knob", "solid")}),
        ("Small #puppy on a sofa #cute", ["puppy", "sofa"], {("puppy", "small")}),
        ("", [], set()),
    ],
)
def test_objects_and_attributes(caption: str, objects: list[str], expected: set[tuple[str, str]]) -> None:
    graph = parsed(caption)
    assert ([mention.name for mention in graph.objects], attributes(graph)) == (objects, expected)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man riding a horse", {("man", "ride", "horse")}),
        ("a dog sleeping", {("dog", "sleep", None)}),
        ("pizza cut by the chef", {("chef", "cut", "pizza")}),
        ("the pizza was cut into slices", {("pizza", "cut into", "slice")}),
        ("a car parked in front of a house", {("car", "park in front of", "house")}),
        ("a cat on top of a table", {("cat", "on top of", "table")}),
        ("the keys are on the desk", {("key", "on", "desk")}),
        ("a boy and a girl playing", {("boy", "play", None), ("girl", "play", None)}),
        ("a tall giraffe standing near trees", {("giraffe", "stand near", "tree")}),
        ("Kneading dough", {(None, "knead", "dough")}),
        ("a glass full of water", {("glass", "full of", "water")}),
        ("the man uses a saw to cut wood", {("man", "use", "saw"), ("man", "cut", "wood")}),
        ("people skiing down a hill", {("people", "ski down", "hill")}),
        ("a pianist plays", {("pianist", "play", None)}),
        ("a cart with a wheel and a barn nearby", {("cart", "with", "wheel")}),
        ("Healthy vegetarian food on a rustic wooden table, top view", {("food", "on", "table")}),
        ("cat, dog", set()),
        ("A dancer balances on the rail and smiles", {("dancer", "balance on", "rail"), ("dancer", "smile", None)}),
        (
            "Dog opens gate, steals bone and runs",
            {("dog", "open", "gate"), ("dog", "steal", "bone"), ("dog", "run", None)},
        ),
        ("A busker plays the harp and sings", {("busker", "play", "harp"), ("busker", "sing", None)}),
        ("6 drinks that help you sleep", {("drink", "help", None)}),
        ("Builders when the plan works on the first try", {("plan", "work on", "try")}),
        ("The mill was built by monks and later rebuilt", {("monk", "build", "mill"), (None, "rebuild", "mill")}),
    ],
)
def test_relations(caption: str, expected: set[Triple]) -> None:
    assert triples(parsed(caption)) == expected


@pytest.mark.parametrize(
    ("caption", "expected", "not_expected"),
    [
        ("a girl who brings a kite to every picnic", ("girl", "bring to", "picnic"), None),
        ("Filter for vacuum XV-200", ("filter", "for", "vacuum"), None),
        ("a chef in uniform with a teapot", ("chef", "with", "teapot"), ("uniform", "with", "teapot")),
        ("Novel by Ann Lee narrated by Tim Ray", ("tim ray", "narrate", "novel"), ("tim ray", "narrate", "ann lee")),
        ("a glass of milk royalty free stock photo", ("glass", "of", "milk"), None),
        ("a net used by sailors to catch crabs", ("sailor", "catch", "crab"), ("net", "catch", "crab")),
        ("people walk in Las Vegas", ("people", "walk in", "las vegas"), None),
        ("a nurse biopsies the sample", ("nurse", "biopsy", "sample"), None),
    ],
)
def test_relation_belongs_to_the_right_words(caption: str, expected: Triple, not_expected: Triple | None) -> None:
    found = triples(parsed(caption))
    assert expected in found
    assert not_expected not in found


@pytest.mark.parametrize(
    ("caption", "actions"),
    [
        ("Buy cheap shoes online", []),
        ("Click to enlarge", []),
        ("iPhone 12 Case Blue Leather", []),
        ("playing card", []),
        ("the door is open", []),
        ("oil painting of a building", []),
        ("hourglass not done", []),
        ("Frying pan", []),
        ("saluting face", []),
        ("Old book, page, wood, binding", []),
        ("LED Rounded Lamp", []),
        ("tree - RPG map elements", []),
        ("Oak Tufted Sofa Bed With Drawers", []),
        ("Signed Poster Framed Canvas Print", []),
        ("Mood Color Changing Night Lamps", []),
        ("Maple Cabinet With Glass Shades", []),
        ("Baby Shower Favors", []),
        ("Pink Rose Bud Vase", []),
        ("Waterproof Dogs Purple Wool Vest", []),
        ("Owl Themed Word Cards", []),
        ("Rear Signal Lamp Smoked", []),
        ("Genting Highlands", []),
        ("Porch Rocking Benches", []),
        ("Cotton Door Hanging - Green", []),
        ("clay bells royalty free drawing", []),
        ("rubber lined garden valve", []),
        ("oak cabin floor plans", []),
        ("Cottage Style Plan - 3 Beds 2 Baths", []),
        ("bathroom tiled corner designs", []),
        ("a place to eat pizza", []),
        ("3 Steps to Paint a Small Shed", []),
        ("easy to clean pan", []),
        ("Bank to close 40 branches", ["close"]),
        ("New tram line to open in spring", ["open"]),
        ("Oak Vanity Set by Maple Home", []),
        ("Cutting Badge Set", []),
        ("girls in matching yellow raincoats", []),
        ("Bib shorts in black", []),
        ("old combine harvests wheat in a field", ["harvest"]),
        ("the company labels its boxes", ["label"]),
        ("Two Girls Share an Umbrella", ["share"]),
        ("Young Woman Holding Lantern", ["hold"]),
        ("Spaniels Chasing Rabbits", ["chase"]),
        ("When Clouds Kissed Mountain Tops", ["kiss"]),
        ("Dana Wild crowned Queen Of May", ["crown"]),
        ("Kneading bread", ["knead"]),
        ("a dog barks and runs", ["bark", "run"]),
        ("a woman who wears a hat", ["wear"]),
    ],
)
def test_actions(caption: str, actions: list[str]) -> None:
    assert [action.name for action in parsed(caption).actions] == actions


def test_papers_worked_example_has_complexity_three() -> None:
    graph = parsed("a cat chasing a small blue bird")
    assert (graph.complexity, graph.num_actions) == (3, 1)


def test_spans_point_into_the_caption() -> None:
    caption = "  Two DOGS near https://example.org/x a Pizza Box "
    assert [caption[mention.start : mention.end] for mention in parsed(caption).objects] == ["DOGS", "Pizza Box"]


def test_spans_of_a_caption_with_markup_point_into_the_caption() -> None:
    caption = "<b>Old</b> caf&eacute; &amp; bar"
    assert [caption[mention.start : mention.end] for mention in parsed(caption).objects] == ["caf&eacute;", "bar"]


def test_same_caption_gives_the_same_graph_alone_in_a_batch_and_from_the_cache() -> None:
    captions = ["a man riding a horse", "two small dogs", "a man riding a horse"]
    fresh = CaptionParser(cached=0)
    assert fresh.parse(captions) == [fresh.parse([caption])[0] for caption in captions] == PARSER.parse(captions)


def test_cache_is_bounded() -> None:
    parser = CaptionParser(cached=2)
    parser.parse(["a", "b", "c", "d"])
    assert len(parser._cache) == 2


def test_lone_surrogate_is_skipped_and_spans_stay_valid() -> None:
    graph = parsed("a small \udcff dog \ud83d")
    assert [(mention.name, mention.start) for mention in graph.objects] == [("dog", 10)]
    assert attributes(graph) == {("dog", "small")}
