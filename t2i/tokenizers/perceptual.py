"""A perceptual loss: the distance of two images in the features of a trained network (Zhang et al. 2018, "LPIPS", arXiv
1801.03924).

Shapes: B batch · S image side · C, h, w a layer's features
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.checks import UsageError
from t2i.data.toybox.classifier import FactClassifier, load_classifier
from t2i.tokenizers.published import read_tensors

VGG_LAYERS = (3, 8, 15, 22, 29)  # of torchvision's vgg16().features: the last ReLU before each pooling
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which VGG16 was trained on


class PerceptualLoss(nn.Module):
    """Σ over layers of the mean over positions of ‖w ⊙ (f − g)‖², with features f, g normalised over channels (eq. 1).

    Args:
        features: a frozen module: images (B, 3, S, S) in [-1, 1] -> features of each layer, (B, C, h, w).
        weights: w² of each layer, (C,), as LPIPS has learned them; by default 1 / C.
    """

    def __init__(self, features: nn.Module, weights: Sequence[Tensor] | None = None):
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        for i, weight in enumerate(weights or ()):
            self.register_buffer(f"weight{i}", weight, persistent=False)
        self.weighted = weights is not None

    def train(self, mode: bool = True) -> PerceptualLoss:
        """The network stays in evaluation mode."""
        return super().train(False)

    def forward(self, recon: Tensor, images: Tensor) -> Tensor:
        """(B, 3, S, S) twice, in [-1, 1] -> scalar; the gradient is that of `recon`."""
        with torch.no_grad():
            wanted = self.features(images)
        total = recon.new_zeros((), dtype=torch.float32)
        for i, (f, g) in enumerate(zip(self.features(recon), wanted, strict=True)):
            square = (_normalised(f) - _normalised(g)).square()  # (B, C, h, w)
            weight = getattr(self, f"weight{i}")[:, None, None] if self.weighted else 1 / square.shape[1]
            total = total + (square * weight).sum(1).mean()
        return total


def _normalised(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-8)


class ClassifierFeatures(nn.Module):
    """The feature maps of the toybox classifier, one for each level."""

    def __init__(self, classifier: FactClassifier):
        super().__init__()
        starts = [i for i, layer in enumerate(classifier.trunk) if isinstance(layer, nn.Conv2d)]
        ends = [*starts[1:], len(classifier.trunk)]
        self.levels = nn.ModuleList(classifier.trunk[a:b] for a, b in zip(starts, ends, strict=True))
        self.side = classifier.image_size

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> features of each level, of images resampled to 128×128."""
        x = images
        if x.shape[-2:] != (self.side, self.side):
            # In float32: torch has no antialiased resampling of bfloat16 on a CPU.
            x = F.interpolate(x.float(), size=(self.side, self.side), mode="bilinear", antialias=True)
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return found


class VGGFeatures(nn.Module):
    """The five levels of VGG16 (Simonyan and Zisserman 2014, arXiv 1409.1556), as LPIPS uses them."""

    def __init__(self):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers  # it takes a second to import

        self.layers = make_layers(cfgs["D"])[: VGG_LAYERS[-1] + 1]
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [-1, 1] -> features of the five levels."""
        x = ((images.float() + 1) / 2 - self.mean) / self.std
        found = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in VGG_LAYERS:
                found.append(x)
        return found


def open_perceptual_loss(name: str) -> PerceptualLoss:
    """The loss with the features of "toybox", the embedded toybox classifier; of another one in a folder; or of VGG16
    from a file with the weights of torchvision's vgg16 (.pth or .safetensors).

    Raises UsageError for anything else, and FileNotFoundError, with the remedy, if there is no classifier.
    """
    path = Path(name)
    if name == "toybox" or path.is_dir():
        return PerceptualLoss(ClassifierFeatures(load_classifier(None if name == "toybox" else path)))
    if not path.is_file():
        raise UsageError(
            f"there is no {name}: give toybox, the folder of a toybox classifier, or a file of VGG16's weights"
        )
    return PerceptualLoss(_vgg(path))


def _vgg(path: Path) -> VGGFeatures:
    network, found = VGGFeatures(), read_tensors(path)
    layers = {name.removeprefix("features."): found[name] for name in found if name.startswith("features.")}
    wanted = network.layers.state_dict()
    if any(name not in layers or layers[name].shape != weight.shape for name, weight in wanted.items()):
        raise UsageError(f"{path} does not hold the weights of torchvision's vgg16")
    network.layers.load_state_dict({name: layers[name] for name in wanted})
    return network
