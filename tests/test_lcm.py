"""Consistency distillation: the predicted endpoint, the teacher's step, what is trained, and what is saved."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from types import SimpleNamespace

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler, StableDiffusionPipeline
from torch import nn
from torch.utils.data import default_collate

from t2i.data.sampling import NumberedSamples
from t2i.diffusion.conditioning import Conditioning
from t2i.diffusion.consistency import ConsistencyObjective
from t2i.diffusion.schedule import NoiseSchedule
from t2i.pipelines import AutoPipeline
from t2i.training.cli import run
from t2i.training.recipes import RECIPES

SCHEDULE = NoiseSchedule(beta_schedule="squaredcos_cap_v2")
STATES = torch.zeros(2, 1, 1)
TEXT = Conditioning(STATES)


class Believes(nn.Module):
    """A denoiser that predicts the same sample for every latent, parametrised as `kind`."""

    def __init__(self, x0: torch.Tensor, kind: str, schedule: NoiseSchedule = SCHEDULE):
        super().__init__()
        self.x0, self.kind, self.schedule = nn.Parameter(x0), kind, schedule

    def forward(self, x, timesteps, encoder_hidden_states, encoder_attention_mask=None):
        x0 = self.x0.expand_as(x) + 0 * encoder_hidden_states.sum()
        return SimpleNamespace(sample=self.schedule.join(self.kind, x0, x, timesteps))


class Leans(nn.Module):
    """A denoiser whose output is the mean of the text states, whatever its other inputs."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x, timesteps, encoder_hidden_states, encoder_attention_mask=None):
        return SimpleNamespace(sample=encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1).expand_as(x))


def objective(teacher: nn.Module, kind: str = "v_prediction", **options) -> ConsistencyObjective:
    return ConsistencyObjective(SCHEDULE, kind, teacher, TEXT[torch.tensor([0])], **options)


