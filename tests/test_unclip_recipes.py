"""The recipes of DALL·E 2, on tiny real stages."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import diffusion_parts as parts
import numpy as np
import pytest
import torch
import unclip_parts as own
from test_training import command, losses
from torch.utils.data import default_collate

from t2i.data.sampling import NumberedSamples
from t2i.data.toybox_v1 import Scene, Thing, export
from t2i.pipelines import AutoPipeline, LatentDiffusionPipeline, UnCLIPPipeline
from t2i.training.cli import run
from t2i.training.recipes import RECIPES
from t2i.training.recipes.unclip.base import some_embeddings
from t2i.unclip.autoregressive_prior import AutoregressivePrior
from t2i.unclip.clip import embed_images
from t2i.unclip.diffusion_prior import DiffusionPrior

PRIORS = {"unclip-prior": DiffusionPrior, "unclip-ar-prior": AutoregressivePrior}
SIZES = {"width": 32, "layers": 1, "heads": 2}
CAT = Scene((Thing("cat", "red"),), jitter_seed=3).render(64)
LOOP = {"max_train_steps": 4, "train_batch_size": 4, "checkpointing_steps": 2, "lr_warmup_steps": 0}


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stages")
    parts.pipeline().save_pretrained(folder / "ldm")
    return {"clip": own.save_clip(folder / "clip"), "ldm": str(folder / "ldm")}


def recipe(name: str, folder: Path, **options):
    """The recipe's tiny preset, made even smaller."""
    tiny = RECIPES[name]("tiny")
    fields = {f.name for f in dataclasses.fields(tiny)} & options.keys()
    loop = LOOP | {"dataloader_num_workers": 0} | {k: v for k, v in options.items() if k not in fields}
    if name in PRIORS:
        model = SIZES | ({"num_components": 4, "num_buckets": 16} if name == "unclip-ar-prior" else {})
        tiny = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, **model))
    loop = dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **loop)
    return dataclasses.replace(tiny, cached_images=32, held_out_images=16, loop=loop, **{k: options[k] for k in fields})


@pytest.fixture
def make(stages):
    def of(name: str, folder: Path, **options):
        given = {"clip": stages["clip"]} | ({} if name in PRIORS else {"init_from": stages["ldm"]})
        return recipe(name, folder, **given | options)

    return of


def batch_of(task, numbers: range) -> dict:
    samples = NumberedSamples(task.source, task.prepare, 0)
    return default_collate([samples[i] for i in numbers])


# --- from data to images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_decoder_and_prior_make_a_whole_system(make, tmp_path, capsys, name):
    folder = run(make("unclip-decoder", tmp_path / "decoder"))
    alone = AutoPipeline.from_pretrained(tmp_path / "decoder")
    assert type(alone) is UnCLIPPipeline and alone.prior is None
    assert len(alone.variations(CAT, n=2, num_inference_steps=2)) == 2
    printed = capsys.readouterr().out
    assert "held-out loss" in printed and "embeddings of others" in printed
    assert f"next: t2i train unclip-prior --decoder {tmp_path / 'decoder'}/latest" in printed
    whole = AutoPipeline.from_pretrained(run(make(name, tmp_path / "prior", decoder=str(folder))))
    assert isinstance(whole.prior, PRIORS[name])
    assert whole("a red cat", num_inference_steps=2).images[0].size == (64, 64)
    printed = capsys.readouterr().out
    assert "cosine of predicted and true" in printed and "two images of one caption" in printed
    assert "captions of others" in printed
    for run_folder, bins in (("decoder", 10), ("prior", 10 if name == "unclip-prior" else 4)):
        scores = json.loads((tmp_path / run_folder / "latest" / "scores.json").read_text())["held_out"]
        assert {len(losses) for losses in scores["loss_by_timestep"].values()} == {bins}
        assert len(scores["loss"]) == 2 and scores["images"] == 16
        assert (tmp_path / run_folder / "samples" / "step-000004.png").is_file()
    for part in ("unet", "projection", "vae", "clip"):  # the decoder is part of the system as it was
        weights = [next((p / part).glob("*.safetensors")).read_bytes() for p in (folder, tmp_path / "prior" / "latest")]
        assert weights[0] == weights[1]


