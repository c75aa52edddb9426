"""Toybox: procedurally rendered scenes with known ground truth; infinite, seeded, offline.

>>> from t2i.data.toybox_v1 import Scene, Thing
>>> scene = Scene((Thing("armchair", "avocado"),), background="studio")
>>> scene.caption(), scene.render(64).size
('an avocado armchair', (64, 64))
"""

from t2i.data.toybox.attributes import ATTRIBUTES, COLOURS, TEXTURES
from t2i.data.toybox.backgrounds import BACKGROUNDS
from t2i.data.toybox_v1.captions import vocabulary
from t2i.data.toybox_v1.dataset import Toybox, export
from t2i.data.toybox_v1.kinds import KINDS, Kind
from t2i.data.toybox_v1.label_maps import LABELS
from t2i.data.toybox_v1.scene import FAMILIES, RELATIONS, Scene, Thing
from t2i.data.toybox_v1.split import HELD_OUT, SPLITS

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "FAMILIES",
    "HELD_OUT",
    "KINDS",
    "LABELS",
    "RELATIONS",
    "SPLITS",
    "TEXTURES",
    "Kind",
    "Scene",
    "Thing",
    "Toybox",
    "export",
    "vocabulary",
]
