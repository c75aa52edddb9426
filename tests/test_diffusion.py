"""Noise schedules, objectives, guidance, samplers and the diffusion transformer."""

from __future__ import annotations

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from t2i.checks import UsageError
from t2i.diffusion.dit import DiT, positions
from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.guidance import dynamic_threshold, guide, rescale, static_threshold, threshold_prediction
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedule import BETA_SCHEDULES, PREDICTIONS, NoiseSchedule
from t2i.diffusion.schedulers import SCHEDULERS, make_scheduler

COSINE = NoiseSchedule(beta_schedule="squaredcos_cap_v2")
ZERO_SNR = NoiseSchedule(rescale_betas_zero_snr=True)
HALVES = NoiseSchedule(2, "linear", 0.1, 4 / 9)  # ᾱ = 0.9, 0.5: signal-to-noise ratios of 9 and 1


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_betas_are_those_of_diffusers(name, zero):
    ours = NoiseSchedule(500, name, 0.0005, 0.015, zero)
    theirs = DDPMScheduler(**ours.scheduler_config("v_prediction"))
    assert torch.equal(ours.betas, theirs.betas)
    assert torch.allclose(ours.alphas_cumprod, theirs.alphas_cumprod.double(), atol=1e-6)
    assert ours.alphas_cumprod.dtype == torch.float64
    assert NoiseSchedule.of(theirs.config) == ours
    assert (ours.alphas_cumprod[-1] == 0) == zero


def test_noise_added_at_once_is_noise_added_step_by_step():
    """√(1 − β) x + √β ε, applied t times (Ho et al. 2020, eq. 2), has eq. 4's mean and variance."""
    schedule, mean, variance = NoiseSchedule(50), 1.0, 0.0
    x0, noise = samples(1, 3), samples(1, 3, seed=1)
    for t, beta in enumerate(schedule.betas.double()):
        mean, variance = mean * (1 - beta).sqrt(), variance * (1 - beta) + beta
        x = schedule.add_noise(x0, noise, torch.tensor([t]))
        assert torch.allclose(x, mean * x0 + variance.sqrt() * noise, atol=1e-12)


def test_noise_is_that_of_diffusers():
    schedule, times = NoiseSchedule(), torch.tensor([0, 10, 500, 999])
    x0, noise = samples(4, 2, 3, 3).float(), samples(4, 2, 3, 3, seed=1).float()
    theirs = DDPMScheduler(**schedule.scheduler_config("v_prediction"))
    assert torch.allclose(schedule.add_noise(x0, noise, times), theirs.add_noise(x0, noise, times), atol=1e-5)
    velocity = schedule.target("v_prediction", x0, noise, times)
    assert torch.allclose(velocity, theirs.get_velocity(x0, noise, times), atol=1e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_gives_the_sample_and_the_noise(kind):
    schedule, times = NoiseSchedule(), torch.tensor([0, 1, 500, 998])
    x0, noise = samples(4, 2, 3, 3), samples(4, 2, 3, 3, seed=1)
    x_t = schedule.add_noise(x0, noise, times)
    said = schedule.target(kind, x0, noise, times)
    for found, true in zip(schedule.split(kind, said, x_t, times), (x0, noise), strict=True):
        assert torch.allclose(found, true, atol=1e-10)
    assert torch.allclose(schedule.join(kind, x0, x_t, times), said, atol=1e-10)


def test_min_snr_weights_by_hand():
    """For γ = 5 and signal-to-noise ratios of 9 and 1 (Hang et al. 2023, § 3.4)."""
    times = torch.tensor([0, 1])
    assert torch.allclose(HALVES.snr(times), torch.tensor([9.0, 1.0]).double(), atol=1e-5)
    expected = {"epsilon": [5 / 9, 1], "sample": [5, 1], "v_prediction": [5 / 10, 1 / 2]}
    for kind, weights in expected.items():
        assert torch.allclose(HALVES.min_snr_weight(kind, times, 5.0), torch.tensor(weights).double(), atol=1e-5)


def test_min_snr_weighs_one_error_alike_whatever_the_denoiser_says():
    schedule, times = NoiseSchedule(), torch.tensor([5, 300, 900])
    x0, noise, wrong = samples(3, 8), samples(3, 8, seed=1), samples(3, 8, seed=2)
    x_t, losses = schedule.add_noise(x0, noise, times), []
    for kind in PREDICTIONS:
        error = schedule.join(kind, wrong, x_t, times) - schedule.target(kind, x0, noise, times)
        losses.append(error.square().mean(1) * schedule.min_snr_weight(kind, times, 5.0))
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(losses[1], losses[2])


def test_weights_are_finite_without_any_signal():
    last = torch.tensor([999])
    for kind, weight in (("epsilon", 1), ("sample", 0), ("v_prediction", 0)):
        assert ZERO_SNR.min_snr_weight(kind, last, 5.0).item() == weight


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"beta_schedule": "cosine"}, "unknown beta_schedule"),
        ({"num_train_timesteps": 1}, "at least 2"),
        ({"beta_start": 0.02, "beta_end": 0.01}, "beta_start ≤ beta_end"),
    ],
)
def test_schedules_out_of_range_raise(wrong, says):
    with pytest.raises(ValueError, match=says):
        NoiseSchedule(**wrong)


