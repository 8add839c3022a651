"""Animacy: nouns for people, animals and other things that act like people in captions."""

from __future__ import annotations

from typing import Final

from diht_k8s.stages.filter.captions.lexicon import Lexicon
from diht_k8s.stages.filter.captions.tree import Token
from diht_k8s.stages.filter.captions.wordlists import words


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