def noisy(*timesteps: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(timesteps), 4, 2, 2, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor(timesteps)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_teacher_that_knows_the_one_latent_leaves_nothing_to_learn(kind):
    x0 = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    knows = Believes(x0, kind)
    x, t = noisy(39, 519)
    same = objective(knows, kind).loss(knows, x0.expand_as(x), x, t, STATES)
    assert same["mse"] < 1e-6
    # A constant error is consistent with itself; at the last step the teacher predicts the endpoint.
    x, t = noisy(19, 19)
    wrong = objective(knows, kind).loss(Believes(x0 + 1, kind), x0.expand_as(x), x, t, STATES)
    assert wrong["mse"] == pytest.approx(1, rel=1e-2)


class Drifts(nn.Module):
    """A denoiser whose output depends on latent and timestep, as a real one's does."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x, timesteps, encoder_hidden_states, encoder_attention_mask=None):
        return SimpleNamespace(sample=self.strength * x * (1 + timesteps.float() / 500).view(-1, 1, 1, 1))


def test_the_target_is_the_students_word_one_step_of_the_teacher_further_on():
    teacher, student = Drifts(0.3), Drifts(-0.2)
    made = objective(teacher, guidance_scale=1.0)
    noise, t = noisy(59, 519, 999)
    x0, states = noise.flip(0), torch.zeros(3, 1, 1)
    x = SCHEDULE.add_noise(x0, noise, t)
    with torch.no_grad():
        further = made.teacher_step(x, t, t - 20, Conditioning(states))
        target = made.end(student, further, t - 20, Conditioning(states))
        error = made.end(student, x, t, Conditioning(states)) - target
        assert error.abs().max() > 1e-2
        assert made.loss(student, x0, noise, t, states)["mse"] == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_at_time_0_the_end_is_where_one_is():
    x, t = noisy(0, 0)
    assert torch.equal(objective(Leans()).end(Leans(), x, t, Conditioning(torch.randn(2, 1, 3))), x)


def test_the_end_is_that_of_the_scheduler_of_diffusers():
    teacher = Believes(torch.zeros(1, 4, 2, 2), "v_prediction")
    made = objective(teacher)
    scheduler = made.scheduler()
    scheduler.set_timesteps(4)
    x, _ = noisy(999)
    said = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    fixed = lambda *a, **k: SimpleNamespace(sample=said)  # noqa: E731
    for t in scheduler.timesteps:
        theirs = scheduler.step(said, t, x, generator=torch.Generator().manual_seed(0)).denoised
        assert torch.allclose(made.end(fixed, x, t.view(1), TEXT[torch.tensor([0])]), theirs, atol=1e-5)


def test_the_teacher_steps_as_ddim_does():
    teacher = Believes(torch.full((1, 4, 2, 2), 0.5), "v_prediction")
    made = objective(teacher, guidance_scale=1.0)
    ddim = DDIMScheduler.from_config(SCHEDULE.scheduler_config("v_prediction"), clip_sample=False)
    ddim.set_timesteps(50)
    for t in ddim.timesteps[[0, 7, 30, 49]].tolist():
        x, times = noisy(t)
        said = teacher(x, times, STATES).sample
        theirs = ddim.step(said, t, x).prev_sample
        ours = made.teacher_step(x, times, times - 20, TEXT[torch.tensor([0])])
        assert torch.allclose(ours, theirs, atol=1e-4)  # diffusers' ᾱ are float32


def test_the_teacher_is_guided():
    """A denoiser that outputs the mean of its states, 1 with and 0 without the prompt, gives 3 at guidance scale 3."""
    x, t = noisy(519, 519)
    step = lambda scale, said: objective(Leans(), guidance_scale=scale).teacher_step(x, t, t - 20, said)  # noqa: E731
    led, told = step(3.0, Conditioning(torch.ones(2, 1, 1))), step(1.0, Conditioning(torch.full((2, 1, 1), 3.0)))
    assert torch.allclose(led, told, atol=1e-6)
    assert not torch.allclose(led, step(1.0, Conditioning(torch.ones(2, 1, 1))), atol=1e-2)


def test_only_the_student_learns():
    x0 = torch.zeros(1, 4, 2, 2)
    teacher, student = Believes(x0 + 1, "v_prediction"), Believes(x0, "v_prediction")
    x, t = noisy(19, 519)
    objective(teacher).loss(student, x, x, t, STATES)["loss"].backward()
    assert teacher.x0.grad is None
    assert student.x0.grad.abs().max() > 0


def test_times_are_those_that_the_sampler_visits():
    made, rng = objective(Leans()), np.random.default_rng(0)
    drawn = {int(made.sample_noise((4, 2, 2), rng)["timesteps"]) for _ in range(2000)}
    assert drawn == set(range(19, 1000, 20))
    for n in (1, 2, 4, 8):
        sampler = made.scheduler()
        sampler.set_timesteps(n)
        assert drawn >= set(sampler.timesteps.tolist())


def test_bad_numbers_are_refused():
    for bad, says in (
        ({"steps": 1}, "must divide 1000"),
        ({"steps": 48}, "must divide"),
        ({"guidance_scale": 0.5}, "1"),
    ):
        with pytest.raises(ValueError, match=says):
            objective(Leans(), **bad)


# --- the recipe -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    parts.pipeline().save_pretrained(folder)
    return str(folder)


def recipe(teacher: str, folder: Path, **loop):
    tiny = RECIPES["lcm"]("tiny")
    loop = {"max_train_steps": 4, "checkpointing_steps": 2, "train_batch_size": 2, "dataloader_num_workers": 0} | loop
    loop |= {"lr_warmup_steps": 0, "lr_scheduler": "constant", "report_to": "none", "output_dir": str(folder)}
    made = dataclasses.replace(tiny, pipeline=teacher, validation_prompts=("a red cat",))
    return dataclasses.replace(made, loop=dataclasses.replace(tiny.loop, **loop))


def test_a_run_resumed_is_one_that_never_stopped_and_diffusers_opens_it(teacher, tmp_path):
    whole = run(recipe(teacher, tmp_path / "whole"))
    run(recipe(teacher, tmp_path / "half", max_train_steps=2))
    resumed = run(recipe(teacher, tmp_path / "half", resume="latest"))
    ours, again = AutoPipeline.from_pretrained(whole), AutoPipeline.from_pretrained(resumed)
    for one, other in zip(ours.unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(one, other)
    assert isinstance(ours.scheduler, LCMScheduler)
    theirs = StableDiffusionPipeline.from_pretrained(whole, safety_checker=None, requires_safety_checker=False)
    how = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "np"}
    drawn = [p("a red cat", generator=torch.Generator().manual_seed(0), **how).images for p in (ours, theirs)]
    assert np.abs(drawn[0] - drawn[1]).max() < 1e-3


def test_the_loss_falls(teacher, tmp_path):
    """On one batch, repeatedly: a few steps of plain gradient descent must achieve it."""
    task = recipe(teacher, tmp_path).task()
    samples = NumberedSamples(task.source, task.prepare, 0)
    batch = default_collate([samples[i] for i in range(4)])
    optimizer, losses = torch.optim.AdamW(task.model.parameters(), lr=1e-3), []
    for _ in range(12):
        losses.append(task.loss(**batch)["loss"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    assert all(not p.requires_grad for p in task.objective.teacher.parameters())


def test_data_workers_are_given_no_network_and_draw_the_same(teacher, tmp_path):
    task = recipe(teacher, tmp_path).task()
    beside_tokens = len(pickle.dumps(task.prepare)) - len(pickle.dumps(task.prepare.texts))
    assert beside_tokens < 10_000 < task.model.get_memory_footprint() / 10
    samples, whole = (
        NumberedSamples(task.source, prepare, 0)
        for prepare in (
            pickle.loads(pickle.dumps(task.prepare)),
            dataclasses.replace(task.prepare, objective=task.objective),
        )
    )
    for i in range(3):
        ours, theirs = samples[i], whole[i]
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_flow_is_refused(tmp_path):
    parts.pipeline(FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path / "flow")
    with pytest.raises(ValueError, match="is a flow"):
        recipe(str(tmp_path / "flow"), tmp_path / "run").task()
    assert not (tmp_path / "run").exists()
