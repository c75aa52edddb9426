"""The words of captions: how kinds, attributes, sizes, relations, styles and backgrounds are called.

The first phrase of each tuple is the canonical one: the most frequent, and the one that captions without randomness
use. Every phrase is in lower case. Captions are made of these phrases (`captions.py`) and understood by them
(`parser.py`), so that a phrase added here is spoken and understood.
"""

from __future__ import annotations

from t2i.data.toybox.attributes import COLOURS
from t2i.data.toybox.description import PLACES
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.textures import FRUITS

# Other names of kinds: singular and plural.
SYNONYMS: dict[str, tuple[tuple[str, str], ...]] = {
    "cat": (("kitty", "kitties"), ("kitten", "kittens")),
    "dog": (("puppy", "puppies"), ("doggy", "doggies")),
    "horse": (("pony", "ponies"),),
    "dinosaur": (("dino", "dinos"),),
    "astronaut": (("spaceman", "spacemen"), ("cosmonaut", "cosmonauts")),
    "robot": (("android", "androids"),),
    "witch": (("sorceress", "sorceresses"),),
    "car": (("automobile", "automobiles"), ("auto", "autos")),
    "aeroplane": (("airplane", "airplanes"), ("plane", "planes")),
    "bicycle": (("bike", "bikes"),),
    "boat": (("ship", "ships"), ("sailboat", "sailboats")),
    "rocket": (("spaceship", "spaceships"),),
    "train": (("locomotive", "locomotives"),),
    "burger": (("hamburger", "hamburgers"),),
    "ice cream": (("ice cream cone", "ice cream cones"),),
    "cup": (("mug", "mugs"),),
    "teapot": (("tea pot", "tea pots"),),
    "suitcase": (("trunk", "trunks"),),
    "backpack": (("rucksack", "rucksacks"),),
    "shirt": (("t-shirt", "t-shirts"), ("tee", "tees")),
    "house": (("cottage", "cottages"),),
    "armchair": (("easy chair", "easy chairs"),),
    "street sign": (("road sign", "road signs"), ("sign", "signs")),
    "laptop": (("notebook computer", "notebook computers"),),
    "lamp": (("table lamp", "table lamps"),),
    "mushroom": (("toadstool", "toadstools"),),
    "flower": (("blossom", "blossoms"),),
    "gift": (("present", "presents"),),
}

# Adjectives, before the noun.
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "brown": ("brown", "chestnut"),
    "black": ("black", "jet-black"),
    "white": ("white", "snow-white"),
    "gray": ("gray", "grey"),
    **{fruit: (fruit,) for fruit in FRUITS},
    "zebra": ("zebra", "zebra-striped"),
    "leopard": ("leopard", "leopard-spotted"),
    "wood": ("wooden", "wood"),
    "brick": ("brick",),
    "polka dot": ("polka dot", "polka-dotted"),
    "starry night": ("starry night",),
    "rainbow": ("rainbow", "rainbow-coloured", "rainbow-colored"),
}
# After the noun.
QUALIFIERS: dict[str, tuple[str, ...]] = {
    **{colour: () for colour in COLOURS},  # "that is red": see captions.py
    **{fruit: () for fruit in FRUITS},  # "in the shape of an avocado", "that looks like an avocado", "like an avocado"
    "zebra": ("with zebra stripes",),
    "leopard": ("with leopard spots",),
    "wood": ("made of wood", "made from wood"),
    "brick": ("made of bricks", "built of bricks"),
    "polka dot": ("with polka dots",),
    "starry night": ("painted like a starry night",),
    "rainbow": ("with rainbow stripes", "in rainbow colours", "in rainbow colors"),
}

SIZES: dict[str, tuple[str, ...]] = {
    "big": ("big", "large", "huge"),
    "small": ("small", "little", "tiny"),
}

NUMBERS: dict[int, tuple[str, ...]] = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
ONE = ("a", "an", "the", "one", "1")