@pytest.mark.parametrize("name", PRIORS)
def test_without_a_decoder_a_checkpoint_is_the_prior(make, tmp_path, name):
    folder = run(make(name, tmp_path / "prior"))
    prior = PRIORS[name].from_pretrained(folder)
    task = make(name, tmp_path / "prior").task()
    assert torch.allclose(prior.statistics.mean, some_embeddings(task.clip, task.source).mean(0), atol=1e-6)
    assert (tmp_path / "prior" / "samples" / "step-000004.png").is_file()
    decoded = run(make("unclip-decoder", tmp_path / "decoder"))
    whole = AutoPipeline.from_pretrained(decoded, prior=prior.eval())
    assert whole("a red cat", num_inference_steps=1).images[0].size == (64, 64)
    with pytest.raises(FileNotFoundError, match=r"holds a .*Prior alone: .*a --decoder"):
        AutoPipeline.from_pretrained(folder)


# --- the decoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("captions", [False, True])
def test_a_new_decoder_generates_as_the_system_it_starts_from(make, stages, tmp_path, captions):
    task = make("unclip-decoder", tmp_path, caption_dropout=0.5 if captions else 1.0).task()
    task.model.eval()
    pipe, old = task.pipeline(), LatentDiffusionPipeline.from_pretrained(stages["ldm"])
    how = {"num_inference_steps": 3, "output_type": "latent", "latents": torch.randn(2, 4, 8, 8)}
    prompts = ["a red cat", "a blue car"] if captions else ["", ""]
    ours = pipe(prompts if captions else None, image_embeds=own.embeddings(2), guidance_scale=3.0, **how).images
    theirs = old(prompts, guidance_scale=3.0 if captions else 1.0, **how).images
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_first_loss_is_that_of_the_system_it_starts_from(make, stages, tmp_path):
    task = make("unclip-decoder", tmp_path, caption_dropout=0.0).task()
    batch = batch_of(task, range(4))
    loss = task.loss(**batch)["loss"]
    loss.backward()
    assert task.model.projection.tokens.weight.grad.abs().max() > 0
    assert task.model.unet.class_embedding.linear_2.weight.grad.abs().max() > 0
    frozen = (task.autoencoder, task.encoder.model, task.clip.model)
    assert all(p.grad is None and not p.requires_grad for model in frozen for p in model.parameters())
    task.model = LatentDiffusionPipeline.from_pretrained(stages["ldm"]).unet
    text = {k: v for k, v in batch.items() if k not in ("image_embeds", "dropped")}
    assert loss.item() == pytest.approx(super(type(task), task).loss(**text)["loss"].item(), rel=1e-5)


def test_embeddings_are_dropped_as_often_as_asked(make, tmp_path):
    prepare = make("unclip-decoder", tmp_path, embedding_dropout=0.3).task().prepare
    item = {"mean": np.zeros((4, 8, 8)), "std": np.ones((4, 8, 8)), "text": "a", "image_embeds": np.zeros(4)}
    dropped = [prepare(item, np.random.default_rng(i))["dropped"] for i in range(400)]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.07)


