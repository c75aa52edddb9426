"""The toybox classifier: a small network that predicts the layout, kinds and attributes of an image.

Shapes: B batch · 3 channels · C channels · s = 64 / 2 ** levels grid side · L layouts · R regions · V = 2 slots
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox.classifier import open_classifier, predict
from t2i.data.toybox_v1.kinds import KINDS
from t2i.nn.blocks import ResBlock

if TYPE_CHECKING:
    from t2i.data.toybox_v1.scene import Scene

__all__ = ["Prediction", "ToyboxClassifier", "load_classifier", "predict", "targets"]

EMBEDDED = "toybox/classifier-v1"
REMEDY = "make one with: t2i train toybox-v1-classifier, and give its folder (runs/toybox-v1-classifier/latest)"

IMAGE_SIZE = 64
LAYOUTS = ("one", "two", "three", "four", "stacked", "side by side")
_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
_RELATION_LAYOUTS = {  # and whether things[0] comes first: above, or to the left
    "on top of": ("stacked", True),
    "below": ("stacked", False),
    "left of": ("side by side", True),
    "right of": ("side by side", False),
}

# The region of each slot in each layout.
REGIONS = ("everywhere", "upper", "lower", "left", "right")
_LOOK = {"stacked": ("upper", "lower"), "side by side": ("left", "right")}  # the whole image in the others
_OUTSIDE = -4.0  # initial attention logit outside of a half


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        layout: a name in LAYOUTS.
        things: (kind, attribute) of the first slot, which is the upper or left one, and of the second; both are equal
            in layouts of one thing.
    """

    layout: str
    things: tuple[tuple[str, str], tuple[str, str]]

    @classmethod
    def of(cls, scene: Scene) -> Prediction:
        """The correct prediction for a scene; the same for "a on top of b" and "b below a"."""
        things = [(thing.kind, thing.attribute) for thing in scene.things]
        if scene.relation is None:
            return cls(_COUNTS[scene.things[0].count], (things[0], things[0]))
        layout, in_order = _RELATION_LAYOUTS[scene.relation]
        return cls(layout, (things[0], things[1]) if in_order else (things[1], things[0]))

    def __str__(self) -> str:
        things = self.things if self.layout in _LOOK else self.things[:1]
        return f"{self.layout}: " + " | ".join(f"{attribute} {kind}" for kind, attribute in things)


def targets(scene: Scene) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """The correct prediction as indices: layout in LAYOUTS, both kinds in KINDS, both attributes in ATTRIBUTES."""
    truth, kinds = Prediction.of(scene), tuple(KINDS)
    (kind, attribute), (kind2, attribute2) = truth.things
    return (
        LAYOUTS.index(truth.layout),
        (kinds.index(kind), kinds.index(kind2)),
        (ATTRIBUTES.index(attribute), ATTRIBUTES.index(attribute2)),
    )


