"""LPIPS: a perceptual distance of image pairs, calibrated on human judgements (Zhang et al. 2018, arXiv 1801.03924).

The linear weights come with torchmetrics, those of the ImageNet network with torchvision, which downloads them once.

Shapes: B pairs · S image side
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from t2i.eval.features.base import exact_convolutions
from t2i.weights import digest

Network = Literal["alex", "vgg", "squeeze"]
_MODELS = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet1_1"}


class Lpips:
    """LPIPS, version 0.1, in the features of AlexNet, VGG-16 or SqueezeNet.

    Attributes:
        name: "LPIPS (vgg)".
        weights_sha256: SHA-256 of all weights.

    Raises FileNotFoundError if the network's weights are neither in torch.hub's folder nor can be downloaded.
    """

    def __init__(self, network: Network = "alex", device: str = "cpu"):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # slow to import

        try:
            self.model = LearnedPerceptualImagePatchSimilarity(net_type=network).net.to(device)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(_missing(network, error)) from error
        self.name, self.device = f"LPIPS ({network})", torch.device(device)
        self.weights_sha256 = digest(self.model)

    @torch.no_grad()
    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        """Two tensors (B, 3, S, S) in [-1, 1] -> float32 (B,) on the CPU, 0 for equal images."""
        with exact_convolutions():
            distances = self.model(images.to(self.device).float(), references.to(self.device).float())
        return distances.flatten().cpu()


def _missing(network: Network, error: Exception) -> str:
    import torchvision

    url = getattr(torchvision.models, f"{_MODELS[network]}_Weights").DEFAULT.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    reason = " ".join(str(error).split())[:100]
    return f"the weights of --lpips {network} cannot be opened ({reason}): get {url} and put it into {folder}"
