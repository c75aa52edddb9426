"""What the world of toybox has: contact sheets, its mixture and splits, its speed, and its classifier's accuracy.

`python scripts/toybox_report.py sheets --out DIR` writes the images of docs/toybox.md; `mixture`, `speed` and
`classifier` print its tables.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from t2i.arguments import parse
from t2i.checks import check_choice, check_whole
from t2i.cli_errors import exit_on_bad_input
from t2i.contact_sheet import contact_sheet
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.classifier import load_classifier, predict
from t2i.data.toybox.dataset import Toybox
from t2i.data.toybox.description import ACTIONS, PLACES, Relation, Thing, can
from t2i.data.toybox.facts import facts
from t2i.data.toybox.inscriptions import words
from t2i.data.toybox.kinds import KINDS
from t2i.data.toybox.prediction import Prediction, facts_right
from t2i.data.toybox.prompts import LECTURE
from t2i.data.toybox.scene import FAMILIES, Scene
from t2i.data.toybox.split import held_out
from t2i.data.toybox.styles import STYLES
from t2i.eval.metrics import share

SEED = 2**20 + 1  # of the scenes that are shown and classified; runs use seeds from 0 up


@dataclass(frozen=True)
class Sheets:
    """Write contact sheets of kinds, attributes, actions, hybrids, inscriptions, styles, captions and the lecture."""

    out: str = "docs/toybox"
    """Output folder."""

    def run(self) -> None:
        out = Path(self.out)
        out.mkdir(parents=True, exist_ok=True)
        for name, make in SHEETS.items():
            scenes, labels, columns = make()
            sheet = contact_sheet([scene.render(128) for scene in scenes], labels, columns, max_lines=3)
            if name != "styles":  # whose colours 256 could not show
                sheet = sheet.quantize(256, dither=Image.Dither.NONE)
            sheet.save(out / f"{name}.png", optimize=True)
            print(out / f"{name}.png")


@dataclass(frozen=True)
class Mixture:
    """Print how often each family, style and action occurs, and what is held out."""

    num: int = 20_000
    """Number of training scenes to count in."""

    def run(self) -> None:
        check_whole("--num", self.num)
        scenes = [Toybox("train", seed=SEED, num=self.num).scene(i) for i in range(self.num)]
        _print_shares("families", {name: [s.family == name for s, _ in scenes] for name in FAMILIES})
        _print_shares("styles", {name: [s.style == name for s, _ in scenes] for name in STYLES})
        relations = [{r.name for r in s.relations} for s, _ in scenes]
        _print_shares("relations", {name: [name in r for r in relations] for name in (*PLACES, *ACTIONS)})
        things = [thing for s, _ in scenes for thing in s.things]
        shares = {"natural colours": [t.attribute is None for t in things], "size": [bool(t.size) for t in things]}
        _print_shares("things", shares)
        print(f"\nheld out of training{'':21} of")
        for name, held, of in _held_out():
            print(f"{name:34} {held:6} {of:7}")
        lengths = [len(text.split()) for _, text in scenes]
        print(f"\nwords per caption: median {int(np.median(lengths))}, longest {max(lengths)}")
        print(f"different captions among {self.num}: {len({text for _, text in scenes})}")


@dataclass(frozen=True)
class Speed:
    """Print images rendered per second of CPU time, on one core."""

    num: int = 2_000
    """Number of images per row; as many before them fill the caches."""

    def run(self) -> None:
        check_whole("--num", self.num)
        print(f" 128 px, as sampled     {self._rate(128):7.0f} images/s")
        for size in (64, 128, 256):
            print(f"{size:4} px, plain          {self._rate(size, 'plain'):7.0f} images/s")
        for style in STYLES:
            if style != "plain":
                print(f" 128 px, {style:14} {self._rate(128, style):7.0f} images/s")
        start = time.process_time()
        data = Toybox("all", seed=SEED, num=self.num)
        for i in range(self.num):
            data.scene(i)
        print(f" scenes with captions   {self.num / (time.process_time() - start):7.0f} per second")

    def _rate(self, size: int, style: str | None = None) -> float:
        """Images per second, of scenes that no other row has rendered."""
        seed = SEED + sum(map(ord, f"{size} {style}"))  # another for each row
        data = Toybox("all", size, seed, 2 * self.num)
        scenes = [data.scene(i)[0] for i in range(2 * self.num)]
        scenes = scenes if style is None else [replace(scene, style=style) for scene in scenes]
        for scene in scenes[: self.num]:
            scene.render(size)
        start = time.process_time()
        for scene in scenes[self.num :]:
            scene.render(size)
        return self.num / (time.process_time() - start)


@dataclass(frozen=True)
class Classifier:
    """Print the classifier's accuracy on rendered images, by style, type of fact and family, with 95 % intervals."""

    num: int = 4_000
    """Number of images."""
    classifier: str | None = None
    """Folder of the classifier, such as runs/toybox-classifier/latest; by default the embedded one."""

    def run(self) -> None:
        check_whole("--num", self.num)
        model, data = load_classifier(self.classifier), Toybox("all", seed=SEED, num=self.num)
        answers: list[tuple[Prediction, Scene]] = []
        for start in range(0, self.num, 64):
            items = [data[i] for i in range(start, min(start + 64, self.num))]
            predictions = predict(model, [Image.fromarray(item["image"]) for item in items])
            answers += zip(predictions, [item["scene"] for item in items], strict=True)
        for title, plain in (("in the plain style", True), ("in other styles", False)):
            of = [(p, scene) for p, scene in answers if (scene.style == "plain") == plain]
            _print_shares(f"facts that are predicted {title}", facts_right((p, facts(scene)) for p, scene in of))
            whole = {name: [p.fulfils(facts(s)) for p, s in of if s.family == name] for name in FAMILIES}
            _print_shares(f"images {title} of which everything is predicted", whole)


