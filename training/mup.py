"""Maximal update parametrisation, μP (Yang et al. 2022, arXiv 2203.03466): a learning rate that holds at every width.

With `--mup-base-width`, the width at which the learning rate was tuned, initial weights and learning rates depend on
the width such that activations, and what a step changes in them, are of one size at all widths. The model computes
what it always does: only its initial weights and the optimizer's groups differ, and at the base width not even these.

Of a weight matrix (O, I), which is (O₀, I₀) at the base width, in the form of Table 3 of the paper, relative to it:

                                                standard deviation     AdamW's rate     Muon's rate
    embeddings, positions, norms, biases        as at the base width   1
    input layers, of which only O grows         as at the base width   1                s / s₀
    hidden layers                               × √(I₀ / I)            I₀ / I           s / s₀
    output layers, of which only I grows        × I₀ / I               I₀ / I           s / s₀

**Muon**: the spectral norm of an update must be proportional to √(O / I) (Yang, Simon and Bernstein 2023, arXiv
2310.17813, condition 1), and that of Muon's is 0.2 √max(O, I), to match AdamW's RMS. So s = √(O / I) / √max(O, I),
which is 1/√width for hidden layers: a matrix of full rank needs less of a reduction than AdamW's, which is of low rank.

**Tied output layers** keep the standard deviation and the rate of the embedding whose weights they share; the paper
multiplies their logits by I₀ / I (Table 8). Here the norm before them does so: its gain and bias start at I₀ / I of
what they are, and so does their rate, which for AdamW is the same function after every step (Lemma J.1).

**Weight decay** is divided by the rate's factor, so that a step shrinks the weights by the same share at every width.

**Heads** must be as wide as at the base width, since attention divides by the square root of their width, not by the
width as in μP, which differs only where heads grow. AdamW's ε = 1e-8 is not scaled: gradients are far larger.

Shapes: O outputs · I inputs of a linear layer
"""

from __future__ import annotations

import math

import torch
from diffusers import ModelMixin
from torch import nn

from t2i.diffusion.dit import DiT
from t2i.prior.masked import MaskedTransformer
from t2i.prior.transformer import TextImageTransformer
from t2i.training.config import LoopConfig
from t2i.training.optimizers import hidden_matrices
from t2i.training.task import Task
from t2i.unclip.autoregressive_prior import AutoregressivePrior
from t2i.unclip.diffusion_prior import DiffusionPrior

# The models whose width can be scaled, and the norm before an output layer that shares its weights with an embedding.
# Their weight matrices are those of linear layers; all their other parameters count as embeddings, norms and biases.
TIED_NORMS: dict[type[nn.Module], str | None] = {
    TextImageTransformer: "norm",
    MaskedTransformer: "norm",
    AutoregressivePrior: "norm",
    DiffusionPrior: None,
    DiT: None,
}
OPTION = "--mup-base-width"


def check_recipe(recipe) -> None:
    """Raise ValueError if a recipe has `mup_base_width`, and no width; before anything is computed."""
    if recipe.loop.mup_base_width is not None and getattr(getattr(recipe, "model", None), "width", None) is None:
        raise ValueError(f"{OPTION} is for models with a --width, which this recipe's has not: leave it out")


def scale_to_width(task: Task, config: LoopConfig) -> dict[str, float]:
    """Give the model, not sharded yet, μP's initial weights, unless they are another model's (`--init-from`).

    The standard deviations at the base width are measured on a model of that width, made with the run's seed.

    Returns the factor of each parameter's learning rate, by name.

    Raises ValueError for a model that is not in TIED_NORMS, or if its heads are not as wide at the base width.
    """
    model, muon = task.model, {id(p) for p in hidden_matrices(task.model)} if config.optimizer == "muon" else set()
    found = ((name, module) for name, module in model.named_modules() if type(module) in TIED_NORMS)
    prefix, part = next(found, ("", model))
    base, tied = _at_width(part, config.mup_base_width, config.seed), TIED_NORMS[type(part)]
    matrices = {f"{name}.weight" for name, module in part.named_modules() if isinstance(module, nn.Linear)}
    factors: dict[str, float] = {}
    for (name, p), q in zip(part.named_parameters(), base.parameters(), strict=True):
        rate = shrink = 1.0
        if name in matrices:
            rate = q.shape[1] / p.shape[1]
            shrink = rate if p.shape[0] == q.shape[0] else math.sqrt(rate)
            rate = rate if id(p) not in muon else _spectral(p.shape) / _spectral(q.shape)
        elif name.rpartition(".")[0] == tied:
            rate = q.shape[0] / p.shape[0]
        factors[f"{prefix}.{name}" if prefix else name] = rate
        if "init_from_sha256" in task.fingerprint:
            continue
        with torch.no_grad():
            spread = p.std(correction=0)
            if name.rpartition(".")[0] == tied:
                p.mul_(rate)
            elif spread > 0:  # not all zeros or ones
                p.mul_(q.std(correction=0) / spread * shrink)
    return factors


def _at_width(model: nn.Module, width: int | None, seed: int) -> nn.Module:
    """A new model of another width, with heads of the same width, as the recipe would make it."""
    if type(model) not in TIED_NORMS or not isinstance(model, ModelMixin) or width is None:
        known = ", ".join(kind.__name__ for kind in TIED_NORMS)
        raise ValueError(f"{OPTION} is for {known}, and the model is a {type(model).__name__}: leave it out")
    head = model.config.width // model.config.heads
    if width % head:
        raise ValueError(
            f"{OPTION} {width} is no multiple of {head}, the width of a head: set the number of heads such that they "
            "are as wide as those of the model whose learning rate was tuned"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model).from_config(model.config, width=width, heads=width // head)


def _spectral(shape: torch.Size) -> float:
    """√(O / I) / √max(O, I): what μP asks of an update's spectral norm, over that of Muon's, up to a constant."""
    return math.sqrt(shape[0] / shape[1] / max(shape))