def test_cached_embeddings_are_those_of_the_images(make, tmp_path):
    caches = str(tmp_path / "latents"), "none"
    cached, live = (make("unclip-decoder", tmp_path / "run", cache=cache).task() for cache in caches)
    item, image = cached.source[5], torch.from_numpy(live.source[5]["image"])[None]
    embeds = embed_images(live.clip.model, live.clip.processor, image)
    assert torch.allclose(torch.from_numpy(np.array(item["image_embeds"])), embeds[0], atol=1e-5)
    assert item["text"] == live.source[5]["text"]


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unclip-decoder", *PRIORS])
def test_a_resumed_run_is_one_that_never_stopped(make, tmp_path, name):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        run(make(name, folder))
    shutil.rmtree(halves / "checkpoint-4")  # as after a kill after the first checkpoint
    run(make(name, halves, resume="latest"))
    assert losses(halves) == losses(whole)
    weights = [p / "checkpoint-4" / "state" / "model.safetensors" for p in (whole, halves)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unclip-decoder", "unclip-prior"])
def test_two_processes_with_half_the_batch_are_one(stages, tmp_path, name):
    start = [] if name == "unclip-prior" else ["--init-from", stages["ldm"]]
    options = ["--clip", stages["clip"], *start, "--cached-images", "32", "--max-train-steps", "3"]
    found = {}
    for processes in (1, 2):
        folder = str(tmp_path / str(processes))
        batch = ["--train-batch-size", str(8 // processes), "--output-dir", folder, "--cache", f"{folder}-cache"]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
        subprocess.run(command(name, *options, *batch, processes=processes), check=True, env=environment)
        found[processes] = losses(Path(folder))
    assert np.allclose(found[1], found[2], rtol=1e-4)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_wrong_folders_are_named_with_the_command_that_makes_the_right_one(make, stages, tmp_path):
    for name in ("unclip-decoder", "unclip-prior"):
        with pytest.raises(FileNotFoundError, match=r"runs/tiny-no is no CLIP .*t2i train clip-toybox --preset tiny"):
            make(name, tmp_path, clip="runs/tiny-no").task()
        with pytest.raises((FileNotFoundError, ValueError), match=r"is no CLIP .*: t2i train clip-toybox"):
            make(name, tmp_path, clip=stages["ldm"]).task()
    with pytest.raises(FileNotFoundError, match=r"no decoder in runs/tiny-no .*t2i train unclip-decoder --preset tiny"):
        make("unclip-prior", tmp_path, decoder="runs/tiny-no").task()
    with pytest.raises(
        ValueError, match="holds a LatentDiffusionPipeline, which decodes no image embeddings: train on"
    ):
        make("unclip-prior", tmp_path, decoder=stages["ldm"]).task()
    with pytest.raises(FileNotFoundError, match=r"no pipeline to start from in runs/no .*`t2i train ldm-toybox`"):
        make("unclip-decoder", tmp_path, init_from="runs/no").task()
    own.pipeline().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="holds an UnCLIPPipeline: a latent diffusion pipeline"):
        make("unclip-decoder", tmp_path, init_from=str(tmp_path / "other")).task()
    parts.pipeline(denoiser=parts.dit()).save_pretrained(tmp_path / "dit")
    with pytest.raises(ValueError, match=r"with a DiT: give the --init-from of one that `t2i train ldm-toybox` made"):
        make("unclip-decoder", tmp_path, init_from=str(tmp_path / "dit")).task()
    changed = own.pipeline()
    torch.nn.init.normal_(changed.clip.visual_projection.weight)
    changed.save_pretrained(tmp_path / "changed")
    with pytest.raises(ValueError, match="was trained on another CLIP than"):
        make("unclip-prior", tmp_path, decoder=str(tmp_path / "changed")).task()
    with pytest.raises(ValueError, match="caption_dropout"):
        make("unclip-prior", tmp_path, caption_dropout=1.0)


def test_a_folder_of_images_trains_both(make, tmp_path):
    data = export(tmp_path / "boxes", 8)

    def of(name, folder, **options):
        made = make(name, folder, max_train_steps=1, **options)
        return dataclasses.replace(made, data=dataclasses.replace(made.data, data=str(data)))

    folder = run(of("unclip-decoder", tmp_path / "decoder", cache="none"))
    run(of("unclip-prior", tmp_path / "prior", decoder=str(folder)))
    scores = json.loads((tmp_path / "prior" / "latest" / "scores.json").read_text())["held_out"]
    assert scores["cosine"].keys() == {"predicted and true", "shuffled pairs"} and scores["images"] == 2
