"""Generative adversarial networks: their losses, and what regularises them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from generative_models import digits, seeds, stirred
from launching import launched
from safetensors.torch import load_file

from t2i.models import load_pretrained
from t2i.models.adversarial.gan import GAN, Discriminator
from t2i.models.adversarial.losses import discriminator_loss, generator_loss, gradient_penalty
from t2i.models.base import nearest_levels
from t2i.training.cli import run
from t2i.training.recipes import RECIPES

SIZES = {"image_size": 8, "channels": 1, "levels": 17, "latent_dim": 8, "width": 8}
SCRIPTS = Path(__file__).parents[1] / "scripts"
KINDS = ("minimax", "non_saturating", "hinge", "wasserstein", "least_squares")


def recipe(name: str, folder: Path, model: dict | None = None, **loop):
    """The tiny preset, made even smaller."""
    tiny = RECIPES[name]("tiny")
    sizes = {"max_train_steps": 4, "train_batch_size": 8, "checkpointing_steps": 2, "dataloader_num_workers": 0}
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, scored=20),
        model=dataclasses.replace(tiny.model, **{"width": 8} | (model or {})),
        loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **sizes | loop),
    )


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_first_losses_are_cross_entropies():
    real, made = torch.randn(2, 50) * 3
    one, zero = torch.ones(50), torch.zeros(50)
    entropy = F.binary_cross_entropy_with_logits
    for kind in ("minimax", "non_saturating"):
        expected = entropy(real, one) + entropy(made, zero)
        assert torch.allclose(discriminator_loss(kind, real, made), expected, rtol=1e-5)
    assert torch.allclose(generator_loss("minimax", made), -entropy(made, zero), rtol=1e-5)
    assert torch.allclose(generator_loss("non_saturating", made), entropy(made, one), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_players_pull_in_opposite_directions(kind):
    judged = torch.randn(2, 20).requires_grad_()  # mostly between the margins of the hinge loss
    own, asked = discriminator_loss(kind, *judged), generator_loss(kind, judged[1])
    real, made = torch.autograd.grad(own, judged)[0]
    pushed = torch.autograd.grad(asked, judged)[0][1]
    if kind == "least_squares":  # which also penalises values beyond 1
        near = (judged[1] > 0) & (judged[1] < 1)
        assert (made[near] > 0).all() and (pushed[near] < 0).all()
        return
    assert (real <= 0).all() and (made >= 0).all() and (pushed < 0).all()


def test_a_sure_discriminator_starves_the_minimax_generator_and_not_the_other():
    model, images = GAN(**SIZES), digits(17, 64)[0]
    start = model.generator_gradient_norms(images)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        found = model.loss(images)
        found["loss"].backward()
        optimizer.step()
    assert found["discriminator"] < 0.1
    sure = model.generator_gradient_norms(images)
    assert sure["non_saturating"] > 100 * sure["minimax"]
    assert sure["minimax"] < 0.1 * start["minimax"] and sure["non_saturating"] > start["non_saturating"]
    fresh = GAN(**SIZES)
    fresh.generator_gradient_norms(images)
    assert all(p.grad is None for p in fresh.parameters())


# --- the penalty and the norms --------------------------------------------------------------------------------------


def test_the_penalty_is_that_of_finite_differences():
    judge = stirred(Discriminator(8, 1, 8, 0, False)).double()
    real, made = torch.rand(2, 2, 1, 8, 8, dtype=torch.float64)
    mix = torch.tensor([0.3, 0.8], dtype=torch.float64)
    between, step, slopes = made + mix.view(-1, 1, 1, 1) * (real - made), 1e-5, torch.zeros(2, 64)
    with torch.no_grad():
        for i in range(64):
            move = torch.zeros(64, dtype=torch.float64)
            move[i] = step
            move = move.view(1, 1, 8, 8)
            slopes[:, i] = (judge(between + move) - judge(between - move)) / (2 * step)
    expected = (slopes.norm(dim=1) - 1).square().mean()
    penalty = gradient_penalty(judge, real, made, mix)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_of_the_penalty_is_that_of_finite_differences():
    judge = stirred(Discriminator(8, 1, 8, 0, False)).double()
    real, made = torch.rand(2, 2, 1, 8, 8, dtype=torch.float64)
    mix = torch.tensor([0.3, 0.8], dtype=torch.float64)
    gradient_penalty(judge, real, made, mix).backward()
    for weight in (judge.real.weight, judge.features[0].weight, judge.features[2].weight):
        direction = torch.randn_like(weight)
        direction, found, step = direction / direction.norm(), [], 1e-6
        with torch.no_grad():
            for sign in (1, -1):
                weight += sign * step * direction
                found.append(gradient_penalty(judge, real, made, mix).item())
                weight -= sign * step * direction
        assert (weight.grad * direction).sum().item() == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-3)


def test_a_penalised_critic_measures_the_distance_of_two_points():
    """Two images 0.25 apart in each of 64 pixels: W₁ = 0.25 √64."""
    here = torch.full((16, 1, 8, 8), -0.125)
    judge = Discriminator(8, 1, 8, 0, False)
    judge.features[3] = torch.nn.Identity()  # a group norm would remove an image's brightness
    optimizer = torch.optim.Adam(judge.parameters(), 5e-3)
    there = -here
    for _ in range(200):
        optimizer.zero_grad()
        mix = torch.rand(16)
        loss = discriminator_loss("wasserstein", judge(there), judge(here))
        (loss + 10 * gradient_penalty(judge, there, here, mix)).backward()
        optimizer.step()
    assert -loss.item() == pytest.approx(2, rel=0.15)


def test_spectral_norms_are_one_after_power_iterations():
    model = stirred(GAN(**SIZES, num_classes=10, loss_kind="hinge", spectral_norm=True), 0.5).train()
    images, y = digits(17, 4)
    for _ in range(60):
        model.discriminate(images, y)
    judge = model.eval().discriminator
    layers = [m for m in judge.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear | torch.nn.Embedding)]
    largest = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers]
    assert len(largest) == 4 and all(0.9 < s < 1.02 for s in largest)
    assert not any(isinstance(m, torch.nn.GroupNorm) for m in judge.modules())


# --- adversarial training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_backward_pass_gives_each_player_the_gradient_of_its_own_loss(kind):
    options = {"num_classes": 10, "spectral_norm": True} if kind == "hinge" else {}
    options |= {"gradient_penalty": 10.0} if kind == "wasserstein" else {}
    model = stirred(GAN(**SIZES, loss_kind=kind, **options)).eval()  # in training, spectral norms keep iterating
    images, y = digits(17)
    y = y if model.conditional else None
    torch.manual_seed(5)
    model.loss(images, y)["loss"].backward()
    together = gradients(model)
    model.zero_grad()

    torch.manual_seed(5)
    made = model._noisy(model._made(16, y, None))
    real, judge = model._noisy(images), model.discriminator
    own = discriminator_loss(kind, judge(real, y), judge(made.detach(), y))
    if model.config.gradient_penalty:
        own = own + 10 * gradient_penalty(lambda x: judge(x, y), real, made, torch.rand(16))
    own.backward()
    alone = gradients(model)
    assert not any(name.startswith("generator") for name in alone)
    judge.requires_grad_(False)
    generator_loss(kind, judge(made, y)).backward()
    alone |= {name: g for name, g in gradients(model).items() if name.startswith("generator")}
    assert together.keys() == alone.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in together.items():
        assert torch.allclose(gradient, alone[name], rtol=1e-3, atol=1e-6), name


def test_the_generator_moves_every_few_passes_and_not_a_bit_between():
    """With momentum and weight decay, which would change weights whose gradient is zero."""
    model, images = stirred(GAN(**SIZES, discriminator_steps=3)).train(), digits(17)[0]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    players, moved, names = (model.generator, model.discriminator), [], set()
    for _ in range(9):
        before = [torch.nn.utils.parameters_to_vector(player.parameters()) for player in players]
        optimizer.zero_grad()
        found = model.loss(images)
        found["loss"].backward()
        names.add(tuple(found))
        optimizer.step()
        after = [torch.nn.utils.parameters_to_vector(player.parameters()) for player in players]
        moved.append([not torch.equal(x, y) for x, y in zip(before, after, strict=True)])
    assert [g for g, _ in moved] == [False, False, True] * 3
    assert all(d for _, d in moved)
    assert len(names) == 1  # the same values are logged in every step


def test_evaluation_does_not_count_as_a_pass():
    model = GAN(**SIZES, discriminator_steps=2).eval()
    with torch.no_grad():
        model.loss(digits(17)[0])
    assert model.passes == 0
    model.train().loss(digits(17)[0])
    assert model.passes == 1


def test_labels_matter_to_both_players():
    model = stirred(GAN(**SIZES, num_classes=10, loss_kind="hinge")).eval()
    images, y = digits(17, 4)
    other = (y + 1) % 10
    z = seeds(1, 2, 3, 4)
    assert not torch.equal(model.sample(4, y, z), model.sample(4, other, seeds(1, 2, 3, 4)))
    with torch.no_grad():
        judge = model.discriminator
        difference = model.discriminate(images, y) - model.discriminate(images, other)
        projected = ((judge.label(y) - judge.label(other)) * judge.features(images)).sum(1)
    assert torch.allclose(difference, projected, atol=1e-5)


def test_the_distance_is_what_the_loss_logs():
    model, images = stirred(GAN(**SIZES, loss_kind="wasserstein")).eval(), digits(17)[0]
    found = model.loss(images)
    assert torch.allclose(found["distance"], -found["discriminator"])
    made = model.sample(16, generator=seeds(0)[0])
    assert torch.allclose(model.distance(images, made), -model.distance(made, images))
    assert model.distance(images, images) == 0


def test_samples_are_the_generators_images_at_the_nearest_level():
    model = stirred(GAN(**SIZES)).eval()
    with torch.no_grad():
        made = model._made(4, None, seeds(1, 2, 3, 4))
    drawn = model.sample(4, generator=seeds(1, 2, 3, 4))
    assert (made - drawn).abs().max() <= 1 / 16 + 1e-6
    assert torch.allclose(nearest_levels(drawn, 17), drawn, atol=1e-6)


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
def test_the_networks_take_the_usual_sides(side):
    model = GAN(side, 3, latent_dim=4, width=8)
    images = model.sample(2)
    assert images.shape == (2, 3, side, side) and model.discriminate(images).shape == (2,)


def test_bad_arguments_raise(tmp_path):
    with pytest.raises(ValueError, match="unknown loss"):
        GAN(**SIZES, loss_kind="maximin")
    with pytest.raises(ValueError, match="cannot be halved"):
        GAN(**SIZES | {"image_size": 11})
    with pytest.raises(ValueError, match="multiple of 8"):
        GAN(**SIZES | {"width": 12})
    with pytest.raises(ValueError, match="at least 1"):
        GAN(**SIZES, discriminator_steps=0)
    with pytest.raises(ValueError, match="--gradient-accumulation-steps 1"):
        recipe("wgan-gp", tmp_path, gradient_accumulation_steps=2)


# --- the recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wgan-gp", "sngan"))]
)
def test_a_gan_trains_is_scored_and_opens(name, tmp_path):
    folder = run(recipe(name, tmp_path / "run"))
    best = load_pretrained(tmp_path / "run" / "best")
    assert best.conditional == (name == "sngan")
    kept = json.loads((tmp_path / "run" / "best" / "scores.json").read_text())
    history = json.loads((folder / "scores.json").read_text())["history"]
    assert kept["validation"]["loss"] == min(history) and len(history) == 2
    assert kept["test"]["pictures"] == kept["test"]["samples"] == 20 and kept["test"]["kind"] == "none"
    saved, averaged = load_pretrained(folder), load_file(folder / "state" / "ema.safetensors")
    assert all(torch.equal(p, averaged[f"ema.{name}"]) for name, p in saved.named_parameters())


def test_the_score_is_a_distance_and_consumes_no_random_numbers_of_the_run(tmp_path):
    task = recipe("gan", tmp_path / "run").task()
    state = torch.get_rng_state()
    noise = task.score(task.validation)["loss"]
    assert torch.equal(torch.get_rng_state(), state) and task.score(task.validation)["loss"] == noise
    task.model.sample = lambda n, y, generator: task._batch(task.test, torch.arange(n) % 20)[0]
    assert task.score(task.test)["loss"] < 0.01 < task.score(task.validation)["loss"] < noise


def test_a_resumed_run_is_one_that_never_stopped(tmp_path):
    """Stopped between two generator updates, one of which happens in every third pass."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    how = {"max_train_steps": 6, "checkpointing_steps": 4}
    run(recipe("wgan-gp", whole, {"discriminator_steps": 3}, **how))
    shutil.copytree(whole, parts, symlinks=True)
    (parts / "checkpoint-6").rename(parts / ".checkpoint-6.part")  # as after a kill after the first checkpoint
    run(recipe("wgan-gp", parts, {"discriminator_steps": 3}, **how, resume="latest"))
    for name in ("loss", "distance", "penalty", "grad_norm"):
        assert logged(whole, name) == logged(parts, name)
    weights = [p / "checkpoint-6" / "state" / "model.safetensors" for p in (whole, parts)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_two_processes_move_together_and_the_generator_rests_in_both(tmp_path):
    flags = ["--preset", "tiny", "--report-to", "none", "--dataloader-num-workers", "0", "--scored", "20"]
    flags += ["--width", "8", "--discriminator-steps", "2", "--max-train-steps", "4", "--checkpointing-steps", "1"]
    flags += ["--checkpoints-total-limit", "9", "--train-batch-size", "8", "--output-dir", str(tmp_path / "run")]
    on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}  # also on machines with GPUs
    subprocess.run(launched(2, "-m", "t2i.training", "wgan-gp", *flags), check=True, capture_output=True, env=on_cpu)
    states = [load_file(tmp_path / "run" / f"checkpoint-{i}" / "state" / "model.safetensors") for i in range(1, 5)]
    for i, unmoved in ((1, False), (2, True), (3, False)):  # compared with the previous checkpoint
        for player, same in (("generator", unmoved), ("discriminator", False)):
            names = [n for n in states[i] if n.startswith(f"model.{player}") and n.endswith("weight")]
            assert names and all(torch.equal(states[i][n], states[i - 1][n]) == same for n in names), (i, player)


# --- the scripts ----------------------------------------------------------------------------------------------------


def test_the_plot_of_gradients_is_written(tmp_path, capsys):
    script("plot_gan_gradients").main(["--out", str(tmp_path / "new" / "plot.png"), "--steps", "4", "--every", "2"])
    assert (tmp_path / "new" / "plot.png").stat().st_size > 5000


def test_the_curve_has_a_point_for_each_checkpoint(tmp_path, capsys):
    run(recipe("sngan", tmp_path / "run"))
    script("plot_fid_curve").main([str(tmp_path / "run"), "--samples", "30"])
    lines = (tmp_path / "run" / "fid.csv").read_text().splitlines()
    assert lines[0] == "step,FD[random] of 30 samples" and [line.split(",")[0] for line in lines[1:]] == ["2", "4"]
    assert all(np.isfinite(float(line.split(",")[1])) for line in lines[1:])
    assert (tmp_path / "run" / "fid.png").is_file()
    with pytest.raises(ValueError, match=r"has no recipe\.json"):
        script("plot_fid_curve").main([str(tmp_path)])
