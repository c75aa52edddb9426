"""Captions of scenes, in many phrasings; some leave facts out, and some are typed as people type.

Shapes of a caption: an opening ("a watercolor painting of"), the things with their relations, a background, a style.
`parser.py` understands every caption made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from t2i.data.toybox import words
from t2i.data.toybox.attributes import COLOURS
from t2i.data.toybox.description import PLACES, Relation, SceneDescription, Thing
from t2i.data.toybox.facts import TURNED, Fact, relation_fact
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.textures import FRUITS
from t2i.data.toybox.words import article

# Probabilities of the parts that a caption may have, and of what it may leave out.
P_CANONICAL = 0.6  # the first of several phrases
P_SYNONYM = 0.15  # another name of a kind
P_BARE = 0.05  # a thing without its attribute and size
P_RELATION_OMITTED = 0.15  # places only: "a red cat and a blue car"
P_BACKGROUND = 0.3
P_OPENING = 0.2  # of a plain image; a style is always stated
P_STYLE_ENDING = 0.4  # "… in watercolor" in place of "a watercolor painting of …"
P_COMMAND = 0.05  # "draw …"
P_NO_ARTICLE = 0.08  # "red cat, blue car"
P_NEGATION = 0.03  # "a cat that is not red", of single things
P_UPPER = 0.03
P_SENTENCE = 0.08  # a capital at the beginning and a full stop at the end
P_TYPO = 0.03  # two letters exchanged, or one doubled

_TRAINED_FORMS = {  # with the frequency of each; a form that does not apply is chosen anew
    "after": 0.60,  # "a red cat on top of a blue car"
    "finite": 0.10,  # "a red cat is on top of a blue car"
    "with": 0.10,  # "a blue car with a red cat on top"
    "turned": 0.08,  # "a blue car below a red cat"
    "columns": 0.06,  # "on the left a red cat, on the right a blue car"
    "pronoun": 0.06,  # "the cat is red and the car is right of it"
}


@dataclass
class Caption:
    """A caption, and the facts that it states (see `t2i.data.toybox.facts.facts`)."""

    text: str
    stated: frozenset[Fact]


def caption(scene: SceneDescription, rng: np.random.Generator | None = None, held_out: bool = False) -> Caption:
    """A caption of a scene; without `rng`, the canonical one, which states everything but the background.

    Args:
        rng: the only source of randomness.
        held_out: phrase it as training captions never are; the scene must have a relation of two single things.
    """
    return _Writer(scene, None if rng is None else rng.random, held_out).caption()


@dataclass
class _Writer:
    scene: SceneDescription
    random: Callable[[], float] | None
    held_out: bool
    stated: set[Fact] = field(default_factory=set)
    plain_nouns: bool = False  # without articles
    sentence: bool = False  # has a verb, so that no "a picture of" can stand before it

    # --- choices ----------------------------------------------------------------------------------------------------

    def chance(self, p: float) -> bool:
        """True with probability p; without randomness, never."""
        return self.random is not None and self.random() < p

    def pick(self, options: Sequence[str]) -> str:
        """The first option with probability P_CANONICAL, otherwise one of the others; without randomness the first."""
        if self.random is None or len(options) == 1 or self.random() < P_CANONICAL:
            return options[0]
        return options[1 + int(self.random() * (len(options) - 1))]

    # --- the caption as a whole -------------------------------------------------------------------------------------

    def caption(self) -> Caption:
        self.plain_nouns = self.chance(P_NO_ARTICLE)
        text = self.opened(self.body())
        if not self.sentence and self.chance(P_COMMAND):
            text = f"{self.pick(words.COMMANDS)} {text}"
        return Caption(self.typed(text), frozenset(self.stated))

    def opened(self, body: str) -> str:
        """The body with its style and background."""
        style = self.scene.style
        if self.scene.background is not None and self.chance(P_BACKGROUND):
            body = f"{body} {self.pick(words.BACKGROUNDS[self.scene.background])}"
            self.stated.add(("background", self.scene.background))
        if style == "plain":
            opened = not self.sentence and self.chance(P_OPENING)
            return f"{self.pick(words.STYLE_OPENINGS['plain'])} {body}" if opened else body
        self.stated.add(("style", style))
        if self.sentence or self.chance(P_STYLE_ENDING):
            return f"{body} {self.pick(words.STYLE_ENDINGS[style])}"
        return f"{self.pick(words.STYLE_OPENINGS[style])} {body}"

    def typed(self, text: str) -> str:
        """The text as people type it: sometimes in capitals, as a sentence, or with one wrong letter."""
        if self.chance(P_UPPER):
            return '"'.join(part.upper() if i % 2 == 0 else part for i, part in enumerate(text.split('"')))
        if self.chance(P_TYPO):
            text = _misspelt(text, self.random)
        if self.chance(P_SENTENCE):
            text = text[0].upper() + text[1:] + "."
        return text

    # --- things -----------------------------------------------------------------------------------------------------

    def thing(self, thing: Thing, definite: bool = False, bare: bool = False, pure: bool = False) -> str:
        """A thing with its article or number: "a red cat", "three wooden horses".

        Args:
            definite: with "the".
            bare: without attribute, size, head and inscription.
            pure: with adjectives only, so that a preposition may follow.
        """
        self.stated.add(("kind", thing.kind))
        plural = thing.count > 1
        if plural:
            self.stated.add(("count", thing.kind, thing.count))
        if thing.head is not None:
            return self.hybrid(thing, bare)
        named = words.names(thing.kind)
        noun = named[0][plural]
        if len(named) > 1 and self.chance(P_SYNONYM):
            noun = named[1 + int(self.random() * (len(named) - 1))][plural]
        if not bare and not self.chance(P_BARE):
            noun = self.described(thing, noun, pure)
        if not bare and thing.text is not None:
            self.stated.add(("text", thing.kind, thing.text))
            noun = f'{noun} {self.pick(words.INSCRIPTIONS)} "{thing.text}"'
        return self.counted(thing, noun, definite)

    def counted(self, thing: Thing, noun: str, definite: bool) -> str:
        if thing.count > 1:
            noun = f"{self.pick(words.NUMBERS[thing.count])} {noun}"
        if definite:
            return f"the {noun}"
        if thing.count > 1:
            return noun
        if self.plain_nouns:
            return noun
        return f"one {noun}" if self.chance(0.02) else article(noun)

    def described(self, thing: Thing, noun: str, pure: bool) -> str:
        """The noun with its size and attribute."""
        plural, qualifier = thing.count > 1, ""
        if thing.attribute is not None:
            adjective, qualifier = self.attribute(thing.attribute, plural, pure)
            noun = f"{adjective} {noun}".strip()
            self.stated.add(("attribute", thing.kind, thing.attribute))
        other = thing.without
        open_to_any = thing.attribute is None and thing.text is None and not pure and not plural
        if other is None and open_to_any and self.chance(P_NEGATION):
            other = self.pick([colour for colour in COLOURS if not resembles(thing.kind, colour)])
        if other is not None:
            are = "are" if plural else "is"
            denied = self.pick((f"that {are} not {other}", f"that {are}n't {other}", f"which {are} not {other}"))
            qualifier = f"{qualifier} {denied}".strip()
            self.stated.add(("without", thing.kind, other))
        if thing.size is not None:
            noun = f"{self.pick(words.SIZES[thing.size])} {noun}"
            self.stated.add(("size", thing.kind, thing.size))
        return f"{noun} {qualifier}".strip()

    def attribute(self, attribute: str, plural: bool, pure: bool) -> tuple[str, str]:
        """The adjective or the qualifier of an attribute; the other is empty."""
        adjective = self.pick(words.ADJECTIVES[attribute])
        if attribute in COLOURS:
            after = (f"that {'are' if plural else 'is'} {adjective}",) if self.chance(0.1) else ()
        elif attribute in FRUITS:
            fruit = f"{attribute}s" if plural else article(attribute)
            look = "look" if plural else "looks"
            after = (f"in the shape of {fruit}", f"that {look} like {fruit}", f"like {fruit}")
            after = after if self.chance(0.4) else ()
        else:
            after = words.QUALIFIERS[attribute] if self.chance(0.35) else ()
        if not after or pure:
            return adjective, ""
        return "", self.pick(after)

    def hybrid(self, thing: Thing, bare: bool) -> str:
        """A hybrid: "an animal half mouse half octopus", "a penguin with the head of a cat"."""
        self.stated.add(("head", thing.kind, thing.head))
        head, body = KINDS[thing.head].name, KINDS[thing.kind].name
        plain = thing.attribute is None and thing.size is None
        if plain and self.chance(0.4):
            both = KINDS[thing.head].creature and KINDS[thing.kind].creature
            opening = self.pick(words.CREATURES) if both else "a thing"
            return f"{opening} {self.pick((f'half {head} half {body}', f'half {head} and half {body}'))}"
        noun = body if bare else self.described(thing, body, pure=True)
        endings = [f"with the head of {article(head)}"]
        if thing.head not in FRUITS:  # "that looks like an avocado" is said of the texture
            endings += [f"that looks like {article(head)}", f"like {article(head)}"]
        ending = self.pick(endings)
        return f"{self.counted(thing, noun, False)} {ending}"

    # --- relations --------------------------------------------------------------------------------------------------

    def body(self) -> str:
        """All things and relations."""
        if len(self.scene.things) == 1:
            return self.thing(self.scene.things[0])
        if len(self.scene.things) == 2 and self.scene.relations:
            return self.pair(self.scene.relations[0])
        return self.listed()

    def pair(self, relation: Relation) -> str:
        """Two things in a relation."""
        a, b = self.scene.things[relation.subject], self.scene.things[relation.object]
        if self.held_out:
            return self.held_out_pair(a, relation.name, b)
        if relation.name in ("left of", "right of") and self.chance(P_RELATION_OMITTED):
            left, right = (a, b) if relation.name == "left of" else (b, a)
            return self.joined([self.thing(left), self.thing(right)])
        self.stated.add(relation_fact(a.kind, relation.name, b.kind))
        while True:
            text = self.form(self.drawn_form(), a, relation.name, b)
            if text is not None:
                return text

    def drawn_form(self) -> str:
        if self.random is None:
            return "after"
        point = self.random()
        for name, p in _TRAINED_FORMS.items():
            point -= p
            if point < 0:
                return name
        return "after"

    def form(self, form: str, a: Thing, relation: str, b: Thing) -> str | None:
        """The relation phrased in a form; None if the form does not apply."""
        place, single = relation in PLACES, a.count == b.count == 1
        match form:
            case "after":
                return f"{self.thing(a)} {self.pick(words.RELATIONS[relation])} {self.thing(b)}"
            case "finite" if single:
                self.sentence = True
                return f"{self.thing(a, definite=True)} {self.pick(words.FINITE[relation])} {self.thing(b)}"
            case "with" if relation in words.AFTER_WITH and single:
                return f"{self.thing(b)} with {self.thing(a)} {self.pick(words.AFTER_WITH[relation])}"
            case "turned" if relation in TURNED:
                return f"{self.thing(b)} {self.pick(words.RELATIONS[TURNED[relation]])} {self.thing(a)}"
            case "columns" if relation in ("left of", "right of"):
                left, right = (a, b) if relation == "left of" else (b, a)
                return f"on the left {self.thing(left)}, on the right {self.thing(right)}"
            case "pronoun" if place and single and self.simple(a) and self.simple(b) and b.attribute is not None:
                self.sentence = True
                self.stated.add(("attribute", b.kind, b.attribute))
                colour = self.pick(words.ADJECTIVES[b.attribute])
                first = f"{self.thing(b, definite=True, bare=True)} is {colour}"
                return f"{first} and {self.thing(a, definite=True)} is {self.pick(words.RELATIONS[relation])} it"
        return None

    @staticmethod
    def simple(thing: Thing) -> bool:
        return thing.head is None and thing.text is None

    def held_out_pair(self, a: Thing, relation: str, b: Thing) -> str:
        """In a form that training captions never use."""
        self.sentence = True
        self.stated.add(relation_fact(a.kind, relation, b.kind))
        if relation in ("left of", "right of") and self.chance(0.5):
            left, right = (a, b) if relation == "left of" else (b, a)
            return f"to the left, {self.thing(left)}; to the right, {self.thing(right)}"
        if relation in PLACES:
            return f"{self.pick(words.RELATIONS[relation])} {self.thing(b)} is {self.thing(a)}"
        return f"{self.thing(b, pure=True)}, and {self.thing(a, pure=True)} {self.pick(words.FINITE[relation])} it"

    def listed(self) -> str:
        """Any number of things: those in relations first, chained, then the others."""
        things, relations, said, parts = self.scene.things, list(self.scene.relations), set(), []
        for relation in relations:
            self.stated.add(relation_fact(things[relation.subject].kind, relation.name, things[relation.object].kind))
        while relations:
            relation = next((r for r in relations if r.subject in said or r.object in said), relations[0])
            relations.remove(relation)
            a, b, name = relation.subject, relation.object, relation.name
            if a in said or b not in said:
                subject = self.thing(things[a], definite=a in said, bare=a in said)
                second = self.thing(things[b], definite=b in said, bare=b in said)
                parts.append(f"{subject} {self.pick(words.RELATIONS[name])} {second}")
            elif name in TURNED:
                second = self.thing(things[b], definite=True, bare=True)
                parts.append(f"{second} {self.pick(words.RELATIONS[TURNED[name]])} {self.thing(things[a])}")
            else:
                self.sentence = True
                second = self.thing(things[b], definite=True, bare=True)
                parts.append(f"{self.thing(things[a])} {self.pick(words.FINITE[name])} {second}")
            said |= {a, b}
        parts += [self.thing(thing) for i, thing in enumerate(things) if i not in said]
        return self.joined(parts)

    def joined(self, parts: Sequence[str]) -> str:
        """A list: "a red cat, a blue car and a tree"."""
        if self.chance(0.2):
            return ", ".join(parts)
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def resembles(kind: str, colour: str) -> bool:
    """Whether a kind's natural colours may pass for a colour; too much rather than too little."""
    inks = {shape.natural for shape in KINDS[kind].shapes if shape.ink is None}
    return any(sum((a - b) ** 2 for a, b in zip(ink, COLOURS[colour], strict=True)) < 130**2 for ink in inks)


def _misspelt(text: str, random: Callable[[], float]) -> str:
    """The text with a mistake in one of its longer words, outside quotation marks."""
    from t2i.data.toybox.parser import corrected  # the parser's vocabulary is made of that of captions

    parts = text.split('"')
    candidates = [(i, word) for i in range(0, len(parts), 2) for word in parts[i].split() if len(word) >= 5]
    candidates = [(i, word) for i, word in candidates if word.isalpha()]
    if not candidates:
        return text
    i, word = candidates[int(random() * len(candidates))]
    at = 1 + int(random() * (len(word) - 2))
    exchanged, doubled = word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at] + word[at:]
    wrong = exchanged if random() < 0.5 else doubled  # other mistakes may make other words, rude ones among them
    if wrong == word or corrected(wrong) != word:  # another word, or one that could be several
        return text
    parts[i] = parts[i].replace(word, wrong, 1)
    return '"'.join(parts)
