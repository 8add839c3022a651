"""Words of the caption rules: lists that several rules share, lemmas and word classes of WordNet, and what can act.

The lists are ours: short, and limited to words that are frequent in captions. Lemmas and word classes come from the
index of WordNet that the spaCy model includes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from diht_k8s.stages.filter.captions.tree import Token


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


LEMMAS: Final = {
    "women": "woman",
    "lying": "lie",
    "dying": "die",
    "tying": "tie",
    "skis": "ski",
    "skiing": "ski",
    "taxis": "taxi",
    "selfies": "selfie",
    "media": "media",
}
"""Forms for which the rules give a wrong lemma."""
CACHED_LEMMAS: Final = 1 << 16
"""Number of words whose lemmas are cached."""
VOWELS: Final = "aeiou"


@dataclass(eq=False)
class Lexicon:
    """WordNet's lemmas by part of speech, with the rules that find them (tables of the spaCy model)."""

    verbs: frozenset[str]
    nouns: frozenset[str]
    adjectives: frozenset[str]
    adverbs: frozenset[str]
    verb_exceptions: Mapping[str, Sequence[str]]
    noun_exceptions: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        cached = lru_cache(CACHED_LEMMAS)
        self.verb = cached(self._verb)
        """Lemma of a verb form (lower-case): riding -> ride, sitting -> sit."""
        self.noun = cached(self._noun)
        """Singular of a noun (lower-case); words without a known plural form are unchanged."""

    def _verb(self, word: str) -> str:
        if word in LEMMAS:
            return LEMMAS[word]
        if (known := self.verb_exceptions.get(word)) and word not in self.verbs:
            return known[0]
        if word.endswith(("ing", "ed")) and word in self.verbs:
            return word  # bring, exceed
        for ending in ("ing", "ed"):
            if word.endswith(ending) and len(word) > len(ending) + 1:
                return self._stem(word.removesuffix(ending), ending)
        return next((lemma for lemma in _third_person(word) if lemma in self.verbs), word)

    def _stem(self, stem: str, ending: str) -> str:
        """The verb whose -ing or -ed form has this stem."""
        plain, with_e, undoubled = stem, f"{stem}e", stem[:-1]
        order = [with_e, plain] if _loses_e(stem) else [plain, with_e]
        if len(stem) > 2 and stem[-1] == stem[-2] and stem not in self.verbs:
            order = [undoubled, *order]
        if ending == "ed" and stem.endswith("i"):
            order = [stem[:-1] + "y", stem + "e"]  # carried, tied
        return next((lemma for lemma in order if lemma in self.verbs), order[0] if not _loses_e(stem) else plain)

    def action(self, word: str) -> str:
        """Lemma of a word that is a verb for sure; WordNet may know pipettes as a noun only."""
        return self.noun(word) if word.endswith("s") and not self.is_verb_form(word) else self.verb(word)

    def is_verb_form(self, word: str) -> bool:
        """Whether the word is a form of a known verb."""
        return self.verb(word) in self.verbs

    def _noun(self, word: str) -> str:
        if word in PLURAL_ONLY or len(word) < 3:
            return word
        if word in LEMMAS:
            return LEMMAS[word]
        if known := self.noun_exceptions.get(word):
            return known[0]
        return next((lemma for lemma in _singulars(word) if lemma in self.nouns), word)


def make_lexicon(index: Mapping[str, Iterable[str]], exceptions: Mapping[str, Mapping[str, Sequence[str]]]) -> Lexicon:
    """A lexicon from WordNet's tables (keys noun, verb, adj, adv)."""
    return Lexicon(
        frozenset(index["verb"]),
        frozenset(index["noun"]),
        frozenset(index["adj"]),
        frozenset(index["adv"]),
        dict(exceptions["verb"]),
        dict(exceptions["noun"]),
    )


def _third_person(word: str) -> list[str]:
    if word.endswith("ies"):
        return [word[:-3] + "y", word[:-1], word]
    if word.endswith("es"):
        return [word[:-1], word[:-2], word]
    return [word[:-1], word] if word.endswith("s") and not word.endswith("ss") else [word]


def _singulars(word: str) -> list[str]:
    if not word.endswith("s") or word.endswith("ss"):
        return [word]
    if word.endswith("ies"):
        return [word[:-1], word[:-3] + "y"]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return [word[:-1], word[:-2]]
    if word.endswith("ves"):
        return [word[:-1], word[:-3] + "f", word[:-3] + "fe"]
    return [word[:-1]]


@lru_cache(maxsize=4096)
def _loses_e(stem: str) -> bool:
    """Whether a stem looks like a verb that lost its e: `rid(ing)` is ride, since rid gives ridding; also `us(ing)`."""
    if len(stem) < 2 or stem[-1] in VOWELS + "wxy" or stem[-2] not in VOWELS:
        return len(stem) > 2 and stem[-1] in "cgsvz" and stem[-2] not in VOWELS + "sn"
    before = stem[:-2]
    return not any(letter in VOWELS for letter in before) and (not before or before[-1] not in VOWELS)


def _plural(word: str) -> str:
    if word[-1] == "y" and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


