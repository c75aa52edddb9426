"""The KL autoencoder, its discriminator and its recipe."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from launching import launched
from safetensors.torch import load_file
from torch.distributions import Normal, kl_divergence

from t2i.data.toybox_v1 import Toybox
from t2i.images import to_tensor
from t2i.nn.discriminator import PatchDiscriminator
from t2i.tokenizers.adversarial import Adversary, adaptive_weight
from t2i.tokenizers.kl import (
    IdentityBlock,
    KLObjective,
    KLTokenizer,
    make_autoencoder,
    make_fast,
    measure_scaling_factor,
    posterior,
)
from t2i.tokenizers.perceptual import PerceptualLoss
from t2i.training.cli import run
from t2i.training.recipes import RECIPES
from t2i.training.recipes.ldm.denoiser import load_autoencoder

TINY = {"channels": (8, 8, 8, 16), "latent_channels": 4}
GAME = {
    "discriminator_weight": 0.5,
    "discriminator_channels": (8, 8),
    "discriminator_start": 2,
    "discriminator_ramp": 2,
}


def images(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size) * 2 - 1


def objective(start: int = 0, ramp: int = 0, adversarial: bool = True, **options) -> KLObjective:
    adversary = Adversary(PatchDiscriminator((8, 8)), 0.5, start, ramp) if adversarial else None
    return KLObjective(make_autoencoder(32, **TINY), adversary=adversary, **options)


class FirstPixels(torch.nn.Module):
    """Features of one layer: the image at half the resolution."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x[:, :, ::2, ::2]]


def noise(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 4, 4, 4)


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def recipe(folder: Path, discriminator: dict | None = None, objective: dict | None = None, **loop):
    """The tiny preset, made even smaller."""
    tiny = RECIPES["kl-toybox"]("tiny")
    sizes = {"max_train_steps": 6, "train_batch_size": 4, "checkpointing_steps": 3, "dataloader_num_workers": 0}
    return dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, **TINY),
        objective=dataclasses.replace(tiny.objective, **objective or {}),
        discriminator=dataclasses.replace(tiny.discriminator, **discriminator or {}),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **sizes | loop),
    )


def losses(folder: Path, name: str = "loss") -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- the objective --------------------------------------------------------------------------------------------------


def test_kl_is_the_one_of_torch_distributions():
    model, batch = objective(adversarial=False), images(3)
    q = posterior(model.autoencoder, batch)
    expected = kl_divergence(Normal(q.mean, q.std), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    assert torch.allclose(model.loss(batch, noise(3))["kl"], expected, rtol=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    batch, drawn = images(3), noise(3)
    found = []
    for kl_weight in (0.0, 1e-2):
        torch.manual_seed(1)
        found.append(objective(adversarial=False, kl_weight=kl_weight, edge_weight=0.0).loss(batch, drawn))
    free, paid = found
    assert torch.allclose(free["loss"], free["l1"] + free["mse"])
    assert torch.allclose(paid["loss"], free["loss"] + 1e-2 * free["kl"])


def test_gradient_reaches_every_parameter():
    model = objective().train()
    model.loss(images(4), noise(4))["loss"].backward()
    weights = {n: p for n, p in model.named_parameters() if n.endswith("weight")}
    assert [n for n, p in weights.items() if p.grad is None or not p.grad.any()] == []


def test_training_lowers_the_loss():
    model, batch = (
        objective(adversarial=False).train(),
        images(8) * 0.1 + torch.linspace(-0.8, 0.8, 8)[:, None, None, None],
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found = []
    for _ in range(30):
        loss = model.loss(batch, noise(8))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.6 * found[0]


def test_a_heavier_kl_brings_the_posterior_nearer_to_the_prior():
    kls = []
    for weight in (0.0, 1e-2):
        torch.manual_seed(0)
        model, batch = objective(adversarial=False, kl_weight=weight).train(), images(8)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(20):
            found = model.loss(batch, noise(8))
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
        kls.append(found["kl"].item())
    assert kls[1] < 0.5 * kls[0]


def test_gradient_checkpointing_changes_no_gradient():
    model, batch, drawn = objective(adversarial=False).train(), images(), noise()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model.loss(batch, drawn)["loss"].backward()
        found.append(gradients(model))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0].values(), found[1].values(), strict=True))


# --- adversarial training -------------------------------------------------------------------------------------------


