"""The training loop on other devices than the CPU: precisions, scaler, optimizers, averages, changes of device."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusion_parts import pipeline, save_stages
from safetensors.torch import load_file
from test_cuda_models import some
from test_training import TINY_PRIOR, losses, recipe, vqvae_recipe
from torch import nn

from t2i.data.toybox_v1 import export
from t2i.models import load_pretrained
from t2i.pipelines import AutoPipeline
from t2i.runs import BEST
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.averages import AveragedWeights
from t2i.training.checkpoints import Checkpoints
from t2i.training.cli import main, run
from t2i.training.compilation import compile_blocks, repeated_blocks
from t2i.training.config import LoopConfig
from t2i.training.loop import Objective
from t2i.training.optimizers import make_optimizer
from t2i.training.recipes import RECIPES

CUDA = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
TINY_CLIP = {"text_width": 32, "text_layers": 1, "image_width": 32, "image_layers": 1, "dim": 16}
TINY_KL = {"channels": (8, 8, 8, 8), "latent_channels": 4}
ALMOST = {"rel": 2e-2}  # rounding differs between devices


@pytest.fixture
def on_cpu(monkeypatch):
    """Runs recipes on the CPU for comparison with the device."""

    def train(made):
        with monkeypatch.context() as patch:
            patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
            AcceleratorState._reset_state(reset_partial_state=True)
            folder = run(made)
        AcceleratorState._reset_state(reset_partial_state=True)
        return folder

    return train


@pytest.mark.parametrize("precision", ["no", "bf16", pytest.param("fp16", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("optimizer", some(["adamw", "muon"], ("muon",)))
def test_the_loop_trains_as_on_the_cpu(precision, optimizer, on_cpu, tmp_path, device):
    if precision == "fp16" and device != "cuda":
        pytest.skip("accelerate takes float16 on a GPU alone")
    how = {"optimizer": optimizer, "learning_rate": 1e-3}
    run(vqvae_recipe(tmp_path / "there", mixed_precision=precision, **how))
    on_cpu(vqvae_recipe(tmp_path / "here", **how))
    there, here = losses(tmp_path / "there"), losses(tmp_path / "here")
    assert len(there) == 6
    exact = precision == "no" and device == "emulated"
    assert there == pytest.approx(here, rel=2e-2 if exact else 0.1)
    assert torch.isfinite(torch.cat([w.flatten() for w in load_file(_weights(tmp_path / "there")).values()])).all()


def _weights(run_folder):
    return run_folder / "latest" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("first", ["cpu", "device"])
def test_a_checkpoint_resumes_on_the_other_device(first, on_cpu, tmp_path, device):
    """Optimizer, averages and random states continue on the other device with the same losses."""
    here, there = (on_cpu, run) if first == "cpu" else (run, on_cpu)
    how = {"checkpointing_steps": 3, "optimizer": "muon"}
    here(vqvae_recipe(tmp_path / "run", max_train_steps=3, **how))
    there(vqvae_recipe(tmp_path / "run", max_train_steps=6, resume="latest", **how))
    on_cpu(vqvae_recipe(tmp_path / "whole", max_train_steps=6, lr_scheduler="cosine", **how))
    assert len(losses(tmp_path / "run")) == 6
    assert losses(tmp_path / "run")[:3] == pytest.approx(losses(tmp_path / "whole")[:3], **ALMOST)
    assert VQVAE.from_pretrained(tmp_path / "run" / "latest").config.codebook_size == 64


def test_a_run_resumes_exactly_on_its_device(tmp_path, device):
    how = {"checkpointing_steps": 3, "max_train_steps": 6, "dataloader_num_workers": 1 if device == "cuda" else 0}
    run(vqvae_recipe(tmp_path / "whole", **how))
    run(vqvae_recipe(tmp_path / "parts", **how))
    (tmp_path / "parts" / "checkpoint-6").rename(tmp_path / "parts" / ".checkpoint-6.part")
    run(vqvae_recipe(tmp_path / "parts", resume="latest", **how))
    exact = {"rel": 1e-3} if device == "emulated" else ALMOST  # a GPU's sums may differ in the last digit
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), **exact)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["prior-toybox", "muse-toybox"])
def test_all_of_dalle_and_muse_is_trained_and_opens(prior, tmp_path, device):
    stage1 = run(vqvae_recipe(tmp_path / "vqvae", mixed_precision="bf16"))
    AcceleratorState._reset_state(reset_partial_state=True)
    made = recipe(prior, tmp_path / "prior", TINY_PRIOR, tokenizer=str(stage1), mixed_precision="bf16")
    assert AutoPipeline.from_pretrained(run(made))("a red cat").images[0].size == (64, 64)


@pytest.mark.parametrize("cache", ["latents", "none"])
@pytest.mark.parametrize("learns", some([False, True], (True,)))
def test_latent_diffusion_is_trained_and_opens(cache, learns, tmp_path, device):
    vae, clip = save_stages(tmp_path)
    cache = "none" if cache == "none" else str(tmp_path / "latents")
    parts = {"autoencoder": vae, "text_encoder": clip, "train_text_encoder": learns, "cached_images": 16}
    small = {"channels": (16, 16), "norm_groups": 8, "head_width": 8}
    how = {"mixed_precision": "bf16", "max_train_steps": 2, "checkpointing_steps": 2}
    made = recipe("ldm-toybox", tmp_path / "ldm", small, **parts, cache=cache, validation_prompts=("a cat",), **how)
    pipe = AutoPipeline.from_pretrained(run(made))
    assert pipe("a red cat", num_inference_steps=2).images[0].size == (64, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, model", [("kl-toybox", TINY_KL), ("clip-toybox", TINY_CLIP), ("toybox-v1-classifier", {})]
)
def test_other_stages_train(name, model, tmp_path, device):
    how = {"max_train_steps": 2, "checkpointing_steps": 2, "mixed_precision": "bf16"}
    folder = run(recipe(name, tmp_path / name, model, **how))
    assert all(torch.isfinite(torch.tensor(losses(tmp_path / name)))) and any(folder.glob("*.safetensors"))


OTHERS = (
    "gan wgan-gp sngan autoencoder hvae pixelrnn pixelcnn gated-pixelcnn pixelcnn-pp nice realnvp glow ddpm score-sde"
)
MODELS = some(["vae", *OTHERS.split()], ("vae",))
SYSTEMS = ("lora", "lcm", "upscale-toybox", "layout-toybox", "cyclegan", "characters")


@pytest.mark.parametrize("name", MODELS)
def test_unconditional_models_train_on_the_command_line(name, tmp_path, device):
    steps = ["--max-train-steps", "2", "--checkpointing-steps", "2", "--train-batch-size", "4", "--scored", "4"]
    rest = ["--output-dir", str(tmp_path), "--report-to", "none", "--dataloader-num-workers", "0"]
    main([name, "--preset", "tiny", *steps, *rest, "--mixed-precision", "bf16"])
    assert load_pretrained(tmp_path / BEST).device.type == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SYSTEMS, pytest.param("multimodal-vae", marks=pytest.mark.cuda)])
def test_other_systems_train(name, tmp_path, device):
    if name == "multimodal-vae" and device != "cuda":
        pytest.skip("the emulated device has no recurrent kernels")
    made = RECIPES[name]("tiny")
    for option in ("pipeline", "init_from"):
        if hasattr(made, option):
            pipeline().save_pretrained(tmp_path / "base")
            made = replace(made, **{option: str(tmp_path / "base")})
    if name == "layout-toybox":
        data = export(tmp_path / "data", 8, layouts=True)
        made = replace(made, data=replace(made.data, data=str(data)), labels=("toybox-v1",))
    short = {"max_train_steps": 2, "checkpointing_steps": 2, "train_batch_size": 4, "dataloader_num_workers": 0}
    loop = replace(made.loop, output_dir=str(tmp_path / "run"), report_to="none", mixed_precision="bf16", **short)
    run(replace(made, loop=loop))
    assert all(torch.isfinite(torch.tensor(losses(tmp_path / "run"))))


def test_the_scaler_skips_a_step_that_overflows(device):
    """For Muon and AdamW together, in float16, as for one optimizer."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).to(device)
    optimizer = make_optimizer(model, LoopConfig(optimizer="muon"))
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    assert scaler.is_enabled()
    for largest, moves in ((1.0, True), (float("inf"), False), (1.0, True)):
        before = [p.detach().clone() for p in model.parameters()]
        scale = scaler.get_scale()
        loss = model(torch.ones(2, 16, device=device)).square().mean() * largest
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) == moves
        assert (scaler.get_scale() < scale) == (not moves)