class ToyboxClassifier(ModelMixin, ConfigMixin):
    """A convolutional classifier with attention pooling over five regions; the predicted layout selects each slot's.

    Global pooling would lose which object is on top, and a flattened grid would have to learn every kind at every
    position. Here one head classifies any region, and the regions are initialised to the image and its four halves.

    Args:
        channels: Channels of each level, from fine to coarse; every level halves the resolution.
        blocks: Number of residual blocks at each level.
        kinds: Names of the kinds, in order; by default those of toybox.
        attributes: Names of the attributes, in order; by default those of toybox.

    Raises ValueError for names other than toybox's (a classifier of another version), or levels that do not match.
    """

    image_size: ClassVar[int] = IMAGE_SIZE

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64, 128),
        blocks: tuple[int, ...] = (0, 1, 3),
        kinds: tuple[str, ...] = tuple(KINDS),
        attributes: tuple[str, ...] = ATTRIBUTES,
    ):
        super().__init__()
        if len(channels) != len(blocks):
            raise ValueError("channels and blocks must have one number for each level")
        if tuple(kinds) != tuple(KINDS) or tuple(attributes) != ATTRIBUTES:
            raise ValueError(
                "this classifier is of another version of toybox; train one with: t2i train toybox-v1-classifier"
            )
        C, side = channels[-1], IMAGE_SIZE // 2 ** len(channels)
        layers: list[nn.Module] = []
        for before, width, n in zip((3, *channels), channels, blocks, strict=False):
            layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
            layers += [ResBlock(width) for _ in range(n)]
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(8, C), nn.SiLU())
        self.gaze = nn.Conv2d(C, len(REGIONS), 1)  # content-dependent attention logits
        nn.init.zeros_(self.gaze.weight)
        nn.init.zeros_(self.gaze.bias)
        self.places = nn.Parameter(_halves(side))  # (R, s·s), attention logits by position
        self.to_layout = nn.Sequential(nn.Linear(len(REGIONS) * C, C), nn.SiLU(), nn.Linear(C, len(LAYOUTS)))
        self.to_names = nn.Sequential(nn.Linear(C, 2 * C), nn.SiLU(), nn.Linear(2 * C, len(kinds) + len(attributes)))
        self.register_buffer("look", _look(), persistent=False)  # (L, V, R)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU at these widths, never slower on a GPU

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> ToyboxClassifier | tuple[ToyboxClassifier, dict]:
        """As in diffusers, with the channels-last memory format, which files do not store."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        model.to(memory_format=torch.channels_last)
        return loaded

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 64, 64) in [-1, 1] -> logits of layouts (B, L), kinds (B, V, kinds), attributes (B, V, attributes).

        Raises ValueError for another shape.
        """
        regions = self.features(images)
        layout = self.to_layout(regions.flatten(1))  # (B, L)
        where = torch.einsum("bl,lvr->bvr", layout.softmax(-1), self.look.to(layout))
        names = self.to_names(where @ regions)  # (B, V, kinds + attributes)
        kinds, attributes = names.split((len(self.config.kinds), len(self.config.attributes)), dim=-1)
        return layout, kinds, attributes

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [-1, 1] -> pooled features of each region (B, R, C), the input of the heads.

        Raises ValueError for another shape.
        """
        if images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(f"images must have the shape (B, 3, 64, 64), not {tuple(images.shape)}")
        x = self.trunk(images.to(self.dtype).contiguous(memory_format=torch.channels_last))  # (B, C, s, s)
        attention = (self.gaze(x).flatten(2) + self.places).softmax(-1)  # (B, R, s·s)
        return attention @ x.flatten(2).transpose(1, 2)

    def loss(self, images: Tensor, layout: Tensor, kinds: Tensor, attributes: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and accuracies.

        Args:
            images: (B, 3, 64, 64) in [-1, 1].
            layout, kinds, attributes: indices (B,), (B, 2), (B, 2), as returned by `targets`.

        Returns:
            Scalars: `loss` to minimise; the accuracies `layout`, `kind`, `attribute`, and `all_right`, the fraction of
            images predicted entirely correctly.
        """
        logits, truths = self(images), (layout, kinds, attributes)
        loss = sum(F.cross_entropy(x.flatten(0, -2).float(), y.flatten()) for x, y in zip(logits, truths, strict=True))
        right = [(x.argmax(-1) == y).view(len(y), -1) for x, y in zip(logits, truths, strict=True)]
        shares = {name: r.float().mean() for name, r in zip(("layout", "kind", "attribute"), right, strict=True)}
        return {"loss": loss, **shares, "all_right": torch.cat(right, 1).all(1).float().mean()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """(B, 3, 64, 64) in [-1, 1] -> the prediction for each image."""
        layouts, kinds, attributes = (x.argmax(-1).tolist() for x in self(images.to(self.device)))
        named = [
            tuple((self.config.kinds[k], self.config.attributes[a]) for k, a in zip(*slots, strict=True))
            for slots in zip(kinds, attributes, strict=True)
        ]
        return [Prediction(LAYOUTS[i], things) for i, things in zip(layouts, named, strict=True)]


def load_classifier(folder: str | Path | None = None) -> ToyboxClassifier:
    """Load the classifier in `folder` (a model, or a run's newest checkpoint) in float32; by default the embedded one.

    Raises FileNotFoundError or ValueError with the command that trains one.
    """
    return open_classifier(ToyboxClassifier, folder or EMBEDDED, REMEDY)


def _halves(side: int) -> Tensor:
    """(R, side²) attention logits: 0 inside the region, low outside."""
    upper = (torch.arange(side) < (side + 1) // 2)[:, None].expand(side, side)
    inside = {"everywhere": torch.ones(side, side, dtype=torch.bool), "upper": upper, "lower": ~upper}
    inside |= {"left": upper.T, "right": ~upper.T}
    return torch.stack([(~inside[name]).float().flatten() * _OUTSIDE for name in REGIONS])


def _look() -> Tensor:
    """(L, V, R): 1 for the region of each layout's slot."""
    look = torch.zeros(len(LAYOUTS), 2, len(REGIONS))
    for i, layout in enumerate(LAYOUTS):
        for slot, region in enumerate(_LOOK.get(layout, ("everywhere", "everywhere"))):
            look[i, slot, REGIONS.index(region)] = 1
    return look