def test_one_backward_pass_gives_each_player_the_gradient_of_its_own_loss():
    """Compared with two backward passes with the other network frozen, both from the same weights."""
    model, batch, drawn = objective().train(), images(4), noise(4)
    autoencoder, adversary = model.autoencoder, model.adversary
    model.loss(batch, drawn)["loss"].backward()
    together = gradients(model)

    q = posterior(autoencoder, batch)
    recon = autoencoder.decode(q.mean + q.std * drawn).sample
    model.zero_grad()
    own = 0.5 * (
        (1 - adversary.discriminator(batch)).relu().mean() + (1 + adversary.discriminator(recon.detach())).relu().mean()
    )
    own.backward()
    discriminator = gradients(adversary)
    assert all(p.grad is None for p in autoencoder.parameters())

    adversary.requires_grad_(False)
    error = recon - batch
    reconstruction = error.abs().mean() + error.square().mean()
    reconstruction = reconstruction + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    fooled = -adversary.discriminator(recon).mean()
    weight = adaptive_weight(reconstruction, fooled, autoencoder.decoder.conv_out.weight)
    (reconstruction + 1e-6 * q.kl().mean() + 0.5 * weight * fooled).backward()
    alone = {f"autoencoder.{n}": g for n, g in gradients(autoencoder).items()}
    alone |= {f"adversary.{n}": g for n, g in discriminator.items()}
    assert together.keys() == alone.keys()
    for name, gradient in together.items():
        assert torch.allclose(gradient, alone[name], rtol=1e-3, atol=1e-6), name


def test_the_discriminator_is_not_trained_before_its_start_and_then_ramps_up():
    model, batch = objective(start=2, ramp=4).train(), images()
    shares, found = [], []
    for i in range(8):
        model.zero_grad()
        found.append(model.loss(batch, noise()))
        found[-1]["loss"].backward()
        judge = [p.grad for p in model.adversary.parameters()]
        assert all(g is not None for g in judge)  # DistributedDataParallel waits for all
        assert any(g.any() for g in judge) == (i >= 2)
        shares.append(model.adversary.share())
    assert shares == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert all(f["generator"] == 0 and f["adaptive_weight"] == 0 for f in found[:2])
    assert all(f["generator"] != 0 and f["adaptive_weight"] > 0 for f in found[2:])
    assert [f["discriminator"] > 0 for f in found] == [False] * 2 + [True] * 6
    assert len({tuple(f) for f in found}) == 1  # the same names in every step


def test_before_its_start_the_autoencoder_trains_as_if_there_were_no_discriminator():
    batch, drawn = images(), noise()
    found = []
    for adversarial in (False, True):
        torch.manual_seed(2)
        plain = objective(adversarial=False)
        if adversarial:
            plain.adversary = Adversary(PatchDiscriminator((8, 8)), start=1)
        plain.train().loss(batch, drawn)["loss"].backward()
        found.append(gradients(plain.autoencoder))
    assert all(torch.equal(a, b) for a, b in zip(found[0].values(), found[1].values(), strict=True))


def test_evaluation_does_not_count_and_needs_no_gradient():
    model = objective(start=0).eval()
    with torch.no_grad():
        found = model.loss(images(), noise())
    assert model.adversary.passes == 0
    assert found["generator"] == 0


def test_adaptive_weight_balances_the_gradients_and_is_clamped():
    layer = torch.nn.Parameter(torch.randn(5))
    first, second = 3 * layer.square().sum(), 0.5 * layer.square().sum()
    assert torch.allclose(adaptive_weight(first, second, layer), torch.tensor(6.0), rtol=1e-4)
    nothing = 0 * layer.sum()
    assert adaptive_weight(first, nothing, layer, limit=7.0) == 7
    assert adaptive_weight(nothing, first, layer) == 0
    assert not adaptive_weight(first, second, layer).requires_grad


def test_the_discriminators_score_of_an_image_does_not_depend_on_the_batch():
    judge, batch = PatchDiscriminator((8, 16)), images(4)
    assert judge(batch).shape == (4, 1, 8, 8)
    assert torch.allclose(judge(batch)[1:2], judge(batch[1:2]), atol=1e-6)


def test_the_discriminator_learns_to_separate_real_from_generated():
    judge = PatchDiscriminator((8, 16))
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    adversary = Adversary(judge).train()
    for _ in range(40):
        found = adversary(images(8) * 0.2, images(8), torch.zeros(()), torch.zeros(1))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert found["discriminator"] < 0.2


# --- the tokenizer --------------------------------------------------------------------------------------------------