def _print_shares(title: str, found: dict[str, Sequence[bool]]) -> None:
    print(f"\n{title}")
    for name, truths in found.items():
        interval = share(truths)
        print(f"{name:18} {interval.value:7.1%}  {interval.low:6.1%} – {interval.high:6.1%} {len(truths):7}")


def _held_out() -> list[tuple[str, int, int]]:
    """(what, how many are held out, of how many)"""
    pairs = [(a, k) for a in ATTRIBUTES for k in KINDS if a != k]
    styles = [(s, k) for s in STYLES if s != "plain" for k in KINDS]
    hybrids = [(head, kind) for head in KINDS for kind in KINDS if head != kind]
    actions = [(a, n, b) for n in ACTIONS for a in KINDS for b in KINDS if a != b and can(Thing(a), n, Thing(b))]
    rows = [("attribute × kind", "pair", pairs), ("style × kind", "style", styles)]
    rows += [("hybrids", "hybrid", hybrids), ("actions", "action", actions)]
    found = [(name, sum(held_out(sort, *c) for c in of), len(of)) for name, sort, of in rows]
    return [*found, ("ordinary words of inscriptions", len(words(True)), len(words(True)) + len(words(False)))]


# --- sheets -----------------------------------------------------------------------------------------------------------


def _kinds() -> tuple[list[Scene], list[str], int]:
    return [Scene((Thing(name),), jitter_seed=2) for name in KINDS], list(KINDS), 12


def _attributes() -> tuple[list[Scene], list[str], int]:
    kinds = ("cat", "armchair", "rocket", "guitar")
    pairs = [(k, a) for k in kinds for a in ATTRIBUTES]
    return [Scene((Thing(k, a),), jitter_seed=2) for k, a in pairs], [f"{a} {k}" for k, a in pairs], 10


def _relations() -> tuple[list[Scene], list[str], int]:
    scenes = []
    for n, name in enumerate((*PLACES, *ACTIONS)):
        pairs = [(a, b) for a in KINDS for b in KINDS if a != b and can(Thing(a), name, Thing(b))]
        chosen = [pairs[(37 * n + i * len(pairs) // 5 + 11 * i) % len(pairs)] for i in range(5)]
        scenes += [
            Scene((Thing(a), Thing(b)), (Relation(0, name, 1),), jitter_seed=i) for i, (a, b) in enumerate(chosen)
        ]
    return scenes, [scene.caption() for scene in scenes], 10


def _hybrids() -> tuple[list[Scene], list[str], int]:
    heads, kinds = (
        ("cat", "mouse", "octopus", "robot", "horse", "pineapple", "lamp", "rocket"),
        ("octopus", "chair", "horse", "car", "robot", "cup"),
    )
    pairs = [(h, k) for k in kinds for h in heads if h != k]
    return [Scene((Thing(k, head=h),), jitter_seed=2) for h, k in pairs], [f"half {h} half {k}" for h, k in pairs], 8


def _from_family(family: str, num: int) -> Callable[[], tuple[list[Scene], list[str], int]]:
    def make() -> tuple[list[Scene], list[str], int]:
        scenes = [Toybox("all", seed=SEED, num=num, family=family).scene(i) for i in range(num)]
        return [scene for scene, _ in scenes], [text for _, text in scenes], 8

    return make


def _styles() -> tuple[list[Scene], list[str], int]:
    shown = [
        "a red cat",
        "an armchair in the shape of an avocado in a room",
        "a robot riding a horse in a meadow",
        "three zebra rockets on the beach",
    ]
    scenes = []
    for text in shown:
        of = Scene.from_caption(text)
        scenes += [Scene(of.things, of.relations, style, of.background, 3) for style in STYLES]
    return scenes, [*STYLES] * len(shown), len(STYLES)


def _lecture() -> tuple[list[Scene], list[str], int]:
    return [replace(Scene.from_caption(text), jitter_seed=4) for text in LECTURE], list(LECTURE), 6


def _mixture() -> tuple[list[Scene], list[str], int]:
    found = [Toybox("train", seed=SEED, num=48).scene(i) for i in range(48)]
    return [scene for scene, _ in found], [text for _, text in found], 8


def _ladder() -> tuple[list[Scene], list[str], int]:
    from t2i.data.toybox.prompts import ladder_prompt

    found = [(n, ladder_prompt(n, np.random.default_rng((SEED, n, i)))) for n in range(1, 11) for i in range(2)]
    return [prompt.scene for _, prompt in found], [f"{n}: {prompt.text}" for n, prompt in found], 5


SHEETS = {
    "kinds": _kinds,
    "attributes": _attributes,
    "relations": _relations,
    "hybrids": _hybrids,
    "inscriptions": _from_family("inscription", 24),
    "styles": _styles,
    "lecture": _lecture,
    "mixture": _mixture,
    "ladder": _ladder,
}
PARTS = {"sheets": Sheets, "mixture": Mixture, "speed": Speed, "classifier": Classifier}


def main(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: python scripts/toybox_report.py {{{','.join(PARTS)}}} [options]")
        return
    check_choice("part", args[0], PARTS)
    parse(PARTS[args[0]](), args[1:], prog=f"python scripts/toybox_report.py {args[0]}").run()


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
