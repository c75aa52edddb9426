"""Label maps: the kind that each pixel of a scene's image belongs to."""

from __future__ import annotations

from t2i.data.toybox_v1.kinds import KINDS

LABELS: tuple[str, ...] = ("background", *KINDS)  # label 0 is the background with the shadows on it
