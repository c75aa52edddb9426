"""Maximal update parametrisation: a coordinate check, and what is scaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_training import TINY_PRIOR, prior_recipe, trained_vqvae, vqvae_recipe  # noqa: F401
from torch import Tensor, nn

from t2i.diffusion.dit import DiT
from t2i.prior.masked import MaskedTransformer
from t2i.prior.transformer import TextImageTransformer
from t2i.training.cli import run
from t2i.training.config import LoopConfig
from t2i.training.mup import scale_to_width
from t2i.training.optimizers import make_optimizer
from t2i.training.recipes import RECIPES
from t2i.unclip.autoregressive_prior import AutoregressivePrior
from t2i.unclip.clip import ClipText
from t2i.unclip.diffusion_prior import DiffusionPrior

BASE, HEAD = 32, 16
WIDTHS = (32, 96, 256)
SEEDS = 2
STEPS = {"unclip-prior": 8}  # its output layer starts at 0, so that at first no other layer learns; all others: 4
TOKENS = {"text_vocab_size": 20, "image_vocab_size": 16, "text_length": 4, "grid_size": 4, "layers": 2}


def causal(width: int) -> TextImageTransformer:
    return TextImageTransformer(**TOKENS, width=width, heads=width // HEAD)


def masked(width: int) -> MaskedTransformer:
    return MaskedTransformer(**TOKENS, width=width, heads=width // HEAD)


def dit(width: int) -> DiT:
    sizes = {"sample_size": 4, "in_channels": 4, "cross_attention_dim": 8, "depth": 2}
    return DiT(**sizes, width=width, heads=width // HEAD)


def clip_prior(kind: type[nn.Module], width: int, **sizes: int) -> nn.Module:
    sizes |= {"embedding_dim": 8, "text_width": 8, "text_length": 4, "layers": 2}
    return kind(**sizes, width=width, heads=width // HEAD)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "prior": causal,
    "muse": masked,
    "dit": dit,
    "unclip-prior": lambda width: clip_prior(DiffusionPrior, width),
    "unclip-ar-prior": lambda width: clip_prior(AutoregressivePrior, width, num_components=6, num_buckets=16),
}


def loss_of(model: nn.Module) -> Tensor:
    """Of always the same batch."""
    g = torch.Generator().manual_seed(1)
    if isinstance(model, DiT):
        x, target = (torch.randn(8, 4, 4, 4, generator=g) for _ in range(2))
        return (model(x, torch.arange(8), torch.randn(8, 3, 8, generator=g)).sample - target).square().mean()
    if isinstance(model, TextImageTransformer | MaskedTransformer):
        text, codes = torch.randint(1, 20, (8, 4), generator=g), torch.randint(16, (8, 16), generator=g)
        given = () if isinstance(model, TextImageTransformer) else (torch.rand(8, 16, generator=g) < 0.5,)
        return model.loss(text, codes, *given)["loss"]
    states, embeds, other = (torch.randn(8, *shape, generator=g) for shape in ((4, 8), (8,), (8,)))
    text = ClipText(states=states, embeds=F.normalize(embeds), mask=torch.ones(8, 4, dtype=torch.bool))
    noised = isinstance(model, DiffusionPrior)
    noise = {"noise": torch.randn(8, 8, generator=g), "timesteps": torch.arange(8) * 100} if noised else {}
    return model.loss(text, F.normalize(other), **noise)["loss"]


def activations(model: nn.Module) -> dict[str, Tensor]:
    """The outputs of the blocks, and the logits or the prediction."""
    kept: dict[str, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, y, name=f"block {i}": kept.__setitem__(name, y.detach()))
        for i, block in enumerate(model.blocks)
    ]
    hooks.append(model.register_forward_hook(lambda _, __, y: kept.__setitem__("output", output(y).detach())))
    loss_of(model)
    for hook in hooks:
        hook.remove()
    return kept


def output(y) -> Tensor:
    y = getattr(y, "sample", y)
    return y[1] if isinstance(y, tuple) else y


def changes(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, float]:
    """The mean size of the change of each activation in a few steps."""
    before = activations(model)
    for _ in range(steps):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: (y - before[name]).abs().mean().item() for name, y in activations(model).items()}


def slopes(kind: str, optimizer: str, mup: bool) -> dict[str, float]:
    """By how much log₂ of each change grows when the width doubles."""
    sizes = []
    for width in WIDTHS:
        runs = []
        for seed in range(SEEDS):
            config = LoopConfig(
                optimizer=optimizer, learning_rate=4e-3, mup_base_width=BASE if mup else None, seed=seed
            )
            torch.manual_seed(seed)
            model = MODELS[kind](width)
            factors = scale_to_width(SimpleNamespace(model=model, fingerprint={}), config) if mup else {}
            runs.append(changes(model, make_optimizer(model, config, factors), STEPS.get(kind, 4)))
        sizes.append({name: np.mean([run[name] for run in runs]) for name in runs[0]})
    return {name: np.polyfit(np.log2(WIDTHS), np.log2([s[name] for s in sizes]), 1)[0] for name in sizes[0]}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_changes_activations_by_the_same_size_at_every_width(kind, optimizer):
    """The coordinate check of Yang et al. 2022, appendix D.1: with the standard parametrisation, they grow."""
    assert max(map(abs, slopes(kind, optimizer, mup=True).values())) < 0.15
    assert max(slopes(kind, optimizer, mup=False).values()) > 0.3


def scaled(width: int, optimizer: str = "adamw", base: int = BASE, seed: int = 0, **fingerprint: str):
    """A causal prior, before and after its weights were scaled, and the factors of its learning rates."""
    torch.manual_seed(seed)
    model = causal(width)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = LoopConfig(optimizer=optimizer, mup_base_width=base, seed=seed)
    task = SimpleNamespace(model=model, fingerprint=fingerprint)
    return before, model, scale_to_width(task, config)


def test_nothing_is_scaled_at_the_base_width():
    before, model, factors = scaled(BASE, seed=3)
    assert set(factors.values()) == {1.0} and factors.keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_rates_and_initial_weights_are_those_of_the_table(optimizer):
    before, model, factors = scaled(128, optimizer)
    hidden = {name for name in before if name.endswith("weight") and before[name].ndim == 2 and "tokens" not in name}
    assert len(hidden) == 8
    for name, p in model.named_parameters():
        if name in hidden:
            assert factors[name] == (1 / 4 if optimizer == "adamw" else pytest.approx(1 / 2)), name
            assert p.std().item() == pytest.approx(before[name].std().item() / 2, rel=0.05), name
        elif name.startswith("norm."):  # before the tied output layers
            assert factors[name] == 1 / 4 and torch.equal(p, before[name] / 4)
        else:
            assert factors[name] == 1
            assert p.std().item() == pytest.approx(before[name].std().item(), rel=0.2), name


def test_weights_of_another_model_keep_their_size():
    before, model, factors = scaled(128, init_from_sha256="0")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert set(factors.values()) == {1.0, 1 / 4}


def test_a_step_shrinks_weights_by_the_same_share_at_every_width():
    _, model, factors = scaled(128, "muon")
    groups = make_optimizer(model, LoopConfig(optimizer="muon", weight_decay=0.1), factors).param_groups
    assert {group["factor"] for group in groups} == {1 / 2, 1 / 4, 1.0}
    assert [group["lr"] * group["weight_decay"] for group in groups] == pytest.approx([1e-4] * len(groups))
    plain = make_optimizer(model, LoopConfig(optimizer="muon")).param_groups
    assert [(group["factor"], group["lr"]) for group in plain] == [(1.0, 1e-3)] * 2


def test_a_prior_trains_at_another_width_and_goes_on(prior_recipe, tmp_path):  # noqa: F811
    def train(steps: int, resume: str | None = None, **model):
        how = {"max_train_steps": steps, "checkpointing_steps": 2, "mup_base_width": 32, "resume": resume}
        return run(prior_recipe(tmp_path / "run", TINY_PRIOR | model, **how))

    train(2, width=64, heads=4)
    assert train(4, "latest", width=64, heads=4).name == "checkpoint-4"
    with pytest.raises(ValueError, match=r"--mup-base-width 32 is no multiple of 64, the width of a head: set the"):
        run(prior_recipe(tmp_path / "other", {"width": 64, "heads": 1}, mup_base_width=32))


def test_models_without_a_width_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--mup-base-width is for models with a --width, which this recipe's has not"):
        run(vqvae_recipe(tmp_path / "run", mup_base_width=32))
    nice = RECIPES["nice"]("tiny")
    loop = dataclasses.replace(nice.loop, mup_base_width=32, output_dir=str(tmp_path / "nice"))
    with pytest.raises(ValueError, match=r"for TextImageTransformer, .* and the model is a NICE: leave it out"):
        run(dataclasses.replace(nice, loop=loop))
    ldm = RECIPES["ldm-toybox"]("tiny")
    with pytest.raises(ValueError, match="mup_base_width is for transformers: give --denoiser dit"):
        dataclasses.replace(ldm, loop=dataclasses.replace(ldm.loop, mup_base_width=32))
    assert not list(tmp_path.iterdir())