def test_timesteps_beyond_the_schedule_raise():
    with pytest.raises(ValueError, match=r"timesteps must lie in \[0, 999\]"):
        NoiseSchedule().add_noise(samples(1, 2), samples(1, 2), torch.tensor([1000]))


# --- samplers -------------------------------------------------------------------------------------------------------

MEAN, STD = 0.7, 0.4  # of a Gaussian, whose optimal denoiser is known
RANDOM = ("ddpm", "euler-ancestral", "lcm")
DDPM = NoiseSchedule(1000, "linear", 1e-4, 0.02)
NOISY = [(DDPM, "epsilon"), (COSINE, "v_prediction"), (ZERO_SNR, "v_prediction"), (ZERO_SNR, "sample")]


@pytest.mark.parametrize("case", range(len(NOISY)))
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_sampler_lands_on_a_gaussian_whose_score_is_known(name, case):
    schedule, kind = NOISY[case]
    if name == "euler-ancestral" and kind == "sample":
        with pytest.raises(ValueError, match="choose euler"):
            make_scheduler(name, schedule.scheduler_config(kind))
        return
    sampler, generator = make_scheduler(name, schedule.scheduler_config(kind)), torch.Generator().manual_seed(0)
    sampler.set_timesteps(10 if name == "lcm" else 100)
    x = samples(5000, 1, 1, 4) * sampler.init_noise_sigma
    for t in sampler.timesteps:
        seen, time = sampler.scale_model_input(x, t), t.reshape(1)
        a, s = schedule.coefficients(time, seen)
        variance = (a * STD) ** 2 + s**2
        # E[x_0 | x_t]; LCM predicts the end of the ODE trajectory through x_t instead: Luo et al. 2023, eq. 2.
        gain = STD / variance.sqrt() if name == "lcm" else a * STD**2 / variance
        said = schedule.join(kind, MEAN + gain * (seen - a * MEAN), seen, time)
        x = sampler.step(said, t, x, **({"generator": generator} if name in RANDOM else {})).prev_sample
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, rel=0.1)
    assert not sampler.config.get("clip_sample")


def test_an_unknown_sampler_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown scheduler 'dpm\+': did you mean dpm\+\+\?"):
        make_scheduler("dpm+", NoiseSchedule().scheduler_config("epsilon"))


