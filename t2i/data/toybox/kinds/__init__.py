"""The kinds of things, by name."""

from __future__ import annotations

from t2i.data.toybox.kind import Kind
from t2i.data.toybox.kinds import animals, food, home, nature, objects, people, sky, things, treats, vehicles

MODULES = (home, food, nature, animals, people, things, objects, vehicles, sky, treats)

KINDS: dict[str, Kind] = {kind.name: kind for module in MODULES for kind in module.KINDS}
