"""Models, losses and optimizers on other devices than the CPU: no mixed devices, and the same results as on the CPU."""

from __future__ import annotations

import math

import diffusion_parts as parts
import generative_models
import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from generative_models import MAKERS, pictures, seeds, stirred
from torch import nn

from t2i.diffusion.objective import DiffusionObjective
from t2i.models.base import GenerativeModel, log_likelihood
from t2i.text.clip import contrastive_loss, make_clip
from t2i.tokenizers.kl import KLObjective
from t2i.training.config import LoopConfig
from t2i.training.optimizers import make_optimizer

QUICK = ("pca", "vae-conditional", "hvae", "pixelcnn", "realnvp", "glow-conditional", "gan-conditional", "ddpm")


def some(names, quick) -> list:
    """Those that are not quick are marked slow; on CUDA all run."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


TRAINED = [name for name, make in MAKERS.items() if not hasattr(make(), "fit")]


def on(device: str, *tensors):
    return [t if t is None else t.to(device) for t in tensors]


def step(model: nn.Module, loss, device: str, dtype: torch.dtype | None, optimizer: str = "adamw") -> float:
    """One training step, under autocast if a dtype is given; returns the loss."""
    move = make_optimizer(model, LoopConfig(optimizer=optimizer))
    ema = EMAModel(model.parameters(), foreach=True)
    with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
        losses = loss()
    losses["loss"].backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    move.step()
    ema.step(model.parameters())
    assert all(x.isfinite() for x in losses.values())
    assert all(p.isfinite().all() for p in model.parameters())
    return float(losses["loss"])


@pytest.mark.parametrize("name", some(TRAINED, (*QUICK, "score-sde", "pixelcnn++")))
def test_a_training_step_in_bfloat16(name, device):
    model = stirred(MAKERS[name]()).to(device)
    images, y = on(device, *pictures(model, 4))
    assert math.isfinite(step(model.train(), lambda: model.loss(images, y), device, torch.bfloat16))


@pytest.mark.parametrize("name", some(MAKERS, QUICK))
def test_scores_and_samples_are_the_cpus(name, device):
    model: GenerativeModel = stirred(MAKERS[name]()).eval()
    images, y = pictures(model, 3)
    with torch.no_grad():
        here = found(model, images, y)
        there = found(model.to(device), *on(device, images, y))
    for cpu, other in zip(here, there, strict=True):
        assert other.device.type == device
        assert torch.allclose(cpu, other.cpu(), rtol=1e-3, atol=1e-2)


def found(model: GenerativeModel, images, y) -> list[torch.Tensor]:
    """All outputs, with CPU generators. Samples are compared by their mean, as rounding may change single pixels."""
    out = []
    if model.likelihood != "none":
        out.append(log_likelihood(model, images, y, seeds(0, 1, 2)))
    if model.latents:
        out.append(model.decode(model.encode(images, y), y).mean())
    if model.samples:
        out.append(model.sample(3, y, seeds(1, 2, 3)).float().mean())
        if device_is_real(images):
            own = [torch.Generator(images.device).manual_seed(i) for i in range(3)]
            assert model.sample(3, y, own).shape == (3, *model.shape)
    return out


def device_is_real(x: torch.Tensor) -> bool:
    """The emulated device has no generators of its own."""
    return x.device.type != "emulated"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_tokenizer_and_prior_train(vqvae, prior, dtype, optimizer, device):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    text = torch.randint(1, prior.config.text_vocab_size, (2, 8))
    for model, inputs in ((vqvae, (images,)), (prior, (text, torch.randint(32, (2, 16))))):
        model.train()
        model.to(device)
        losses = [step(model, lambda m=model, i=inputs: m.loss(*on(device, *i)), device, dtype, optimizer)]
        assert np.isfinite(losses).all()


def test_the_codebook_is_the_cpus(vqvae, device):
    """k-means, moving averages and revived codes, whose random choices are made on the CPU."""
    images = [torch.rand(2, 3, 16, 16) * 2 - 1 for _ in range(12)]
    books = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        book = type(vqvae.quantizer)(32, 8, kmeans_batches=2, dead_below=0.5).to(where).train()
        for picture in images:
            book(picture.to(where).reshape(-1, 8))
        books.append(book.codebook.cpu())
    assert torch.allclose(*books, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("denoiser", [parts.unet, parts.dit], ids=["unet", "dit"])
def test_denoisers_train_and_lose_what_they_lose_on_the_cpu(denoiser, kind, device):
    objective = DiffusionObjective(prediction_type=kind, min_snr_gamma=None if kind == "flow" else 5.0)
    shape = (parts.CHANNELS, parts.SIDE, parts.SIDE)
    drawn = [objective.sample_noise(shape, np.random.default_rng(i)) for i in range(2)]
    batch = {k: torch.from_numpy(np.stack([d[k] for d in drawn])) for k in drawn[0]}
    batch |= {"latents": torch.randn(2, *shape), "states": torch.randn(2, 5, parts.TEXT_WIDTH)}
    batch["mask"] = torch.ones(2, 5, dtype=torch.bool)
    model = denoiser().train()
    here = objective.loss(model, **batch)["loss"].item()
    batch, model = {k: x.to(device) for k, x in batch.items()}, model.to(device)
    assert objective.loss(model, **batch)["loss"].item() == pytest.approx(here, rel=1e-3)
    step(model, lambda: objective.loss(model, **batch), device, torch.bfloat16, "muon")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_autoencoder_trains(dtype, device):
    model = KLObjective(parts.autoencoder().train()).to(device)
    images, noise = on(device, torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, parts.CHANNELS, 8, 8))
    assert math.isfinite(step(model, lambda: model.loss(images, noise), device, dtype))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_clip_trains(dtype, device):
    tokenizer = parts.clip_tokenizer()
    model = make_clip(tokenizer, 16, 32, 1, 2, 8, 32, 1, 2, dim=16).to(device).train()
    ids = tokenizer(["a red cat", "a blue car"], padding="max_length", return_tensors="pt")["input_ids"]
    images, ids = on(device, torch.rand(2, 3, 16, 16) * 2 - 1, ids)
    assert math.isfinite(step(model, lambda: contrastive_loss(model, images, ids, ids), device, dtype))


def test_linear_models_are_fitted(device):
    for name in ("pca", "gmm-conditional"):
        model = generative_models.MAKERS[name]().to(device)
        images, y = on(device, *pictures(model, 60))
        before = model.loss(images, y)["loss"]
        model.fit(images, y)
        assert model.loss(images, y)["loss"] < before
