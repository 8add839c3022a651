"""Word lists that several caption rules share. They are ours: short, and limited to words that are frequent in captions."""

from __future__ import annotations

from typing import Final


def words(text: str) -> frozenset[str]:
    """A set of words from a line of them."""
    return frozenset(text.split())


def phrases(text: str) -> frozenset[tuple[str, ...]]:
    """A set of phrases from a line of them, split at semicolons."""
    return frozenset(tuple(item.split()) for item in text.split(";"))


def by_first_word(found: frozenset[tuple[str, ...]]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """First word -> the phrases that begin with it, longest first."""
    return {
        first: tuple(sorted((phrase for phrase in found if phrase[0] == first), key=len, reverse=True))
        for first in {phrase[0] for phrase in found}
    }


COLOURS: Final = words(
    "red orange yellow green blue purple pink brown black white grey gray beige navy teal turquoise maroon ivory gold "
    "silver olive khaki cream tan burgundy crimson scarlet magenta cyan violet lavender indigo charcoal coral aqua "
    "bronze mauve lilac fuchsia multicolor multicolour multicolored multicoloured"
)
PLURAL_ONLY: Final = words(
    "people police scissors pliers pants trousers jeans shorts overalls glasses sunglasses goggles clothes pajamas "
    "pyjamas binoculars tights leggings headphones earphones tweezers series species news cattle premises"
)
NUMBER_WORDS: Final = words(
    "several many few dozen dozens hundred hundreds thousand thousands multiple various numerous"
)
ADJECTIVES: Final = words(
    "retro mini custom vintage antique medium waterproof wireless deluxe premium super ultra mega faux handmade "
    "homemade online offline stylish preowned refurbished unisex plus luxe round free vegan grayscale greyscale "
    "monochrome sepia lightweight compact matte oblong"
)
"""Words that the tagger takes for nouns, or that WordNet does not know."""
UNITS: Final = words(
    "ml l cl oz fl lb lbs g kg mg mm cm m km ft inch inches in feet yd px mb gb tb mah w v hz ghz mhz rpm mph kmh psi "
    "percent pcs pc pack eur usd gbp dollars dollar am pm year-old"
)
OBJECT_NOT_ADVERB: Final = words(
    "home outdoors indoors outside inside downtown upstairs downstairs overseas abroad online together"
)
PURPOSE: Final = words(
    "curling timing charging locking clipping colouring coloring baking bathing boxing bowling building camping "
    "carving changing chewing cleaning climbing clothing cooking cutting dancing dining diving drawing dressing "
    "drinking driving engagement filing fishing frying gaming gardening hiking hunting ironing knitting landing living "
    "loading mailing measuring meeting mixing nursing packing painting parking playing printing racing reading rocking "
    "rolling riding rowing running sailing serving sewing shopping shaving shipping skating sketching ski skiing "
    "sleeping sewing steering surfing swimming teaching training traveling travelling vending waiting walking washing "
    "watering wedding welding wiring working writing operating sorting grinding polishing roasting carrying towing "
    "trading lifting breeding engineering marketing advertising accounting banking farming lighting heating cooling "
    "learning mining timing wrapping dipping cycling wrestling fencing greeting evening morning swing king ring spring "
    "string"
)
"""-ing words that name the purpose of the noun after them: a running shoe does not run."""
THINGS_IN_ING: Final = words(
    "building painting wedding clothing evening morning ceiling drawing ring string king wing spring thing something "
    "anything nothing everything swing sling sibling duckling pudding stocking railing flooring bedding earring "
    "lighting meeting feeling greeting engraving etching carving setting landing gathering awning filling topping "
    "frosting icing seasoning dressing shipping lodging packaging wiring tubing molding moulding housing crossing "
    "ending opening beginning living parking farthing herring lining print plumbing scaffolding sibling sterling "
    "viking clearing upbringing offspring writing rating training marketing engineering advertising collecting "
    "shooting fishing hunting camping shopping boxing wrestling racing cycling swimming skiing surfing sewing knitting "
    "quilting baking cooking dining gaming binding backing coating covering stuffing serving savings outing briefing "
    "hearing christening screening listing casting testing planning learning reading bowling paneling panelling "
    "piercing mooring warning"
)
"""-ing words that name a thing after another noun ("oil painting"), or an activity that is not an action of the noun
before it.
"""
AUXILIARIES: Final = words(
    "be is are was were been being am 's 're do does did will would can could shall should may might must"
)
LOOKS_IN_ING: Final = words(
    "matching winning leading missing amazing stunning interesting exciting charming relaxing moving flowing winding "
    "existing contrasting overlapping interlocking surrounding outstanding rotating revolving pouting frowning "
    "cheering"
)
"""-ing words that describe the noun after them although their verbs take objects."""
INTRANSITIVE: Final = words(
    "sleep run fall fly roll pray clink smile cry laugh walk sit stand burn float shine glow grow bloom rise bark swim "
    "jump dance sing leap crawl blink spin wink melt ski slide sled sail climb march move wave play go come wait lie "
    "lean rest kneel hop race skate surf dive glide hover soar perch graze wander stroll hike jog sprint gallop trot "
    "breach migrate bounce drift flow twinkle sparkle recline crouch squat slump dangle flutter ripple shimmer gleam "
    "flicker droop wilt wither crumble erupt giggle grin frown scowl sob weep snooze doze strut waddle lurk roam swoop "
    "twirl whirl wane emerge sneeze cough yawn snore scream shout roar howl bow nod pose smoke work talk speak live "
    "look stare gaze peek drive row clap"
)
"""Verbs that usually take no object: their -ing form before a noun describes it."""
COUNTS: Final = words("dozens hundreds thousands millions")
"""Nouns that count with "of": "hundreds of farmers"."""
