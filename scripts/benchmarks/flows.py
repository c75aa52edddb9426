"""Glow compared with normflows' (Stimper et al. 2023), with equal numbers of levels, steps and coupling channels.

Shapes: B batch · C, s channels and side of a level
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.timing import Benchmark, Row, Timed, clock, compare
from t2i.checks import UsageError
from t2i.models.flows.glow import Glow


@dataclass(frozen=True)
class Flows(Benchmark):
    """Glow: time of a training step and of sampling, compared with normflows' of the same architecture.

    Theirs has a fixed Gaussian prior where ours learns the prior of the factored-out latents given the remaining ones.

    Args:
        batch: batch size in training and sampling.
        image_size: side of the grey images, in pixels.
        scales, steps, width: of both models, see `t2i.models.flows.glow.Glow`.
    """

    batch: int = 64
    image_size: int = 28
    scales: int = 2
    steps: int = 8
    width: int = 64

    def run(self) -> list[Row]:
        try:
            normflows = importlib.import_module("normflows")
        except ImportError as error:
            raise UsageError("normflows is not installed: pip install normflows") from error
        torch.manual_seed(0)
        images = torch.randint(0, 256, (self.batch, 1, self.image_size, self.image_size)).float() / 127.5 - 1
        sizes = {"scales": self.scales, "steps": self.steps, "width": self.width}
        ours, theirs = Glow(self.image_size, alpha=0.0, **sizes), self._peer(normflows)
        ours.initialize(images)
        for model in (ours, theirs):
            counted = sum(p.numel() for p in model.parameters())
            print(f"{type(model).__module__.split('.')[0]}: {counted:,} parameters")
        what = f"Glow {self.scales} x {self.steps} steps, {self.batch} of {self.image_size}x{self.image_size}"
        train = {"normflows": _step(theirs, lambda: theirs.forward_kld(images))}
        rows = [compare(f"{what}: training step", _step(ours, lambda: ours.loss(images)["loss"]), train, self.repeats)]
        ours.eval()
        theirs.eval()
        peer = {"normflows": clock(lambda: theirs.sample(self.batch))}
        return [*rows, compare(f"{what}: samples", clock(lambda: ours.sample(self.batch)), peer, self.repeats)]

    def _peer(self, normflows) -> nn.Module:
        bases, flows, merges = [], [], []
        for level in range(self.scales):  # coarsest first, as normflows expects
            channels, side = 4 * 2 ** (self.scales - 1 - level), self.image_size // 2 ** (self.scales - level)
            steps = [normflows.flows.GlowBlock(channels, self.width) for _ in range(self.steps)]
            flows.append([*steps, normflows.flows.Squeeze()])
            leaving = channels if level == 0 else channels // 2
            bases.append(normflows.distributions.DiagGaussian((leaving, side, side)))
            merges += [normflows.flows.Merge()] if level else []
        return normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)


def _step(model: nn.Module, loss) -> Timed:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return clock(step, grad=True)
