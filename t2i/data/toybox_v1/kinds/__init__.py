"""The 24 kinds of things, each with its name, drawing function and heart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from t2i.data.toybox_v1.kinds import animals, food, home, nature, things
from t2i.data.toybox_v1.painter import Painter


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    Attributes:
        name: singular, as used in captions.
        plural: plural, as used in captions.
        draw: function that draws it in the unit square.
        heart: centre of its largest uninterrupted surface (x, y in the unit square), where the avocado's pit is.
    """

    name: str
    plural: str
    draw: Callable[[Painter], None]
    heart: tuple[float, float] = (0.5, 0.5)


_ALL = (
    Kind("armchair", "armchairs", home.armchair, (0.50, 0.36)),
    Kind("cup", "cups", home.cup, (0.41, 0.60)),
    Kind("teapot", "teapots", home.teapot, (0.46, 0.62)),
    Kind("suitcase", "suitcases", home.suitcase, (0.50, 0.60)),
    Kind("backpack", "backpacks", home.backpack, (0.50, 0.38)),
    Kind("shirt", "shirts", home.shirt, (0.50, 0.55)),
    Kind("house", "houses", home.house, (0.50, 0.50)),
    Kind("avocado", "avocados", food.avocado, (0.50, 0.66)),
    Kind("apple", "apples", food.apple, (0.50, 0.56)),
    Kind("burger", "burgers", food.burger, (0.50, 0.30)),
    Kind("mushroom", "mushrooms", food.mushroom, (0.50, 0.36)),
    Kind("tree", "trees", nature.tree, (0.50, 0.42)),
    Kind("cactus", "cacti", nature.cactus, (0.50, 0.52)),
    Kind("star", "stars", nature.star, (0.50, 0.54)),
    Kind("heart", "hearts", nature.heart, (0.50, 0.45)),
    Kind("horse", "horses", animals.horse, (0.56, 0.56)),
    Kind("squirrel", "squirrels", animals.squirrel, (0.42, 0.66)),
    Kind("octopus", "octopuses", animals.octopus, (0.50, 0.27)),
    Kind("mouse", "mice", animals.mouse, (0.52, 0.66)),
    Kind("cat", "cats", animals.cat, (0.46, 0.75)),
    Kind("fish", "fish", animals.fish, (0.52, 0.50)),
    Kind("astronaut", "astronauts", things.astronaut, (0.50, 0.70)),
    Kind("robot", "robots", things.robot, (0.50, 0.68)),
    Kind("car", "cars", things.car, (0.50, 0.60)),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
