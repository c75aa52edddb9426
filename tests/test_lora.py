"""LoRA: what is trained, what is saved, and that diffusers loads it as we do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusion_parts import dit, pipeline
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import default_collate

from t2i.data.sampling import NumberedSamples
from t2i.data.toybox_v1 import Toybox
from t2i.diffusion.objective import DiffusionObjective
from t2i.diffusion.schedulers import make_scheduler
from t2i.pipelines import AutoPipeline
from t2i.training.cli import run
from t2i.training.recipes import RECIPES
from t2i.training.recipes.ldm.fine_tuning import objective_of

FILE = "pytorch_lora_weights.safetensors"
DRAWN = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    """An image folder with captions."""
    folder, lines = tmp_path_factory.mktemp("pictures"), []
    for i, item in enumerate(Toybox(size=64, num=6)):
        Image.fromarray(item["image"]).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": item["text"]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return str(folder)


@pytest.fixture(scope="module")
def recipe(base, pictures):
    def make(folder: Path, **options):
        tiny = RECIPES["lora"]("tiny")
        loop = {"max_train_steps": 4, "train_batch_size": 4, "checkpointing_steps": 4, "dataloader_num_workers": 0}
        own = {f.name for f in dataclasses.fields(tiny)} & options.keys()
        loop |= {"learning_rate": 1e-2, "lr_warmup_steps": 0} | {k: v for k, v in options.items() if k not in own}
        return dataclasses.replace(
            tiny,
            **{"pipeline": base, "validation_prompts": ("a red cat",)} | {k: options[k] for k in own},
            data=dataclasses.replace(tiny.data, data=pictures),
            loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **loop),
        )

    return make


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    return run(recipe(tmp_path_factory.mktemp("runs") / "lora"))


def drawn(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    return torch.from_numpy(pipe(["a red cat", "a blue car"], generator=generators, **DRAWN).images)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_diffusers_draws_with_the_file_what_we_draw(base, trained):
    theirs = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    ours = AutoPipeline.from_pretrained(base)
    plain = drawn(ours)
    for pipe in (ours, theirs):
        pipe.load_lora_weights(trained)
    taught = drawn(ours)
    assert (taught - plain).abs().max() > 1e-3
    assert torch.allclose(taught, drawn(theirs), atol=1e-4)


def test_it_draws_with_the_file_what_the_run_drew(recipe, base, tmp_path):
    task = recipe(tmp_path).task()
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.normal_(std=0.3)
    task.model.eval()
    task.save(tmp_path)
    ours = AutoPipeline.from_pretrained(base)
    ours.load_lora_weights(tmp_path)
    assert torch.allclose(drawn(task.pipeline()), drawn(ours), atol=1e-5)


def test_at_scale_0_it_is_the_pipeline_as_it_was(base, trained):
    pipe = AutoPipeline.from_pretrained(base)
    plain = drawn(pipe)
    pipe.load_lora_weights(trained, adapter_name="taught")
    pipe.set_adapters(["taught"], [0.0])
    assert torch.allclose(drawn(pipe), plain, atol=1e-6)
    pipe.set_adapters(["taught"], [1.0])
    assert not torch.allclose(drawn(pipe), plain, atol=1e-3)
    pipe.unload_lora_weights()
    assert torch.equal(drawn(pipe), plain)


def test_only_the_adapters_are_trained(recipe, tmp_path):
    task = recipe(tmp_path).task()
    before = {name: p.clone() for name, p in task.pipe.unet.named_parameters()}
    numbers = NumberedSamples(task.source, task.prepare, 0)
    task.loss(**default_collate([numbers[i] for i in range(3)]))["loss"].backward()
    learning = {name for name, p in task.pipe.unet.named_parameters() if p.grad is not None}
    assert learning
    assert all(".lora_" in name for name in learning)
    assert len(learning) == len(list(task.model.parameters()))
    frozen = [task.autoencoder, task.encoder.model]
    assert all(p.grad is None and not p.requires_grad for part in frozen for p in part.parameters())
    torch.optim.SGD(task.model.parameters(), 0.1).step()
    changed = {n for n, p in task.pipe.unet.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(".lora_B." in name for name in changed)  # A does not change while B is 0


def test_moving_the_adapters_moves_the_denoiser(recipe, tmp_path):
    model = recipe(tmp_path).task().model
    model.to(torch.float64)
    assert model.unet.dtype == torch.float64
    of_the_denoiser = {id(p) for p in model.unet.parameters()}
    assert all(id(p) in of_the_denoiser for p in model.parameters())
    assert not model.eval().unet.training
    assert model.train().unet.training


def test_a_checkpoint_holds_only_the_adapters(trained, base):
    names = set(load_file(trained / FILE))
    assert names
    assert all(name.startswith("unet.") and ".lora" in name for name in names)
    whole = sum(p.stat().st_size for p in (Path(base) / "unet").iterdir())
    assert all(p.stat().st_size < whole / 4 for p in trained.rglob("*.safetensors"))


def test_a_resumed_run_is_one_that_never_stopped(recipe, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        run(recipe(folder, dropout=0.2, checkpointing_steps=2))
    (parts / "checkpoint-4").rename(parts / ".checkpoint-4.part")  # as after a kill
    run(recipe(parts, dropout=0.2, checkpointing_steps=2, resume="latest"))
    assert losses(parts) == losses(whole)
    assert (parts / "checkpoint-4" / FILE).read_bytes() == (whole / "checkpoint-4" / FILE).read_bytes()


def test_the_loss_on_the_images_falls(recipe, tmp_path):
    task = recipe(tmp_path / "asked", caption_dropout=0.0).task()
    numbers = NumberedSamples(task.source, task.prepare, 1)
    batch = default_collate([numbers[i] for i in range(48)])
    with torch.no_grad():
        before = task.loss(**batch)["loss"].item()
    folder = run(recipe(tmp_path / "run", caption_dropout=0.0, max_train_steps=30, checkpointing_steps=30))
    task.pipe.unet.delete_adapters("default")
    task.pipe.load_lora_weights(folder)
    with torch.no_grad():
        assert task.loss(**batch)["loss"].item() < 0.97 * before


def test_cached_latents_train_as_well(recipe, tmp_path):
    folder = run(recipe(tmp_path / "run", cache=str(tmp_path / "latents"), max_train_steps=2))
    assert (tmp_path / "latents" / "latents.npy").is_file()
    assert (folder / FILE).is_file()


def test_another_pipeline_cannot_resume_it(recipe, trained, base, tmp_path):
    other = AutoPipeline.from_pretrained(base)
    with torch.no_grad():
        other.unet.conv_in.bias.add_(1)
    other.save_pretrained(tmp_path / "other")
    folder = trained.parent
    with pytest.raises(ValueError, match="denoiser_sha256"):
        run(recipe(folder, pipeline=str(tmp_path / "other"), resume="latest"))


def test_the_objective_is_the_one_the_denoiser_was_trained_with(tmp_path):
    """Whether the scheduler is new or loaded from a folder, and for any flow sampler."""
    for kind in ("epsilon", "v_prediction", "flow"):
        given = DiffusionObjective(prediction_type=kind).scheduler()
        given.save_pretrained(tmp_path / kind)
        read = type(given).from_pretrained(tmp_path / kind)
        others = [make_scheduler("dpm++", given.config)] if kind == "flow" else []
        for scheduler in (given, read, *others):
            assert objective_of(scheduler.config, None).prediction_type == kind


def test_bad_input_is_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="rank must be at least 1"):
        recipe(tmp_path, rank=0)
    with pytest.raises(ValueError, match="dropout must lie in"):
        recipe(tmp_path, dropout=1.0)
    pipeline(denoiser=dit()).save_pretrained(tmp_path / "dit")
    with pytest.raises(ValueError, match="holds a DiT"):
        recipe(tmp_path, pipeline=str(tmp_path / "dit")).task()
    with pytest.raises(FileNotFoundError, match="no pipeline"):
        recipe(tmp_path, pipeline=str(tmp_path / "nowhere")).task()
    with pytest.raises(ValueError, match="set --optimizer adamw"):
        run(recipe(tmp_path / "muon", optimizer="muon"))
    assert not (tmp_path / "muon").exists()