def test_latents_are_scaled_when_encoded_and_unscaled_when_decoded():
    autoencoder = make_autoencoder(32, **TINY).eval()
    pictures = [images(8), images(8)]
    factor, draws = measure_scaling_factor(autoencoder, pictures), torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = torch.cat([posterior(autoencoder, batch).sample(draws) for batch in pictures])
    assert factor == pytest.approx(1 / drawn.numpy().std(ddof=1, dtype="float64"), rel=1e-12)
    autoencoder.register_to_config(scaling_factor=factor)
    tokenizer = KLTokenizer(autoencoder)
    with torch.no_grad():
        latents = tokenizer.encode(torch.cat(pictures), torch.Generator().manual_seed(1))
        assert latents.shape == (16, 4, 4, 4)
        assert latents.std().item() == pytest.approx(1, abs=0.03)
        means = tokenizer.encode(pictures[0])
        assert torch.allclose(means, posterior(autoencoder, pictures[0]).mean * factor)
        again = autoencoder.decode(means / factor).sample.clamp(-1, 1)
        assert torch.equal(tokenizer.decode(means), again)
        assert torch.equal(tokenizer.reconstruct(pictures[0]), again)


def test_residual_blocks_of_linear_levels_are_the_identity_for_diffusers_too(tmp_path):
    """They are skipped here, computed by diffusers, and never trained."""
    model = KLObjective(make_autoencoder(32, **TINY, linear_levels=2)).train()
    blocks = [m for m in model.modules() if isinstance(m, IdentityBlock)]
    assert len(blocks) == 6, "one in the encoder and two in the decoder, at each of two levels"
    optimizer, batch = torch.optim.Adam(model.parameters(), 3e-3), images(4)
    for _ in range(3):
        model.loss(batch, noise(4))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    tokenizer = KLTokenizer(model.autoencoder).eval()
    tokenizer.autoencoder.save_pretrained(tmp_path)
    plain = AutoencoderKL.from_pretrained(tmp_path)
    assert not any(isinstance(m, IdentityBlock) for m in plain.modules())
    with torch.no_grad():
        latents = plain.encode(batch).latent_dist.mode()
        assert torch.allclose(tokenizer.encode(batch), latents, atol=1e-5)
        assert torch.allclose(tokenizer.reconstruct(batch), plain.decode(latents).sample.clamp(-1, 1), atol=1e-5)
        again = KLTokenizer.from_pretrained(tmp_path)
        for opened in (again, load_autoencoder(str(tmp_path))):
            assert sum(isinstance(m, IdentityBlock) for m in opened.modules()) == 6
        assert torch.equal(again.encode(batch), tokenizer.encode(batch))


def test_only_blocks_that_add_nothing_are_skipped():
    autoencoder = make_autoencoder(32, **TINY)
    assert not any(isinstance(m, IdentityBlock) for m in make_fast(autoencoder).modules())
    with pytest.raises(ValueError, match="from 0 to 4"):
        make_autoencoder(32, **TINY, linear_levels=5)


def test_the_perceptual_loss_is_added_with_its_weight():
    batch, drawn, perceptual = images(3), noise(3), PerceptualLoss(FirstPixels())
    found = []
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        autoencoder = make_autoencoder(32, **TINY)
        found.append(KLObjective(autoencoder, perceptual_weight=weight, perceptual=perceptual).loss(batch, drawn))
    without, with_it = found
    assert with_it["perceptual"] > 0
    assert torch.allclose(with_it["loss"], without["loss"] + 2 * with_it["perceptual"])


def test_measuring_the_scaling_factor_leaves_the_global_random_state_unchanged():
    autoencoder = make_autoencoder(32, **TINY).eval()
    batch, before = images(), torch.get_rng_state()
    first, second = (measure_scaling_factor(autoencoder, [batch]) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="at least one batch"):
        measure_scaling_factor(autoencoder, [])


