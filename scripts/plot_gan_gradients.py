"""Vanishing generator gradients under a confident discriminator: `python scripts/plot_gan_gradients.py --out FILE`.

Trains only the discriminator, to distinguish 8×8 digits from the images of a fixed generator, and plots the norm of the
generator's gradient under its two losses (Arjovsky and Bottou 2017, arXiv 1701.04862, fig. 2).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.data.splits import open_splits
from t2i.models.adversarial.gan import GAN
from t2i.models.base import from_levels
from t2i.plots import new_figure, save_png, styled, use_log_scale


@dataclass(frozen=True)
class PlotGradients:
    out: str = "reports/gan-gradients.png"
    """Output file of the plot."""
    steps: int = 300
    """Number of training steps of the discriminator."""
    every: int = 5
    """Number of steps between measurements."""
    batch: int = 64
    width: int = 16
    """Width of both networks, in channels."""
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.every, self.batch, self.width) < 1 or not self.learning_rate > 0:
            raise UsageError("--steps, --every, --batch and --width must be at least 1, --learning-rate above 0")


def main(args: list[str]) -> None:
    ask = parse(PlotGradients(), args, prog="plot_gan_gradients.py", description=__doc__)
    steps, norms = measure(ask)
    path = Path(ask.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(plot(steps, norms), path)
    print(path)


def measure(ask: PlotGradients) -> tuple[list[int], dict[str, list[float]]]:
    """The measured steps, and the gradient norm of each loss at these."""
    torch.manual_seed(ask.seed)
    data = open_splits("digits")
    k = torch.stack([torch.from_numpy(item["image"][:, :, 0]) for item in data.train])[:, None] / 255
    images = from_levels((k * (data.levels - 1)).round(), data.levels)
    model = GAN(8, 1, data.levels, latent_dim=16, width=ask.width)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), ask.learning_rate)
    steps, norms = [], {"minimax": [], "non_saturating": []}
    for step in range(ask.steps + 1):
        batch = images[torch.randint(len(images), (ask.batch,))]
        if step % ask.every == 0:
            steps.append(step)
            for kind, norm in model.generator_gradient_norms(batch).items():
                norms[kind].append(norm)
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    return steps, norms


@styled
def plot(steps: list[int], norms: dict[str, list[float]]) -> Figure:
    figure = new_figure()
    axes = figure.add_subplot()
    labels = {"minimax": "E ln(1 − σ(D(G(z))))", "non_saturating": "−E ln σ(D(G(z)))"}
    for kind, values in norms.items():
        axes.plot(steps, values, label=f"{kind.replace('_', '-')}: {labels[kind]}")
    use_log_scale(axes, "y")
    axes.set_xlabel("steps of the discriminator, the generator unmoved")
    axes.set_ylabel("norm of the generator's gradient")
    axes.legend()
    return figure


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
