"""Word lists of the caption rules. They are ours: short, and limited to words that are frequent in captions."""

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
SHADES: Final = words(
    "dark light pale bright deep navy mint sky royal baby hot olive forest lime neon medium pastel off jet mustard "
    "rose warm powder steel slate emerald ruby cobalt midnight ocean sea sage electric army hunter dusty burnt "
    "chocolate lemon cherry"
)
PLURAL_ONLY: Final = words(
    "people police scissors pliers pants trousers jeans shorts overalls glasses sunglasses goggles clothes pajamas "
    "pyjamas binoculars tights leggings headphones earphones tweezers series species news cattle premises"
)
INVARIANT: Final = words("fish sheep deer bison moose salmon trout shrimp squid offspring")
"""Nouns whose plural equals their singular."""
FOREIGN: Final = words(
    "le la les un une des du et sur avec dans pour el los las una y con por del der die das und auf dem den mit ein "
    "eine im il gli di per van het een de en em"
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
PLAIN_ADJECTIVES: Final = words(
    "smart limited dark cold cool short long high low heavy dry wet clear perfect sweet old new little big great small "
    "large giant young good best fine standard open secret smooth blind makeshift cozy cosy latest triple double "
    "single quick fast ancient whole deep regular funny thick thin shallow common wild rich raw full evil blank "
    "extreme lean petite solid rear front upper lower daily weekly monthly analog analogue male female holy military "
    "hidden hot cute pretty happy ultimate favorite favourite private"
)
"""The same kind of words, but capitalised inside a sentence they belong to a name ("Great Barrier Reef")."""
ORIGIN_ENDINGS: Final = ("ean", "ian", "ese", "ish", "ing", "ed")
"""Endings of adjectives that WordNet lists as nouns only ("Caribbean", "vegetarian")."""
ADJECTIVE_ENDINGS: Final = (
    *(
        "able",
        "ible",
        "less",
        "proof",
        "ic",
        "al",
        "ous",
        "ive",
        "ful",
        "ern",
        "ary",
        "ory",
        "ant",
        "ent",
        "ite",
        "like",
        "some",
    ),
    *("y", *ORIGIN_ENDINGS),
)
"""Endings that make a word unknown to WordNet an adjective."""
SURE_ADJECTIVE_ENDINGS: Final = ("able", "ible", "less", "proof", "ic", "al", "ous", "ive", "ful", "ish", "ern")
"""Endings that make a word that WordNet lists as adjective and noun an adjective before a noun."""
NOUN_MODIFIERS: Final = words(
    "plastic ceramic leather rubber cotton steel glass metal stone paper brick porcelain velvet silk denim copper "
    "brass iron linen wool bamboo oak pine marble granite concrete cardboard nylon polyester pet side animal crystal "
    "mineral material capital music fabric maxi midi signal tabby mosaic olive baby kitchen summer winter home master "
    "luxury comic graphic picnic clinic traffic attic topic"
)
"""Nouns that WordNet also lists as adjectives; before a noun they are part of its name."""
DETERMINERS: Final = words(
    "a an the this that these those some any all every each both no another other others such same own more most less "
    "least much either neither what which whose enough half"
)
PERSONAL_PRONOUNS: Final = words("i me you he him she her it we us they them mine yours his hers its ours theirs")
CALENDAR: Final = words(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
    "september october november december jan feb mar apr jun jul aug sep sept oct nov dec today tomorrow yesterday "
    "tonight mon tue tues wed thu thur thurs fri"
)
MONTH_WORDS: Final = words("march may")
UNITS: Final = words(
    "ml l cl oz fl lb lbs g kg mg mm cm m km ft inch inches in feet yd px mb gb tb mah w v hz ghz mhz rpm mph kmh psi "
    "percent pcs pc pack eur usd gbp dollars dollar am pm year-old"
)
HYPHENATED_NOUNS: Final = words(
    "t-shirt t-shirts e-book e-books x-ray x-rays co-op pop-up pop-ups pull-up make-up check-in close-up close-ups "
    "tee-shirt"
)
STREETS: Final = words(
    "lane ln street st avenue ave road rd drive dr boulevard blvd court ct terrace highway hwy parkway pkwy circle"
)
PARTS: Final = words("piece pieces")
"""Units between a number and a noun: "12 piece cookware set"."""
IDENTIFIER_WORDS: Final = words("no no. nr series model size vol vol. volume part ref sku art. type")
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


def is_animate(word: str) -> bool:
    """Whether a noun (any form, lower-case) names somebody who can act."""
    return word in ANIMATE or (len(word) > 4 and word.endswith(ANIMATE_ENDINGS))


CAUSATIVES: Final = words(
    "teach help watch see hear let make ask tell want allow force train encourage invite show feel notice observe "
    "catch find keep leave order send call lead"
)
"""After these the infinitive belongs to the object: "teaches a boy to swim"."""
AUXILIARIES: Final = words(
    "be is are was were been being am 's 're do does did will would can could shall should may might must"
)
COPULAS: Final = words("become seem appear remain look feel stay get smell taste sound turn keep grow fall")
"""Verbs whose adjective describes their subject: "tastes salty"."""
LOOKS_IN_ING: Final = words(
    "matching winning leading missing amazing stunning interesting exciting charming relaxing moving flowing winding "
    "existing contrasting overlapping interlocking surrounding outstanding rotating revolving pouting frowning "
    "cheering"
)
"""-ing words that describe the noun after them although their verbs take objects."""
MANNERS: Final = words("hand home machine laser oven sun kiln")
"""Nouns that give the manner of making: "hand drawn elements"."""
_COMPLEX: Final = phrases(
    "in front of;on top of;at the top of;at the bottom of;in the middle of;in the center of;in the centre of;on the "
    "side of;on the edge of;next to;close to;out of;inside of;outside of;in between;across from;ahead of;at the edge "
    "of;at the side of;on the bottom of;on the top of;at the end of;at the foot of;by the side of;in the back of;at "
    "the back of;on the back of;instead of;because of;along with;together with;up to;due to;according to;such as;off "
    "of;thanks to;away from;far from"
)
COMPLEX_PREPOSITIONS: Final = by_first_word(_COMPLEX)
"""first word -> the multi-word prepositions that begin with it, longest first."""
INTRANSITIVE: Final = words(
    "sleep run fall fly roll pray clink smile cry laugh walk sit stand burn float shine glow grow bloom rise bark swim "
    "jump dance sing leap crawl blink spin wink melt ski slide sled sail climb march move wave play go come wait lie "
    "lean rest kneel hop race skate surf dive glide hover soar perch graze wander stroll hike jog sprint gallop trot "
    "breach migrate bounce drift flow twinkle sparkle recline crouch squat slump dangle flutter ripple shimmer gleam "
    "flicker droop wilt wither crumble erupt giggle grin frown scowl sob weep snooze doze strut waddle lurk roam swoop "
    "twirl whirl wane emerge sneeze cough yawn snore scream shout roar howl bow nod pose smoke work talk speak live "
    "look stare gaze peek drive row clap"
)
"""Verbs that usually take no object: their -ing form before a noun describes it, and a preposition after them is not a
particle.
"""
COMMANDS: Final = words(
    "buy shop click order visit get see find learn read watch make add download print use save try enjoy keep check "
    "discover choose call follow join stop start come go look take tell thank wish wear share subscribe sign register "
    "explore book browse compare contact create customize design do eat drink give have help hang let listen live love "
    "meet open pay pick play please press pin put request reserve say search select sell send show stay swipe switch "
    "tap think touch travel turn view vote wait walk win work write zoom don't donate"
)
"""Verbs that open a caption as a command to the reader."""
COMMANDS_OR_THINGS: Final = words(
    "stop shop print book play search call contact design work walk travel touch press pin post sign love watch share"
)
"""Of these, verbs that name things before a bare singular noun: "stop sign", "book cover"."""
COUNTS: Final = words("dozens hundreds thousands millions")
QUANTITIES: Final = COUNTS | words("lots plenty tons loads")
MASS: Final = words(
    "dough pasta bread water milk coffee tea wine beer rice soup meat food music paper wood wool clay paint hair money "
    "grass snow fire breakfast lunch dinner football soccer basketball baseball tennis golf chess guitar piano yoga "
    "cheese fruit salad chocolate cake pizza jam butter flour sugar salt honey juice corn wheat hay metal iron steel "
    "gold leather fabric cloth jewelry furniture laundry homework work business time life love english history art "
    "traffic weather smoke air sand soil dirt mud ice rain garbage trash"
)
"""Nouns that need no article as objects: "kneading dough" is an action, "a frying pan" and "saluting face" are not."""
MISTAKEN_VERBS: Final = words("set saw cast cut")
SINGULAR_DETERMINERS: Final = words("a an each every this neither another")
DROPPED_PREPOSITIONS: Final = words("as than")
FIXED_NAMES: Final = phrases(
    "polar bear;grizzly bear;brown bear;hot dog;hot dogs;hot air;guinea pig;guinea pigs;bald eagle;golden "
    "retriever;french fry;french fries;sweet potato;sweet potatoes;high school;real estate;social media;stainless "
    "steel;cast iron;still life;slow cooker;cell phone;mobile phone;prime minister;new year;polar bears;grizzly "
    "bears;bald eagles;golden retrievers;cell phones;mobile phones;first aid;living room;common sense;red cross;ice "
    "cream;black hole;fire engine;teddy bear;ferris wheel;high street;high schools;cardinal directions;roller "
    "coaster;new york;new zealand;new delhi;new jersey;new mexico;new england;new orleans;new hampshire;new "
    "brunswick;great britain;great lakes;united states;united kingdom;south africa;south korea;south carolina;south "
    "dakota;north korea;north carolina;north dakota;west virginia;sri lanka;costa rica;puerto rico;big ben;grand "
    "canyon;red sea;black sea;dead sea;green bay;white house;rocky mountains;golden gate;black friday;sour cream;light "
    "bulb;light bulbs;light switch;light fixture;light fixtures"
)
ADVERBIALS: Final = by_first_word(
    phrases(
        "for example;side by side;hand in hand;arm in arm;face to face;back to back;day by day;one by one;at least;at "
        "last;of course;last night;last week;last year"
    )
)
"""first word -> fixed adverbials that begin with it."""