PEOPLE: Final = words(
    "man men woman women boy boys girl girls child children kid kids baby babies toddler toddlers person people couple "
    "couples family families lady ladies guy guys mother father mom dad son daughter brother sister friend friends "
    "player players worker workers student students teacher teachers doctor doctors nurse nurses businessman "
    "businessmen businesswoman businesswomen chef chefs farmer farmers soldier soldiers fireman firefighter "
    "firefighters policeman officer officers dancer dancers singer singers actor actress model models musician "
    "musicians guitarist drummer pianist artist artists bride groom tourist tourists hiker hikers runner runners skier "
    "skiers surfer surfers rider riders cyclist cyclists skateboarder snowboarder swimmer driver drivers pilot pilots "
    "athlete athletes coach captain king queen prince princess crowd group team crew monk monks nun priest carpenter "
    "mechanic plumber electrician engineer engineers scientist scientists astronaut clown pirate wizard witch fairy "
    "santa mermaid elf vampire zombie genie superhero supervillain teenager teenagers adult adults senior seniors "
    "pedestrian pedestrians shopper shoppers visitor visitors customer customers client employee employees boss "
    "manager director president minister mayor politician protester protesters fan fans golfer golfers player "
    "quarterback striker goalkeeper referee judge lawyer detective guard cop robber thief hunter fisherman fishermen "
    "sailor sailors cowboy cowboys ninja samurai knight knights warrior warriors angel angels devil ghost skeleton "
    "robot robots snowman dad grandpa grandma grandmother grandfather shepherd baker waiter waitress barber potter "
    "painter photographer mechanic mechanics photographer journalist reporter student pupil pupils graduate climber "
    "climbers paddler kayaker rower"
)
ANIMALS: Final = words(
    "dog dogs puppy puppies cat cats kitten kittens horse horses pony foal donkey zebra giraffe giraffes elephant "
    "elephants lion lions tiger tigers bear bears panda pandas monkey monkeys gorilla ape wolf wolves fox foxes deer "
    "moose elk cow cows bull bulls calf sheep lamb lambs goat goats pig pigs piglet rabbit rabbits bunny hare squirrel "
    "squirrels mouse mice rat rats hamster bird birds parrot owl eagle hawk falcon duck ducks duckling ducklings goose "
    "geese swan swans chicken chickens hen rooster turkey penguin penguins pigeon pigeons seagull seagulls heron "
    "flamingo peacock sparrow robin crow raven hummingbird fish shark sharks whale whales dolphin dolphins seal seals "
    "otter otters turtle turtles tortoise frog frogs toad snake snakes lizard crocodile alligator dinosaur dragon "
    "unicorn bee bees butterfly butterflies spider ant ants ladybug beetle dragonfly snail crab lobster octopus squid "
    "jellyfish camel camels llama alpaca kangaroo koala hippo rhino leopard cheetah jaguar buffalo bison hedgehog "
    "raccoon skunk bat animal animals pet pets mustang stallion retriever terrier poodle bulldog spaniel beagle"
)
_MORE: Final = words(
    "resident citizen neighbor neighbour villager demonstrator protestor marcher rower gymnast boxer wrestler jockey "
    "sprinter vendor gardener miner beekeeper programmer professor lecturer researcher surgeon commuter passenger "
    "motorist backpacker spectator voter pensioner veteran refugee migrant immigrant rescuer volunteer worshipper "
    "worshiper preacher bishop rabbi chancellor senator governor lawmaker ambassador landlord tenant homeowner "
    "shopkeeper librarian bartender chauffeur juggler acrobat magician ballerina goalie winger midfielder teammate "
    "preschooler youngster cousin nephew niece aunt uncle grandparent grandson granddaughter parent husband author "
    "singer composer activist prisoner inmate suspect victim employee trainee celebrity dignitary paramedic "
    "mosquito wildebeest antelope gazelle impala baboon chimpanzee orangutan lemur armadillo badger chipmunk gopher "
    "meerkat mongoose porcupine opossum weasel wolverine coyote hyena walrus manatee stingray ostrich emu toucan "
    "kingfisher woodpecker finch warbler magpie bluebird pelican albatross puffin stork ibis egret vulture osprey "
    "kestrel gull pheasant iguana gecko chameleon salamander tadpole caterpillar moth wasp hornet bumblebee honeybee "
    "grasshopper cockroach ladybird firefly scorpion tarantula starfish seahorse heifer ewe stag doe fawn mare gelding "
    "mule yak reindeer caribou warthog hound pup cub chick gosling cygnet bobcat tabby wren starling"
)
"""Further people and animals; ANIMATE has their plurals, too."""
ANIMATE: Final = PEOPLE | ANIMALS | _MORE | {_plural(word) for word in _MORE}
ANIMATE_ENDINGS: Final = ("man", "men", "woman", "women", "ist", "ists", "ian", "ians", "smith", "keeper", "keepers")
ACTORS: Final = words(
    "hand hands arm arms finger fingers car cars train trains truck trucks bus boat boats ship ships plane planes "
    "airplane helicopter hero heroes army team teams class company president minister police court government study "
    "report family families crowd husband wife mother father parent brother sister son daughter chairman queen king "
    "prince princess"
)
"""Things that act like people in captions (also groups)."""


def is_animate(word: str) -> bool:
    """Whether a noun (any form, lower-case) names somebody who can act."""
    return word in ANIMATE or (len(word) > 4 and word.endswith(ANIMATE_ENDINGS))


def can_act(token: Token, lexicon: Lexicon) -> bool:
    """Whether a noun names somebody, or something that acts like people in captions."""
    return is_animate(token.lower) or is_animate(lexicon.noun(token.lower)) or token.lower in ACTORS