def test_one_image_is_encoded_as_in_a_batch():
    tokenizer, batch = KLTokenizer(make_autoencoder(32, **TINY)).eval(), images(4)
    with torch.no_grad():
        assert torch.allclose(tokenizer.encode(batch)[2:3], tokenizer.encode(batch[2:3]), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (torch.zeros(1, 3, 36, 32), "not divisible by 8"),
        (torch.full((1, 3, 32, 32), 2.0), "must lie in"),
        (torch.full((1, 3, 32, 32), torch.nan), "must lie in"),
        (torch.zeros(1, 1, 32, 32), "shape"),
    ],
)
def test_bad_images_raise(wrong, says):
    model = objective(adversarial=False)
    with pytest.raises(ValueError, match=says):
        model.loss(wrong, noise(1))
    with pytest.raises(ValueError, match=says):
        KLTokenizer(model.autoencoder).encode(wrong)


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="not divisible by the stride 8"):
        make_autoencoder(36, **TINY)
    with pytest.raises(ValueError, match="multiples of 8"):
        make_autoencoder(32, (8, 12))
    with pytest.raises(ValueError, match=r"shape \(B, 4, s, s\)"):
        KLTokenizer(make_autoencoder(32, **TINY)).decode(torch.zeros(1, 8, 4, 4))
    with pytest.raises(ValueError, match="multiples of 8"):
        PatchDiscriminator((8, 12))
    with pytest.raises(ValueError, match="above 0"):
        Adversary(PatchDiscriminator((8,)), weight=0)
    with pytest.raises(ValueError, match="latents' shape"):
        objective(adversarial=False).loss(images(2), noise(1))
    with pytest.raises(ValueError, match="must not be negative"):
        objective(kl_weight=-1.0)
    with pytest.raises(ValueError, match="kl_weight must be at least 0"):
        recipe(Path("nowhere"), objective={"kl_weight": -1.0})


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_an_autoencoder_with_its_scale(tmp_path):
    folder = run(recipe(tmp_path / "run", GAME))
    autoencoder = AutoencoderKL.from_pretrained(folder)
    averaged, trained = (load_file(folder / "state" / f"{name}.safetensors") for name in ("ema", "model"))
    names = [n for n, _ in autoencoder.named_parameters()]
    state = autoencoder.state_dict()
    assert all(torch.equal(state[n], averaged[f"ema.autoencoder.{n}"]) for n in names)
    assert any(not torch.equal(state[n], trained[f"model.autoencoder.{n}"]) for n in names)
    world = Toybox("train", 64, num=64)
    batch = to_tensor(torch.from_numpy(np.stack([item["image"] for item in world])))
    with torch.no_grad():
        latents = KLTokenizer.from_pretrained(folder).encode(batch, torch.Generator().manual_seed(0))
    assert latents.std().item() == pytest.approx(1, abs=0.1)
    assert (tmp_path / "run" / "samples" / "step-000006.png").is_file()


def test_a_resumed_run_is_one_that_never_stopped(tmp_path):
    """Stopped while the adversarial weight ramps up: its progress is part of the state."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    how = {"max_train_steps": 4, "checkpointing_steps": 3}
    for folder in (whole, parts):
        run(recipe(folder, GAME, **how))
    (parts / "checkpoint-4").rename(parts / ".checkpoint-4.part")  # as after a kill after the first checkpoint
    run(recipe(parts, GAME, **how, resume="latest"))
    for name in ("loss", "generator", "discriminator", "adaptive_weight"):
        assert losses(parts, name) == losses(whole, name)
    assert [g == 0 for g in losses(parts, "generator")] == [True, True, False, False]
    weights = [p / "checkpoint-4" / "state" / "model.safetensors" for p in (whole, parts)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def command(folder: Path, processes: int = 1, **options) -> list[str]:
    named = {"output_dir": folder, "report_to": "none", "dataloader_num_workers": 0} | options
    flags = [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    sizes = ["--channels", "8", "8", "8", "16", "--discriminator-channels", "8", "8", "--discriminator-weight", "0.5"]
    sizes += ["--discriminator-start", "2", "--discriminator-ramp", "2"]
    return launched(processes, "-m", "t2i.training", "kl-toybox", "--preset", "tiny", *flags, *sizes)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(tmp_path):
    how = {"train_batch_size": 4, "max_train_steps": 9, "checkpointing_steps": 3}
    args = command(tmp_path / "killed", **how)
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*args, "--resume", "latest"], check=True, capture_output=True)
    subprocess.run(command(tmp_path / "whole", **how), check=True, capture_output=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_with_half_the_batch_train_as_one(tmp_path):
    for processes in (1, 2):
        how = {"train_batch_size": 8 // processes, "max_train_steps": 5, "checkpointing_steps": 5}
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
        args = command(tmp_path / str(processes), processes, **how)
        subprocess.run(args, check=True, capture_output=True, env=on_cpu)
    for name in ("loss", "discriminator", "adaptive_weight"):
        assert np.allclose(losses(tmp_path / "1", name), losses(tmp_path / "2", name), rtol=1e-3), name
