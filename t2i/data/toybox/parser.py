"""Understanding captions: from a prompt that people type to a scene, and the words that are unknown.

The prompt is cut into the phrases of `words.py`, the longest first, and the phrases are read from left to right: things
with what is said of them, and the relations between them. It is no grammar of English: whatever it does not know it
names in `Parse.unknown`, and reads on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from t2i.data.toybox import words
from t2i.data.toybox.description import MAX_COUNT, Relation, SceneDescription, Thing, can
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.textures import FRUITS

_TOKEN = re.compile(r'"[^"]*"|\w[\w\'-]*|[.,;:!?()]')
_FILLERS = frozenset(
    [
        *("a", "an", "and", "are", "at", "by", "for", "her", "his", "i", "is", "its", "me", "my", "of", "please"),
        *("scene", "some", "that", "the", "there", "this", "to", "very", "which", "with"),
    ]
)
_PUNCTUATION = frozenset(".,;:!?()")


@dataclass(frozen=True)
class Item:
    """A phrase of a prompt: what sort it is, its value, and its words."""

    sort: str
    value: object = None
    words: str = ""


@dataclass(frozen=True)
class Parse:
    """What a prompt means.

    Attributes:
        scene: the scene, with everything unspecified left open; None if the prompt names no thing.
        unknown: words that are not known, and known phrases that do not fit where they stand ("a red cat on top of").
        problem: why there is no scene, or "".
    """

    scene: SceneDescription | None
    unknown: tuple[str, ...] = ()
    problem: str = ""


def parse(text: str) -> Parse:
    """The scene of a prompt, in any of the phrasings of `captions.py`, and of many like them."""
    items, unknown = _items(text)
    reader = _Reader(items)
    try:
        scene = reader.scene()
    except ValueError as error:
        return Parse(None, (*unknown, *reader.unused), str(error))
    return Parse(scene, (*unknown, *reader.unused))


# --- phrases ----------------------------------------------------------------------------------------------------------


@cache
def _phrases() -> dict[tuple[str, ...], Item]:
    """Every known phrase as its words, with its meaning; of two meanings the first counts."""
    found: dict[tuple[str, ...], Item] = {}
    for sort, meanings in _meanings().items():
        for value, options in meanings:
            for option in options:
                found.setdefault(tuple(_TOKEN.findall(option)), Item(sort, value))
    return found


def _meanings() -> dict[str, Iterable[tuple[object, Iterable[str]]]]:
    """{sort: (value, phrases) …}"""
    relations = [(name, [o for o in options if o != "with"]) for name, options in words.RELATIONS.items()]
    relations += [(name, [o for o in options if not o.startswith("is ")]) for name, options in words.FINITE.items()]
    after_with = [  # "below it" is a relation to "it"
        (name, [o for o in options if o.removesuffix(" it") not in words.RELATIONS[name]])
        for name, options in words.AFTER_WITH.items()
    ]
    styles = (*words.STYLE_OPENINGS.items(), *words.STYLE_ENDINGS.items())
    adjectives = [*words.ADJECTIVES.items(), *((fruit, [f"{fruit}s"]) for fruit in FRUITS)]
    negations = ("is not", "isn't", "are not", "aren't")
    return {
        "kind": [(kind, [name for pair in words.names(kind) for name in pair]) for kind in KINDS],
        "adjective": adjectives,  # with the plural of fruits: "in the shape of avocados"
        "qualifier": words.QUALIFIERS.items(),
        "size": words.SIZES.items(),
        "number": words.NUMBERS.items(),
        "article": [(word == "the", (word,)) for word in words.ONE],
        "relation": relations,
        "after with": after_with,
        "background": words.BACKGROUNDS.items(),
        "style": [(style, _without_articles(options)) for style, options in styles],
        "command": [(None, words.COMMANDS)],
        "reads": [(None, words.INSCRIPTIONS)],
        "side": [(side, (f"on the {side}", f"to the {side}", side)) for side in ("left", "right")],
        "be": [(None, ("is", "are"))],
        "that is": [(None, ("that is", "that are", "which is", "which are"))],
        "not": [(None, [*(f"{word}{n}" for word in ("that ", "which ", "") for n in negations), "not"])],
        "like": [(None, ("in the shape of", "that looks like", "that look like", "like", "shaped like"))],
        "head of": [(None, ("with the head of",))],
        "half": [(None, ("half",))],
        "creature": [(None, (*words.CREATURES, "a thing"))],
        "with": [(None, ("with",))],
        "it": [(None, ("it",))],
        "and": [(None, ("and", "next to", "beside", "near", "together with"))],
    }


def _without_articles(options: Iterable[str]) -> list[str]:
    """The phrases, and those that begin with an article without it: "watercolor of a horse"."""
    return [*options, *(option.split(" ", 1)[1] for option in options if option.startswith(("a ", "an ")))]


@cache
def _vocabulary() -> frozenset[str]:
    return frozenset(word for phrase in _phrases() for word in phrase) | _FILLERS


@cache
def _plurals() -> frozenset[str]:
    """Plural names of kinds that are not their singular, too."""
    names = [pair for kind in KINDS for pair in words.names(kind)]
    return frozenset(plural for _, plural in names) - {singular for singular, _ in names}


@cache
def _longest() -> int:
    return max(map(len, _phrases()))


def vocabulary() -> frozenset[str]:
    """All words that captions can contain, without those of inscriptions."""
    return _vocabulary() - _PUNCTUATION


@lru_cache(maxsize=4096)
def corrected(word: str) -> str | None:
    """The word itself if it is known, else the only known one with two letters exchanged or one doubled, or None.

    Other mistakes make other words: a coat is no cat, and a truck no trunk.
    """
    if word in _vocabulary():
        return word
    exchanged = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
    single = (word[:i] + word[i + 1 :] for i in range(1, len(word)) if word[i] == word[i - 1])
    near = {other for other in (*exchanged, *single) if other in _vocabulary() and len(other) >= 3}
    return near.pop() if len(near) == 1 else None


def _items(text: str) -> tuple[list[Item], tuple[str, ...]]:
    """The phrases of a prompt, and its unknown words."""
    for curly, straight in (("“", '"'), ("”", '"'), ("„", '"'), ("’", "'"), ("‘", "'")):
        text = text.replace(curly, straight)
    if text.count('"') % 2:
        text += '"'
    quoted = text.split('"')
    lower = '"'.join(part if i % 2 else part.lower() for i, part in enumerate(quoted))
    typed = _TOKEN.findall(lower)
    tokens = [t if t.startswith('"') or t in _PUNCTUATION else corrected(t) or t for t in typed]
    items, unknown, i = [], [], 0
    while i < len(tokens):
        if tokens[i].startswith('"'):
            items.append(Item("text", tokens[i].strip('"')))
            i += 1
            continue
        if (found := _phrase(tokens, i)) is not None:
            length, item = found
            items.append(replace(item, words=" ".join(typed[i : i + length])))
            i += length
            continue
        if tokens[i] in _PUNCTUATION:
            items.append(Item("and"))
        elif tokens[i] not in _FILLERS:
            unknown.append(typed[i])
        i += 1
    return items, tuple(unknown)


def _phrase(tokens: Sequence[str], start: int) -> tuple[int, Item] | None:
    """The longest phrase from `start` on, and its number of words."""
    for length in range(min(_longest(), len(tokens) - start), 0, -1):
        item = _phrases().get(tuple(tokens[start : start + length]))
        if item is None:
            continue
        after = _phrase(tokens, start + length) if item.sort == "background" else None
        if after is None or after[1].sort not in ("kind", "adjective", "size"):
            return length, item  # but "on white" in "on white cars" is no background
    return None


# --- meaning ----------------------------------------------------------------------------------------------------------


def state(known: dict, name: str, value: object) -> None:
    """Add a fact to those of a thing, or of the whole; raises ValueError if another was stated before."""
    if known.setdefault(name, value) != value:
        raise ValueError(f"the prompt states two of one {name}: {known[name]} and {value}")


@dataclass
class _Reader:
    items: list[Item]
    at: int = 0
    things: list[dict] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)  # style and background
    unused: list[str] = field(default_factory=list)  # phrases that do not fit where they stand

    def scene(self) -> SceneDescription:
        for item in self.items:
            if item.sort in ("style", "background") and item.value != "plain":
                state(self.whole, item.sort, item.value)
        self.items = [item for item in self.items if item.sort not in ("style", "background", "command")]
        while self.at < len(self.items):
            self.clause()
        if not self.things:
            raise ValueError("the prompt names no thing that toybox knows")
        things = [Thing(**thing) for thing in self.things]
        relations = [Relation(*relation) for relation in self.relations]
        return SceneDescription(tuple(things), tuple(relations), **self.whole)

    def peek(self, ahead: int = 0) -> str:
        return self.items[self.at + ahead].sort if self.at + ahead < len(self.items) else ""

    def take(self) -> Item:
        self.at += 1
        return self.items[self.at - 1]

    def skip(self, *sorts: str) -> bool:
        """Skip one item of these sorts, if it comes next."""
        if self.peek() in sorts:
            self.at += 1
            return True
        return False

    def leave(self, item: Item) -> None:
        """Note a phrase that nothing can be made of here, unless it says nothing by itself."""
        if item.sort not in ("and", "article", "be", "that is", "it", "creature"):
            self.unused.append(item.words)

    # --- clauses ----------------------------------------------------------------------------------------------------

    def clause(self) -> None:
        """A thing and what follows it; or a side or a relation and the thing that is there."""
        if self.peek() == "side" and self.peek(1) != "":
            self.columns()
        elif self.peek() == "relation":  # "left of the tree is a robot"
            phrase = self.take()
            place = self.thing()
            self.skip("and")
            self.skip("be", "that is")
            subject = self.thing()
            if place is not None and subject is not None:
                self.relate(subject, phrase.value, place)
                self.rest(subject)
            else:
                self.leave(phrase)
        elif (subject := self.thing()) is not None:
            self.rest(subject)
        elif self.at < len(self.items):
            self.leave(self.take())

    def columns(self) -> None:
        """ "on the left a red cat, on the right a blue car" """
        sides: dict[str, int] = {}
        while self.peek() == "side":
            side = self.take().value
            self.skip("and")
            self.skip("be")
            thing = self.thing()
            if thing is None:
                return
            sides[side] = thing
            self.skip("and")
            self.skip("and")
        if len(sides) == 2:
            self.relate(sides["left"], "left of", sides["right"])

    def rest(self, subject: int) -> None:
        """What is said of a thing after it has been named: relations, and the relations of what is related to it."""
        first, since = subject, len(self.relations)
        while True:
            joined = self.peek() == "and" and self.peek(1) in ("relation", "be", "with")
            if joined:
                self.at += 1
                subject = first
            if self.skip("be", "that is"):
                self.predicate(subject)
                continue
            if self.peek() == "not":
                self.predicate(subject)
                continue
            if self.peek() == "relation":
                subject = self.related(subject, since)
            elif self.peek() == "with":
                self.at += 1
                self.accompanied(subject)
            else:
                return

    def predicate(self, subject: int) -> None:
        """ "… is red", "… is not red" """
        if self.skip("not"):
            self.skip("article")
            if self.peek() != "adjective":
                raise ValueError('of what a thing is not, toybox understands attributes only: "that is not red"')
            state(self.things[subject], "without", self.take().value)
            return
        while self.peek() in ("adjective", "size", "qualifier") or self.fruit():
            item = self.take()
            state(self.things[subject], "size" if item.sort == "size" else "attribute", item.value)

    def related(self, subject: int, since: int) -> int:
        """A relation to the thing that follows, or to the thing before ("it"); returns the thing to go on with.

        `since` is the number of relations before this clause.
        """
        phrase = self.take()
        relation = phrase.value
        if self.skip("it"):
            other = next((i for i in range(len(self.things)) if i != subject), None)
            if other is not None:
                self.relate(subject, relation, other)
            return subject
        other = self.thing()
        if other is None:
            self.leave(phrase)
            return subject
        last = self.relations[-1] if len(self.relations) > since else ()
        mount, board = (KINDS[self.things[i]["kind"]] for i in (subject, other))
        if (
            last[1:] == ("riding", subject)
            and relation == "on top of"
            and not mount.creature
            and board.back is not None
        ):
            self.relations[-1] = (last[0], "riding", other)  # "riding a wave on a surfboard"
            self.relate(other, "on top of", subject)
        else:
            self.relate(subject, relation, other)
        return other

    def accompanied(self, subject: int) -> None:
        """ "… with a red cat on top", "… with a hat", "… with an apple" """
        other = self.thing()
        if other is None:
            return
        if self.peek() == "after with" or (self.peek() == "relation" and self.peek(1) in ("it", "and", "")):
            self.relate(other, self.take().value, subject)
            self.skip("it")
            return
        a, b = Thing(**self.things[subject]), Thing(**self.things[other])
        relation = next((name for name in ("wearing", "holding") if can(a, name, b)), None)
        if relation is not None:
            self.relate(subject, relation, other)

    def relate(self, subject: int, relation: str, other: int) -> None:
        if (subject, relation, other) not in self.relations:
            self.relations.append((subject, relation, other))

    # --- things -----------------------------------------------------------------------------------------------------

    def thing(self) -> int | None:
        """The index of the thing that comes next, a new one or one that was named before; None if none comes."""
        start, said, definite = self.at, {}, False
        if self.skip("creature"):
            self.skip("and")
        while self.peek() in ("number", "size", "adjective", "article") or self.fruit_before_noun():
            item = self.take()
            if said and self.peek() == "and" and self.peek(1) in ("size", "adjective"):
                self.at += 1  # "a blue, big car"
            if item.sort == "article":
                definite = definite or item.value
            else:
                state(said, {"number": "count", "size": "size"}.get(item.sort, "attribute"), item.value)
        if self.peek() == "half":
            return self.hybrid(said)
        if self.peek() != "kind":
            self.at = start
            return None
        noun = self.take()
        named = definite and any(thing["kind"] == noun.value for thing in self.things)  # "the cats are big"
        if noun.words in _plurals() and "count" not in said and not named:
            raise ValueError(f"say how many {noun.words} there are, from two to {MAX_COUNT}")
        said["kind"] = noun.value
        self.qualifiers(said)
        return self.known(said, definite)

    def fruit(self) -> bool:
        """Whether a kind comes next that is an attribute, too."""
        return self.peek() == "kind" and self.items[self.at].value in FRUITS

    def fruit_before_noun(self) -> bool:
        """Whether such a kind comes next and describes another one: "an avocado chair"."""
        ahead = 1
        while self.peek(ahead) in ("adjective", "size"):
            ahead += 1
        return self.fruit() and self.peek(ahead) == "kind"

    def noun(self) -> str | None:
        return self.take().value if self.peek() == "kind" else None

    def hybrid(self, said: dict) -> int | None:
        """ "half mouse half octopus" """
        halves = []
        while self.skip("half"):
            self.skip("article")
            if (kind := self.noun()) is None:
                break
            halves.append(kind)
            if self.peek() == "and" and self.peek(1) == "half":
                self.at += 1
        if not halves:
            return None
        said |= {"kind": halves[-1]} | ({"head": halves[0]} if len(halves) > 1 else {})
        self.qualifiers(said)
        return self.known(said, definite=False)

    def qualifiers(self, said: dict) -> None:
        """What follows the noun and belongs to it."""
        while True:
            match self.peek():
                case "qualifier":
                    state(said, "attribute", self.take().value)
                case "that is" if self.peek(1) in ("adjective", "qualifier"):
                    self.at += 1
                    state(said, "attribute", self.take().value)
                case "that is" if self.peek(1) == "size":
                    self.at += 1
                    state(said, "size", self.take().value)
                case "not" if self.peek(1) == "adjective":
                    self.at += 1
                    state(said, "without", self.take().value)
                case "like":
                    self.at += 1
                    self.skip("article")
                    self.likened(said)
                case "head of":
                    self.at += 1
                    self.skip("article")
                    if (head := self.noun()) is not None:
                        said["head"] = head
                case "reads":
                    self.at += 1
                    self.skip("and")
                    if self.peek() == "text":
                        said["text"] = self.take().value
                case "text":
                    said["text"] = self.take().value
                case _:
                    return

    def likened(self, said: dict) -> None:
        """ "in the shape of an avocado", "that looks like an octopus" """
        if self.at >= len(self.items):
            return
        item = self.items[self.at]
        if item.value in FRUITS:
            state(said, "attribute", self.take().value)
        elif (head := self.noun()) is not None:
            said["head"] = head

    def known(self, said: dict, definite: bool) -> int:
        """The index of a thing; "the cat" is the cat that was named before, if one was."""
        for i, thing in enumerate(self.things):
            if thing["kind"] == said["kind"]:
                if not definite:
                    raise ValueError(f"toybox has one thing of each kind, and the prompt names two: {said['kind']}")
                for name, value in said.items():
                    state(thing, name, value)
                return i
        self.things.append(said)
        return len(self.things) - 1
