"""Toybox: procedurally rendered scenes with known ground truth; infinite, seeded, offline.

>>> from t2i.data.toybox import Scene
>>> scene = Scene.from_caption("an armchair in the shape of an avocado")
>>> scene.caption(), scene.render(128).size
('an avocado armchair', (128, 128))
"""

from t2i.data.toybox.attributes import ATTRIBUTES, COLOURS, TEXTURES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox.dataset import Toybox
from t2i.data.toybox.description import ACTIONS, PLACES, RELATIONS, SIZES, Relation, Thing
from t2i.data.toybox.export import export
from t2i.data.toybox.facts import facts
from t2i.data.toybox.kinds import KINDS, Kind
from t2i.data.toybox.parser import parse
from t2i.data.toybox.render import LABELS, label_image
from t2i.data.toybox.scene import FAMILIES, Scene
from t2i.data.toybox.split import SPLITS, held_out
from t2i.data.toybox.styles import STYLES

__all__ = [
    "ACTIONS",
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "FAMILIES",
    "KINDS",
    "LABELS",
    "PLACES",
    "RELATIONS",
    "SIZES",
    "SPLITS",
    "STYLES",
    "TEXTURES",
    "Kind",
    "Relation",
    "Scene",
    "Thing",
    "Toybox",
    "export",
    "facts",
    "held_out",
    "label_image",
    "parse",
]
