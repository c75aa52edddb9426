"""Score-based generation through stochastic differential equations (Song et al. 2021, arXiv 2011.13456).

An SDE turns images into noise (`sde.py`); a network learns the score ∇ ln p_t(x) of the noisy images, which is all that
the reverse process needs: an SDE, or an ordinary differential equation, which also has a likelihood.
Shapes: B batch · C channels · S image side · N = C·S·S · K classes
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torchdiffeq import odeint

from t2i.models.base import (
    PREVIEW_STEPS,
    GenerativeModel,
    Generators,
    Likelihood,
    dequantize,
    nearest_levels,
    normal,
    uniform,
)
from t2i.models.diffusion.classifier_guidance import NoisyLogits, gradient
from t2i.models.diffusion.sde import SDES, VE, along
from t2i.models.diffusion.unet import make_unet

Score = Callable[[Tensor, Tensor], Tensor]  # of images (B, C, S, S) at times (B,)
METHODS = ("sde", "pc", "ode")
TEMPO = 4.0  # scale of the U-Net's time: with 1000 t, it would oscillate too fast for an ODE of few steps


class ScoreSDE(GenerativeModel):
    """An SDE, and a U-Net that predicts the score at all times.

    Unlike in the paper, the U-Net predicts neither score nor noise but v (Salimans and Ho 2022, arXiv 2202.00512), from
    an input scaled to about unit variance. Where the input is almost pure noise, as at the σ = 50 of "ve", the noise is
    then taken from the input, and the network's errors have little effect (Karras et al. 2022, arXiv 2206.00364, § 5).

    Args:
        image_size, channels, levels, num_classes: Properties of the images, see `GenerativeModel`.
        widths: Channels of each level of the U-Net, from fine to coarse; each level after the first halves the
            resolution.
        blocks: Residual blocks per level.
        dropout: Dropout probability within the residual blocks.
        sde: 'vp' (variance preserving), 've' (variance exploding) or 'subvp' (sub-variance preserving).
        beta_min: Smallest β of 'vp' and 'subvp'.
        beta_max: Largest β of 'vp' and 'subvp'.
        sigma_min: Smallest noise level of 've'.
        sigma_max: Largest noise level of 've'.
        weighting: Weighting of the loss over time: 'std' (s², eq. 7) or 'likelihood' (g², which bounds the
            log-likelihood; Song et al. 2021, arXiv 2101.09258).
        steps: Steps of the stochastic samplers.
        ode_steps: Runge-Kutta steps along the probability-flow ODE, of four network calls each.

    Raises ValueError for sizes that do not fit together.
    """

    likelihood: ClassVar[Likelihood] = "exact"
    latents: ClassVar[bool] = True
    continuous = True
    _supports_gradient_checkpointing = True  # the U-Net does

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        levels: int = 256,
        num_classes: int = 0,
        widths: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
        dropout: float = 0.0,
        sde: Literal["vp", "ve", "subvp"] = "vp",
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        weighting: Literal["std", "likelihood"] = "std",
        steps: int = 500,
        ode_steps: int = 30,
    ):
        super().__init__()
        self._declare(image_size, channels, levels, num_classes)
        if sde not in SDES or weighting not in ("std", "likelihood") or steps < 1 or ode_steps < 1:
            raise ValueError(
                f"sde must be one of {', '.join(SDES)}, weighting 'std' or 'likelihood', and steps and ode_steps at "
                f"least 1, not {sde=}, {weighting=}, {steps=}, {ode_steps=}"
            )
        self.sde = VE(sigma_min, sigma_max) if sde == "ve" else SDES[sde](beta_min, beta_max)
        self.unet = make_unet(image_size, channels, num_classes, widths, blocks, dropout)

    def score(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """∇ ln p_t(x | y): noisy images (B, C, S, S), times (B,) in (0, 1], labels -> (B, C, S, S)"""
        a, s = (along(c, x) for c in self.sde.marginal(t))
        total = (a.square() + s.square()).sqrt()
        clock = TEMPO * self.sde.log_snr(t.to(x.device, x.dtype))
        v = self.unet((x / total).to(self.dtype), clock, y).sample.to(x.dtype)
        noise = (s * x / total + a * v) / total  # of x = a x_0 + s ε and total · v = a ε - s x_0
        return -noise / s

    # --- training ---------------------------------------------------------------------------------------------------

    def loss(self, images: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Denoising score matching (eq. 7): images of L levels (B, C, S, S), labels (B,) -> `loss`, averaged.

        With the weight s², it is the error of the noise at uniform times. With g², times are uniform in the log-SNR,
        where g² is a constant times s², and the loss is nats/dim up to a constant.
        """
        self._check(images, y)
        x0 = dequantize(images, self.levels)
        u = torch.rand(len(x0), device=x0.device)
        weight = 1.0
        if self.config.weighting == "std":
            t = torch.lerp(torch.full_like(u, self.sde.first), torch.ones_like(u), u)
        else:
            most, least = self._clock()
            t = self.sde.time(torch.lerp(torch.full_like(u, most), torch.full_like(u, least), u))
            weight = 0.5 * (most - least)
        noise = torch.randn_like(x0)
        s = along(self.sde.marginal(t)[1], x0)
        error = s * self.score(self.sde.add_noise(x0, noise, t), t, y) + noise  # that of ∇ ln p(x_t | x_0) = -ε / s
        return {"loss": weight * error.square().mean()}

    # --- the ordinary differential equation -------------------------------------------------------------------------

    def log_prob(
        self,
        images: Tensor,
        y: Tensor | None = None,
        generator: Generators = None,
        trace: Literal["hutchinson", "exact"] = "hutchinson",
        tolerance: float | None = None,
    ) -> Tensor:
        """ln p(x | y) of continuous images (B, C, S, S) in [-1, 1], along the ODE (eq. 39) -> nats (B,).

        Images of L levels are scored by `t2i.models.base.log_likelihood`. No gradient reaches the parameters; `loss` is
        for training. The density is that of images with the minimum noise (at time `SDE.first`).

        Args:
            generator: generator of the random signs for estimating the trace; by default seeded by each image's bytes.
            trace: trace of ∂(dx/dt)/∂x: "hutchinson" (an unbiased estimate, eq. 40) or "exact" (N times the cost).
            tolerance: relative and absolute tolerance of an adaptive solver (Dormand and Prince), with common steps for
                the batch; by default, `ode_steps` equal steps, independently for each image.

        Raises ValueError for images of another shape or range.
        """
        self._check(images, y)
        if trace not in ("hutchinson", "exact"):
            raise ValueError(f"unknown trace {trace!r}: choose 'hutchinson' or 'exact'")
        signs = self._signs(images, generator) if trace == "hutchinson" else None
        x, gained = self._solve(images.detach().float(), y, tolerance=tolerance, divergence=_divergence(signs))
        return self.sde.prior_log_prob(x) + gained

    @torch.no_grad()
    def encode(self, images: Tensor, y: Tensor | None = None, tolerance: float | None = None) -> Tensor:
        """Images (B, C, S, S) -> the noise at the end of the ODE (B, N), about standard normal."""
        self._check(images, y)
        return (self._solve(images.float(), y, tolerance=tolerance)[0] / self.sde.prior_std).flatten(1)

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None, tolerance: float | None = None) -> Tensor:
        """Noise (B, N) -> images (B, C, S, S) in [-1, 1]: the inverse of `encode`. Raises ValueError."""
        numbers = math.prod(self.shape)
        if z.ndim != 2 or z.shape[1] != numbers:
            raise ValueError(f"latents must have the shape (B, {numbers}), not {tuple(z.shape)}")
        self._check_labels(y, len(z))
        x = self.sde.prior_std * z.float().view(-1, *self.shape)
        return self._solve(x, y, back=True, tolerance=tolerance)[0].clamp(-1, 1)

    def _solve(
        self,
        x: Tensor,
        y: Tensor | None = None,
        back: bool = False,
        tolerance: float | None = None,
        score: Score | None = None,
        divergence: Callable | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Integrate from image to noise, or back: final x (B, C, S, S), and the integral of the divergence (B,).

        The time variable is the log-SNR, in which all terms of the equation are finite.
        """
        score = score or (lambda x, t: self.score(x, t, y))

        def velocity(clock: Tensor, x: Tensor) -> Tensor:
            t = self.sde.time(clock).expand(len(x))
            g2, s2 = self.sde.diffusion(t).square(), self.sde.marginal(t)[1].square()
            flow = self.sde.drift(x, t) - 0.5 * along(g2, x) * score(x, t)  # dx/dt, eq. 13
            return flow * along(-s2 / g2, x)  # dt / d clock

        def change(clock: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            if divergence is None:
                return velocity(clock, state[0]), torch.zeros_like(state[1])
            return divergence(velocity, clock, state[0])

        ends = self._clock()[::-1] if back else self._clock()
        n = 1 if tolerance else self.config.ode_steps
        how = {"method": "dopri5", "rtol": tolerance, "atol": tolerance} if tolerance else {"method": "rk4"}
        clocks = torch.linspace(*ends, n + 1, device=x.device, dtype=x.dtype)
        with torch.no_grad():
            path, gained = odeint(change, (x, x.new_zeros(len(x))), clocks, **how)
        return path[-1], gained[-1]

    def _clock(self) -> tuple[float, float]:
        """ln(a² / s²) at the first and last time."""
        ends = self.sde.log_snr(torch.tensor([self.sde.first, 1.0], dtype=torch.float64))
        return tuple(ends.tolist())

    def _signs(self, images: Tensor, generator: Generators) -> Tensor:
        if generator is None:
            content = [zlib.crc32(image.contiguous().numpy().tobytes()) for image in images.detach().float().cpu()]
            generator = [torch.Generator().manual_seed(number) for number in content]
        return 2.0 * (uniform(images.shape, generator, images.device) < 0.5) - 1

    # --- sampling ---------------------------------------------------------------------------------------------------

    @property
    def preview_options(self) -> dict[str, int]:
        """Fewer steps of the SDE."""
        return {"steps": min(PREVIEW_STEPS, self.config.steps)}

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: Generators = None,
        method: Literal["sde", "pc", "ode"] = "sde",
        steps: int | None = None,
        snr: float = 0.16,
        classifier: NoisyLogits | None = None,
        target: Tensor | None = None,
        guidance: float = 1.0,
        rounded: bool = True,
    ) -> Tensor:
        """Generate images from noise. See `GenerativeModel`.

        Args:
            method: "sde", the reverse-time SDE by the Euler-Maruyama method (eq. 6); "pc", with a Langevin step after
                each of its steps (algorithm 1); "ode", the ODE, as in `decode`.
            steps: number of steps of the first two; by default the model's.
            snr: signal-to-noise ratio of the Langevin steps, of size 2 (snr s)².
            classifier, target, guidance: classifier guidance towards labels (n,), with scale `guidance` (§ 5 and
                app. I); the classifier returns logits (B, K) for images and times, as `NoisyClassifier` does.
            rounded: whether to round to L levels.

        Raises ValueError for an unknown method, a classifier without targets, and as `GenerativeModel` says.
        """
        self._check_labels(y, n)
        if method not in METHODS or not (steps is None or steps >= 1) or not snr > 0:
            raise ValueError(
                f"method must be one of {', '.join(METHODS)}, steps at least 1 and snr above 0, not {method=}, "
                f"{steps=}, {snr=}"
            )
        score = self._led(n, y, classifier, target, guidance)
        x = self.sde.prior_std * normal((n, *self.shape), generator, self.device, torch.float32)
        if method == "ode":
            x = self._solve(x, back=True, score=score)[0]
        else:
            times = self.sde.times(steps or self.config.steps).to(x.device, x.dtype)
            for t, then in pairwise(times):
                x = self._euler(x, t.expand(n), (t - then).item(), score, generator)
                if method == "pc":
                    x = self._langevin(x, then.expand(n), snr, score, generator)
            a, s = (along(c, x) for c in self.sde.marginal(times[-1:]))
            x = (x + s.square() * score(x, times[-1].expand(n))) / a  # remove the remaining noise (Tweedie)
        return nearest_levels(x, self.levels) if rounded else x

    def _euler(self, x: Tensor, t: Tensor, step: float, score: Score, generator: Generators) -> Tensor:
        """x_{t - step} (B, C, S, S), one step back along dx = (f x - g² score) dt + g dw."""
        g = along(self.sde.diffusion(t), x)
        noise = normal(x.shape, generator, x.device, x.dtype)
        return x - step * (self.sde.drift(x, t) - g.square() * score(x, t)) + step**0.5 * g * noise

    def _langevin(self, x: Tensor, t: Tensor, snr: float, score: Score, generator: Generators) -> Tensor:
        """A Langevin step within p_t, which reduces the errors of previous steps.

        The paper divides the norm of the noise by that of the score, both over the whole batch. Here their approximate
        values √N and √N / s are used, so that images do not depend on each other.
        """
        step = 2 * (snr * along(self.sde.marginal(t)[1], x)).square()
        return x + step * score(x, t) + (2 * step).sqrt() * normal(x.shape, generator, x.device, x.dtype)

    def _led(
        self, n: int, y: Tensor | None, classifier: NoisyLogits | None, target: Tensor | None, guidance: float
    ) -> Score:
        if (classifier is None) != (target is None):
            raise ValueError("a classifier needs the target labels it leads to, and they need a classifier")
        if classifier is None:
            return lambda x, t: self.score(x, t, y)
        if target.shape != (n,) or target.is_floating_point():
            raise ValueError(f"target must be {n} integer labels, not {target.dtype} {tuple(target.shape)}")
        return lambda x, t: self.score(x, t, y) + guidance * gradient(classifier, x, t, target)


def _divergence(signs: Tensor | None) -> Callable[[Callable, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Velocity (B, C, S, S) and its divergence (B,), estimated with signs (B, C, S, S), or exact without them."""

    def of(velocity: Callable[[Tensor, Tensor], Tensor], clock: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = velocity(clock, x)
            if signs is not None:
                found = (torch.autograd.grad((v * signs).sum(), x)[0] * signs).flatten(1).sum(1)  # εᵀ (∂v/∂x) ε
            else:
                diagonal = [
                    torch.autograd.grad(v_i.sum(), x, retain_graph=True)[0].flatten(1)[:, i]
                    for i, v_i in enumerate(v.flatten(1).unbind(1))
                ]
                found = torch.stack(diagonal, dim=1).sum(1)
        return v.detach(), found

    return of