class NoFloat64(TorchDispatchMode):
    """Here "meta" stands for a device without float64, such as Apple's."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        assert not (isinstance(made, Tensor) and made.is_meta and made.dtype == torch.float64), func
        return made


@pytest.mark.parametrize("process", [COSINE, RectifiedFlow()])
def test_noise_is_added_on_devices_without_float64(process):
    x = torch.empty(2, 4, 8, 8, device="meta")
    with NoFloat64():
        noisy = process.add_noise(x, x, torch.tensor([100.0, 700.0]))
    assert (noisy.device, noisy.dtype, noisy.shape) == (x.device, x.dtype, x.shape)


def test_a_flow_is_a_straight_line_whose_velocity_is_its_slope():
    flow, times = RectifiedFlow(), torch.tensor([100.0, 700.0]).double()
    x0, noise = samples(2, 5), samples(2, 5, seed=1)
    x, velocity = flow.add_noise(x0, noise, times), flow.target(x0, noise)
    later = flow.add_noise(x0, noise, times + 10)
    assert torch.allclose((later - x) / 0.01, velocity)
    for found, true in zip(flow.split(velocity, x, times), (x0, noise), strict=True):
        assert torch.allclose(found, true)
    assert torch.allclose(flow.join(x0, x, times), velocity)


# --- guidance -------------------------------------------------------------------------------------------------------


def test_guidance_at_one_is_the_conditional_model():
    c, u = samples(2, 3), samples(2, 3, seed=1)
    assert torch.allclose(guide(c, u, 1.0), c)
    assert torch.allclose(guide(c, u, 0.0), u)
    assert torch.allclose(guide(c, u, 3.0), u + 3 * (c - u))


def test_rescaled_guidance_has_the_conditional_deviation():
    c, g = samples(2, 3, 4), 5 * samples(2, 3, 4, seed=1)
    assert torch.allclose(rescale(g, c, 1.0).std((1, 2)), c.std((1, 2)))
    assert torch.equal(rescale(g, c, 0.0), g)


def test_dynamic_thresholding_keeps_small_samples_and_shrinks_large_ones():
    small, large = samples(1, 1000).clamp(-2, 2), 10 * samples(1, 1000, seed=1)
    both = dynamic_threshold(torch.cat([small, large]), 2.0)
    assert torch.equal(both[:1], small)
    assert both.abs().max() <= 2
    s = torch.quantile(large.abs(), 0.995)
    inside = large.abs() <= s
    assert torch.allclose(both[1:][inside], large[inside] * 2 / s)


def test_dynamic_thresholding_at_the_maximum_only_rescales():
    """At a percentile of 1 nothing is clipped; a sample within the bound stays as it is."""
    x0 = torch.cat([5 * samples(1, 3, 8, 8), samples(1, 3, 8, 8, seed=1).clamp(-1, 1) / 2])
    largest = x0.abs().flatten(1).amax(1).clamp(min=1).view(-1, 1, 1, 1)
    assert torch.allclose(dynamic_threshold(x0, percentile=1.0), x0 / largest)


def test_dynamic_thresholding_at_a_percentile_within_the_bound_is_static():
    x0 = samples(4, 3, 8, 8)
    assert torch.equal(static_threshold(x0), x0.clamp(-1, 1))
    assert torch.equal(dynamic_threshold(x0, percentile=0.1), static_threshold(x0))


def test_dynamic_thresholding_is_per_image():
    x0 = 3 * samples(3, 3, 8, 8)
    assert torch.allclose(dynamic_threshold(x0), torch.cat([dynamic_threshold(x0[i, None]) for i in range(3)]))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_thresholded_prediction_has_the_thresholded_x0(kind):
    x, predicted, t = samples(2, 3, 4, 4), 4 * samples(2, 3, 4, 4, seed=1), torch.tensor(500)
    config = COSINE.scheduler_config(kind)
    x0 = COSINE.split(kind, predicted, x, t[None])[0]
    bounded = threshold_prediction(config, predicted, x, t, static_threshold)
    assert torch.allclose(COSINE.split(kind, bounded, x, t[None])[0], x0.clamp(-1, 1), atol=1e-6)


# --- objectives -----------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """A denoiser with a constant output that records its inputs."""

    def __init__(self, answer: Tensor):
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x, timesteps, encoder_hidden_states, encoder_attention_mask=None):
        self.x = x
        return type("Output", (), {"sample": self.answer})


@pytest.mark.parametrize("kind", [*PREDICTIONS, "flow"])
def test_the_loss_is_the_weighted_error_of_the_prediction(kind):
    objective = DiffusionObjective(HALVES, kind, None if kind == "flow" else 5.0)
    x0, noise, times = samples(2, 1, 2, 2), samples(2, 1, 2, 2, seed=1), torch.tensor([0, 1])
    process = objective.flow or HALVES
    target = process.target(x0, noise) if kind == "flow" else process.target(kind, x0, noise, times)
    denoiser = Says(target + torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    losses = objective.loss(denoiser, x0, noise, times, None)
    weights = torch.ones(2) if kind == "flow" else HALVES.min_snr_weight(kind, times, 5.0)
    assert losses["loss"].item() == pytest.approx((weights * torch.tensor([1, 4])).mean().item(), rel=1e-5)
    assert losses["mse"].item() == pytest.approx(2.5, rel=1e-5)
    assert torch.allclose(denoiser.x, process.add_noise(x0, noise, times))
    losses["loss"].backward()
    assert denoiser.answer.grad.abs().min() > 0


def test_the_random_inputs_of_a_sample_depend_on_its_generator_alone():
    objective = DiffusionObjective(noise_offset=0.1)
    one, same, other = (objective.sample_noise((2, 3, 3), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one["noise"], same["noise"])
    assert one["timesteps"] == same["timesteps"]
    assert not np.array_equal(one["noise"], other["noise"])


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_noise_offset_moves_the_mean_of_channels(offset):
    """The mean of n noise values has variance 1/n, plus offset²."""
    rng, objective = np.random.default_rng(0), DiffusionObjective(noise_offset=offset)
    drawn = [objective.sample_noise((4, 5, 5), rng) for _ in range(1000)]
    means = np.stack([d["noise"].mean((1, 2)) for d in drawn])
    assert means.var() == pytest.approx(1 / 25 + offset**2, rel=0.1)
    times = np.array([d["timesteps"] for d in drawn])
    assert 0 <= times.min() < 50 < 950 < times.max() < 1000


def test_times_of_a_flow_lie_between_its_ends():
    rng, objective = np.random.default_rng(0), DiffusionObjective(prediction_type="flow")
    times = np.array([objective.sample_noise((1, 1, 1), rng)["timesteps"] for _ in range(1000)])
    assert 0 < times.min() < times.max() < 1000
    assert np.median(times) == pytest.approx(500, abs=30)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prediction_type": "noise"}, "unknown prediction_type"),
        ({"min_snr_gamma": 0.0}, "above 0"),
        ({"noise_offset": 2.0}, r"\[0, 1\)"),
        ({"prediction_type": "flow", "min_snr_gamma": 5.0}, "min_snr_gamma does not apply"),
        ({"prediction_type": "epsilon", "schedule": ZERO_SNR}, "choose prediction_type v_prediction or sample"),
    ],
)
def test_objectives_that_cannot_be_raise(wrong, says):
    with pytest.raises(ValueError, match=says):
        DiffusionObjective(**wrong)


# --- the diffusion transformer --------------------------------------------------------------------------------------


def asked(batch: int = 2) -> dict:
    times, states = torch.tensor([3, 900])[:batch], samples(batch, 5, parts.TEXT_WIDTH, seed=1).float()
    return {"timestep": times, "encoder_hidden_states": states}


def test_a_transformer_reaches_every_parameter_and_reads_all_it_is_given():
    model, x = parts.dit(), samples(2, parts.CHANNELS, 8, 8).float()
    said = model(x, **asked()).sample
    assert said.shape == x.shape
    said.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    for other in (
        {"timestep": torch.tensor([4, 900])},
        {"encoder_hidden_states": asked()["encoder_hidden_states"] + 1},
    ):
        changed = model(x, **(asked() | other)).sample
        assert not torch.allclose(changed[0], said[0])


def test_a_new_transformer_predicts_zero():
    model = DiT(8, 4, 32, width=32, depth=2, heads=2)
    assert model(samples(2, 4, 8, 8).float(), **asked()).sample.abs().max() == 0


def test_masked_text_changes_nothing_and_a_row_depends_on_itself_alone():
    model, x = parts.dit(), samples(2, parts.CHANNELS, 8, 8).float()
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    given = asked()
    said = model(x, **given, encoder_attention_mask=mask).sample
    other = given["encoder_hidden_states"].clone()
    other[:, 3:] += 5
    again = model(x, given["timestep"], other, mask).sample
    assert torch.allclose(said, again, atol=1e-5)
    alone = model(x[:1], given["timestep"][:1], other[:1], mask[:1]).sample
    assert torch.allclose(alone, said[:1], atol=1e-5)


def test_gradient_checkpointing_of_a_transformer_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = parts.dit().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(samples(2, parts.CHANNELS, 8, 8).float(), **asked()).sample.square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_positions_differ_everywhere():
    assert len(positions(8, 8, 16).unique(dim=0)) == 64


def test_a_transformer_is_saved_and_opened(tmp_path):
    model, x = parts.dit(), samples(2, parts.CHANNELS, 8, 8).float()
    model.save_pretrained(tmp_path)
    assert torch.equal(DiT.from_pretrained(tmp_path)(x, **asked()).sample, model(x, **asked()).sample)


def test_a_transformer_that_cannot_be_raises():
    with pytest.raises(ValueError, match="do not tile"):
        DiT(9, patch_size=2)
    with pytest.raises(ValueError, match="divisible by 3 heads"):
        DiT(width=32, heads=3)
    with pytest.raises(ValueError, match="do not tile a latent of 7×8"):
        parts.dit()(samples(1, parts.CHANNELS, 7, 8).float(), **asked(1))