def test_a_run_of_another_precision_resumes_in_float16(tmp_path, device):
    """Its checkpoint has no gradient scaler state."""
    run(vqvae_recipe(tmp_path / "run", max_train_steps=3))
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator()
    accelerator.scaler = scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    model = VQVAE.from_pretrained(tmp_path / "run" / "latest")
    optimizer = make_optimizer(model, LoopConfig())
    accelerator.prepare(Objective(SimpleNamespace(model=model, loss=model.loss)), optimizer)
    averages = AveragedWeights(model.parameters(), 0.9)
    checkpoints = Checkpoints(tmp_path / "run", 2, 4, accelerator)
    assert checkpoints.load(tmp_path / "run" / "checkpoint-3", model, optimizer, averages).steps == 3
    assert accelerator.scaler is scaler and scaler.get_scale() == 2.0**10


def test_averages_follow_the_weights(device):
    model = nn.Linear(4, 4).to(device)
    averages = AveragedWeights(model.parameters(), 0.9)
    for _ in range(3):
        model.weight.data += 1
        averages.step()
    trained = model.weight.detach().clone()
    with averages.applied():
        assert not torch.equal(model.weight, trained)
    assert torch.equal(model.weight, trained)


# --- compiled -------------------------------------------------------------------------------------------------------


def test_the_repeated_blocks_are_compiled(prior, vqvae):
    assert list(repeated_blocks(prior)) == list(prior.blocks)
    assert {type(block).__name__ for block in repeated_blocks(vqvae)} == {"ResBlock"}


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_one(on_cpu, tmp_path):
    for name, compiled in (("plain", False), ("compiled", True)):
        torch._dynamo.reset()
        on_cpu(vqvae_recipe(tmp_path / name, compile=compiled))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    a, b = (load_file(_weights(tmp_path / name)) for name in ("plain", "compiled"))
    assert a.keys() == b.keys()


@CUDA
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_compiled_run_on_the_device(precision, tmp_path, device):
    for name, compiled in (("plain", False), ("compiled", True)):
        torch._dynamo.reset()
        AcceleratorState._reset_state(reset_partial_state=True)
        run(vqvae_recipe(tmp_path / name, compile=compiled, mixed_precision=precision))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=2e-2)


@CUDA
def test_a_prior_whose_blocks_are_compiled(prior, device):
    prior.to(device).train()
    text, codes = torch.randint(1, 100, (2, 8), device=device), torch.randint(32, (2, 16), device=device)
    plain = prior.loss(text, codes)["loss"].item()
    assert compile_blocks(prior) == 2
    with torch.autocast("cuda", torch.bfloat16):
        loss = prior.loss(text, codes)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(plain, rel=2e-2)
