"""Glow: activation norm, invertible 1×1 convolution, affine coupling (Kingma and Dhariwal 2018, arXiv 1807.03039).

Shapes: B batch · C image channels · S image side · c, s channels and side of a level
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from t2i.models.flows.layers import ActNorm, AffineCoupling, Bijection, Flow, Split, Squeeze, zeros
from t2i.models.flows.realnvp import check_scales


class Invertible1x1(Bijection):
    """Invertible 1×1 convolution W = P L (U + diag(s)), initially a rotation, with determinant Π s (eq. 10 and 11)."""

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        permutation, lower, upper = (part.float() for part in torch.linalg.lu(rotation))
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(diagonal.abs().log())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Never in half precision, even under autocast: images would be rounded at every step of the flow.
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self._factors()
            weight = self.permutation @ lower @ upper
            return F.conv2d(x, weight[:, :, None, None]), self.log_scale.sum() * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor) -> Tensor:
        # In float64, on the CPU, since not all devices have it: the solves are cheap, and errors would accumulate.
        lower, upper, permutation = (factor.cpu().double() for factor in (*self._factors(), self.permutation))
        inner = torch.linalg.solve_triangular(lower, permutation.t(), upper=False, unitriangular=True)
        inverse = torch.linalg.solve_triangular(upper, inner, upper=True).to(z)
        return F.conv2d(z, inverse[:, :, None, None])

    def _factors(self) -> tuple[Tensor, Tensor]:
        """L with ones on its diagonal, and U with s on it."""
        one = torch.eye(len(self.signs), device=self.lower.device, dtype=self.lower.dtype)
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(self.signs * self.log_scale.exp())


class Glow(Flow):
    """Flow steps at several scales; between them, half of the channels are split off, with a prior given the rest.

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel` and `Flow`.
        scales: Number of scales; each begins with a squeeze, which halves the resolution.
        steps: Steps of flow at each scale.
        width: Channels of the couplings' networks.
        bound: Maximum absolute value of a coupling's log-scale.
        alpha: Pixels x in [0, 1] are mapped to the logits of α + (1 - 2α)·x first; 0, as in the paper, disables it.

    Raises ValueError for sizes that do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        scales: int = 2,
        steps: int = 8,
        width: int = 64,
        bound: float = 2.0,
        alpha: float = 0.05,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        check_scales(image_size, scales, steps)
        if width < 1 or not bound > 0:
            raise ValueError(f"width must be at least 1 and bound above 0: {width=}, {bound=}")
        c, s = channels, image_size
        layers: list[nn.Module] = []
        for scale in range(scales):
            c, s = 4 * c, s // 2
            layers.append(Squeeze())
            for _ in range(steps):
                layers += [ActNorm(c), Invertible1x1(c), AffineCoupling(_network(c // 2, c, width), bound)]
            if scale < scales - 1:
                layers.append(Split((c, s, s), learned=True))
                c = c // 2
        self._assemble(layers, (c, s, s), "normal", alpha)


def _network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        zeros(nn.Conv2d(width, outputs, 3, padding=1)),
    )
