"""Inference-time caching in the sampling loop: same results, fewer products, and an unmodified U-Net."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import Attention, AttnProcessor, SlicedAttnProcessor
from diffusion_parts import CHANNELS, LENGTH, SIDE, TEXT_WIDTH, dit, pipeline, unet
from peft import LoraConfig

from t2i.diffusion.attention import CachedCrossAttention, FusedQKV, constants_kept
from t2i.pipelines import AutoPipeline
from t2i.training.recipes.ldm.denoiser import DenoiserConfig, make_denoiser

BENCH = Path(__file__).parents[1] / "scripts" / "bench.py"


def inputs(rows: int = 2, side: int = SIDE, width: int = TEXT_WIDTH) -> dict:
    states = torch.randn(rows, LENGTH, width)
    return {"sample": torch.randn(rows, CHANNELS, side, side), "timestep": 500, "encoder_hidden_states": states}


def said(model, **given) -> torch.Tensor:
    with torch.no_grad():
        return model(**given).sample


def attentions(model, name: str) -> list[Attention]:
    return [m for n, m in model.named_modules() if n.endswith(name)]


@pytest.fixture
def small():
    """As built by the recipe: linear projections around attention, memory format for the CPU."""
    sizes = DenoiserConfig(channels=(16, 32), head_width=8, norm_groups=8)
    return make_denoiser(sizes, CHANNELS, SIDE, TEXT_WIDTH).eval()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["recipe", "diffusers", "adapted"])
def test_it_says_the_same(kind, masked, small):
    model = unet() if kind == "diffusers" else small
    if kind == "adapted":
        targets = ["to_q", "to_k", "to_v", "to_out.0", "conv1"]
        model.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=targets))
    several = [inputs(), inputs(), inputs(rows=3), inputs(side=4), inputs()]  # alternating texts, batch and image sizes
    if masked:
        for given in several:
            given["encoder_attention_mask"] = torch.arange(LENGTH) < torch.randint(1, LENGTH, (len(given["sample"]), 1))
    expected = [said(model, **given) for given in several]
    with constants_kept(model):
        found = [said(model, **given) for given in several]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_text_is_projected_once_for_all_steps(small):
    counts = {"to_k": 0, "to_v": 0}
    for attn in attentions(small, "attn2"):
        for name in counts:
            getattr(attn, name).register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    given = inputs()
    with constants_kept(small):
        for t in (900, 500, 100):
            said(small, **given | {"timestep": t})
    assert counts == dict.fromkeys(counts, len(attentions(small, "attn2")))


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_unet_is_as_it_was(fails, small):
    before = dict(small.attn_processors)
    weights = {name: w.clone() for name, w in small.state_dict().items()}
    given = inputs()
    expected = said(small, **given)
    try:
        with constants_kept(small):
            assert {type(a.processor) for a in attentions(small, "attn1")} == {FusedQKV}
            assert {type(a.processor) for a in attentions(small, "attn2")} == {CachedCrossAttention}
            said(small, **given)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(small.attn_processors[name] is processor for name, processor in before.items())
    assert not any("_conv_forward" in m.__dict__ for m in small.modules())
    assert all(torch.equal(w, weights[name]) for name, w in small.state_dict().items())
    with torch.no_grad():
        for parameter in small.parameters():  # nothing computed from the old weights is kept
            parameter.mul_(1.1)
    assert not torch.allclose(said(small, **given), expected, atol=1e-5)
    changed = said(small, **given)
    with constants_kept(small):
        assert torch.allclose(said(small, **given), changed, atol=1e-5)


def test_what_it_does_not_know_is_left_alone(small):
    small.set_attn_processor(SlicedAttnProcessor(1))
    with constants_kept(small):
        assert {type(p) for p in small.attn_processors.values()} == {SlicedAttnProcessor}
    other = dit()
    with constants_kept(other):
        assert not any("_conv_forward" in m.__dict__ for m in other.modules())


def test_half_precision_says_the_same(small):
    small.to(torch.bfloat16).set_attn_processor(AttnProcessor())
    given = {k: v.bfloat16() if isinstance(v, torch.Tensor) else v for k, v in inputs().items()}
    expected = said(small, **given)
    with constants_kept(small):
        assert torch.allclose(said(small, **given), expected, atol=0.1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_pipeline_draws_what_diffusers_draws(guidance, tmp_path):
    ours = pipeline()
    ours.save_pretrained(tmp_path)
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None, requires_safety_checker=False)
    prompts = ["a red cat", "a blue car", "three green apples"]
    found = []
    for pipe in (AutoPipeline.from_pretrained(tmp_path), theirs):
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        how = {"num_inference_steps": 6, "guidance_scale": guidance, "output_type": "latent"}
        found.append(pipe(prompts, generator=generators, **how).images)
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.slow
def test_the_benchmark_writes_a_row_a_batch_and_two_of_training(tmp_path):
    pipeline().save_pretrained(tmp_path / "pipe")
    sizes = ["--batches", "1", "2", "--steps", "2", "--train-batch", "2", "--train-steps", "2", "--repeats", "1"]
    args = ["latent", "--pipeline", str(tmp_path / "pipe"), *sizes, "--threads", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, str(BENCH), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["work"].split(",")[0] for row in rows] == [
        "1 images of 64",
        "2 images of 64",
        *["2 training steps of 2 images of 64"] * 2,
    ]
    assert all(row["ours_s"] > 0 and row["peer_s"] > 0 for row in rows)


def test_the_benchmark_refuses_a_folder_that_is_no_pipeline(tmp_path):
    args = [sys.executable, str(BENCH), "latent", "--pipeline", str(tmp_path)]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode != 0
    assert "is not a pipeline" in done.stderr