RELATIONS: dict[str, tuple[str, ...]] = {
    "on top of": ("on top of", "on", "above", "over", "standing on"),
    "below": ("below", "under", "beneath", "underneath"),
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "inside": ("inside", "in", "inside of"),
    "in front of": ("in front of", "before"),
    "behind": ("behind", "in back of"),
    "riding": ("riding", "riding on", "that rides"),
    "eating": ("eating", "that eats", "munching"),
    "holding": ("holding", "that holds", "carrying"),
    "wearing": ("wearing", "that wears", "with"),
    "sitting on": ("sitting on", "seated on", "that sits on"),
}

# What can be said of two things in one sentence: "a red cat is on top of a blue car".
FINITE: dict[str, tuple[str, ...]] = {
    **{place: (f"is {place}",) for place in PLACES},
    "riding": ("is riding", "rides"),
    "eating": ("is eating", "eats"),
    "holding": ("is holding", "holds"),
    "wearing": ("is wearing", "wears"),
    "sitting on": ("is sitting on", "sits on"),
}

# "a blue car with a red cat on top": the second thing's place, after it.
AFTER_WITH: dict[str, tuple[str, ...]] = {
    "on top of": ("on top", "on it"),
    "below": ("below it", "under it"),
    "left of": ("to its left", "on its left"),
    "right of": ("to its right", "on its right"),
    "inside": ("inside", "in it"),
    "in front of": ("in front of it",),
    "behind": ("behind it",),
}

BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "white": ("on a white background", "on white"),
    "studio": ("in a studio",),
    "meadow": ("in a meadow", "on the grass"),
    "beach": ("on the beach", "at the beach"),
    "room": ("in a room", "on the floor"),
    "snow": ("in the snow",),
}

# Styles: before the things, and after them.
STYLE_OPENINGS: dict[str, tuple[str, ...]] = {
    "plain": ("a picture of", "an image of", "a photo of", "a drawing of", "a photograph of"),
    "watercolor": ("a watercolor painting of", "a watercolour painting of", "a watercolor of", "a watercolour of"),
    "oil painting": ("an oil painting of", "a painting of"),
    "pencil sketch": ("a pencil sketch of", "a pencil drawing of", "a sketch of"),
    "pixel art": ("pixel art of", "a pixel art image of"),
    "cubist": ("a cubist painting of",),
    "mosaic": ("a mosaic of",),
    "neon": ("a neon sign of", "neon lights in the shape of"),
    "ink": ("an ink drawing of", "an ink painting of"),
    "stained glass": ("a stained glass window of", "stained glass of"),
    "crayon": ("a crayon drawing of", "a child's drawing of"),
}
STYLE_ENDINGS: dict[str, tuple[str, ...]] = {
    "watercolor": ("in watercolor", "in watercolour"),
    "oil painting": ("in oil", "as an oil painting"),
    "pencil sketch": ("in pencil", "as a pencil sketch"),
    "pixel art": ("as pixel art", "in pixel art style"),
    "cubist": ("in the style of picasso", "in cubist style", "in the style of cubism"),
    "mosaic": ("as a mosaic",),
    "neon": ("in neon", "in neon lights"),
    "ink": ("in ink",),
    "stained glass": ("in stained glass", "as stained glass"),
    "crayon": ("in crayon", "drawn with crayons"),
}

COMMANDS = ("draw", "show me", "generate", "paint me", "i want", "please draw", "give me", "there is", "there are")
CREATURES = (
    "an animal",
    "a creature",
    "an animal that is",
    "a creature that is",
)  # "an animal half mouse half octopus"
INSCRIPTIONS = (
    "that reads",
    "with the inscription:",
    "with the inscription",
    "that says",
    "with the text",
    "with the words",
    "saying",
    "reading",
)


def names(kind: str) -> tuple[tuple[str, str], ...]:
    """The names of a kind, singular and plural; the canonical one first."""
    return ((KINDS[kind].name, KINDS[kind].plural), *SYNONYMS.get(kind, ()))


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it. None of the words here begins with a silent h; "unicorn"s do not occur."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
