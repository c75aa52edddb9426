"""The latent diffusion recipe and its latent cache, on tiny real stages."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
from functools import partial
from pathlib import Path

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image, ImageOps
from test_training import command, losses
from test_training import recipe as tiny_recipe

from t2i.data.sources import open_source
from t2i.data.toybox_v1 import Toybox, export
from t2i.pipelines import AutoPipeline, LatentDiffusionPipeline
from t2i.text.encoders import open_text_encoder
from t2i.training.cli import run
from t2i.training.config import DataConfig
from t2i.training.held_out import errors_by_timestep, loaded
from t2i.training.recipes.encodings import CachedEncodings, cached_encodings
from t2i.training.recipes.ldm.base import PrepareLatent
from t2i.training.recipes.ldm.denoiser import ldm_toybox, load_autoencoder
from t2i.training.recipes.ldm.latents import latent_encoding, latents_of
from t2i.training.recipes.text_conditioned import Tokens
from t2i.weights import digest

TINY = {"channels": (16, 16), "head_width": 8, "norm_groups": 8}
DIT = {"denoiser": "dit", "width": 32, "depth": 1, "head_width": 16}
PICTURES = 24


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> tuple[str, str]:
    return parts.save_stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def ldm(stages, tmp_path):
    def make(folder: Path, model: dict = TINY, **options):
        cache = {"cache": str(tmp_path / "latents"), "cached_images": PICTURES}
        both = {"autoencoder": stages[0], "text_encoder": stages[1], "validation_prompts": ("a red cat",)}
        return tiny_recipe("ldm-toybox", folder, model, **(both | cache | options))

    return make


@pytest.fixture
def vae(stages) -> AutoencoderKL:
    return load_autoencoder(stages[0])


def cached(folder: Path, vae, seed: int = 0, num: int = PICTURES, size: int = 64) -> CachedEncodings:
    data = DataConfig(image_size=size)
    source = open_source("toybox-v1", size, seed=seed)
    return cached_encodings(latent_encoding(vae), folder, source, data, seed, num, workers=0)


# --- the cache ------------------------------------------------------------------------------------------------------


def test_cached_latents_are_those_of_the_images(vae, tmp_path):
    found, world = cached(tmp_path / "latents", vae, num=70), Toybox("train", 64, 0, 70)  # more than one batch
    assert len(found) == 70
    assert list(found.captions(70)) == [world[i]["text"] for i in range(70)]
    for i in (0, 69):
        mean, std = latents_of(vae, torch.from_numpy(world[i]["image"])[None])
        assert np.allclose(found[i]["mean"], mean[0], atol=2e-3)
        assert np.allclose(found[i]["std"], std[0], rtol=2e-3)
    assert not list(tmp_path.glob(".*"))


def test_a_cache_is_computed_once(vae, tmp_path):
    cached(tmp_path / "latents", vae)
    before = (tmp_path / "latents" / "latents.npy").stat().st_mtime_ns
    cached(tmp_path / "latents", vae)
    assert (tmp_path / "latents" / "latents.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vae": 1}, "autoencoder_sha256"),
        ({"seed": 1}, "data_sha256: .*seed: 0 -> 1"),
        ({"num": 12}, "num: 24 -> 12"),
        ({"size": 32}, "image_size: 64 -> 32"),
    ],
)
def test_a_cache_of_something_else_is_refused(vae, tmp_path, change, says):
    cached(tmp_path / "latents", vae)
    other = {"vae": parts.autoencoder(seed=change.pop("vae")) if "vae" in change else vae} | change
    with pytest.raises(ValueError, match=rf"computed from something else .*{says}.*another folder with --cache"):
        cached(tmp_path / "latents", **other)


def test_another_scaling_factor_is_another_cache(vae, tmp_path):
    cached(tmp_path / "latents", vae)
    vae.register_to_config(scaling_factor=0.7)
    with pytest.raises(ValueError, match=r"scaling_factor: 0\.5 -> 0\.7"):
        cached(tmp_path / "latents", vae)


def test_images_edited_in_place_are_another_cache(vae, tmp_path):
    folder, latents = export(tmp_path / "boxes", 6), tmp_path / "latents"

    def of_folder(where: Path | None = latents) -> CachedEncodings:
        data = DataConfig(str(folder))
        source = open_source(str(folder), 64)
        return cached_encodings(latent_encoding(vae), where, source, data, 0, 6, workers=0, parent=tmp_path)

    assert len(of_folder()) == len(of_folder()) == 6
    first = of_folder(None)
    assert of_folder(None).folder == first.folder and first.folder.name.startswith("latents-boxes-")
    picture = sorted(folder.glob("*.png"))[3]
    ImageOps.invert(Image.open(picture).convert("RGB")).save(picture)
    with pytest.raises(ValueError, match=r"from something else \(data_sha256: .*give another folder with --cache"):
        of_folder()
    again = of_folder(None)  # without a folder name it uses another one
    assert again.folder != first.folder and again.fingerprint() != first.fingerprint()
    assert not np.array_equal(again.encodings, first.encodings)


def test_two_data_sets_of_one_name_have_two_caches(stages, tmp_path):
    """And a run without a cache option uses its own."""
    made = {}
    for seed, name in enumerate(("a", "b")):
        folder = export(tmp_path / name / "photos", 6, seed=seed)
        parts_of = {"autoencoder": stages[0], "text_encoder": stages[1], "cached_images": 6}
        data = dataclasses.replace(ldm_toybox("tiny").data, data=str(folder))
        recipe = partial(tiny_recipe, "ldm-toybox", tmp_path / f"run-{name}", TINY, data=data, **parts_of)
        run(recipe(max_train_steps=1))
        run(recipe(max_train_steps=2, resume="latest"))
        made[name] = {p.name for p in tmp_path.glob("latents-photos-*")}
    assert len(made["a"]) == 2 and len(made["b"]) == 4  # latents and text states for each


def test_damaged_latents_are_refused(vae, tmp_path):
    cached(tmp_path / "latents", vae)
    file = tmp_path / "latents" / "latents.npy"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"latents are damaged: latents.npy has other contents .*remove that folder"):
        cached(tmp_path / "latents", vae)


def test_a_cache_with_an_incomplete_key_raises(vae, tmp_path):
    cached(tmp_path / "latents", vae)
    about = tmp_path / "latents" / "cache.json"
    known = json.loads(about.read_text())
    about.write_text(json.dumps({name: known[name] for name in known if name != "data_sha256"}))
    with pytest.raises(ValueError, match=r"from something else \(data_sha256: None -> "):
        cached(tmp_path / "latents", vae)


def test_a_folder_with_other_content_is_not_overwritten(vae, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match="is no cache of latents; give another folder with --cache"):
        cached(tmp_path / "photos", vae)


# --- samples --------------------------------------------------------------------------------------------------------


def test_a_fraction_of_captions_is_the_null_prompt(stages):
    pipe = parts.pipeline()
    objective, shape = ldm_toybox("tiny").objective(), (4, 8, 8)
    prepare = PrepareLatent(Tokens(pipe.tokenizer, parts.LENGTH), 0.3, objective, 4, 8)
    item = {"mean": np.zeros(shape, np.float16), "std": np.ones(shape, np.float16), "text": "a red cat"}
    samples = [prepare(item, np.random.default_rng(i)) for i in range(400)]
    null = np.array(pipe.tokenizer("", padding="max_length", max_length=parts.LENGTH)["input_ids"])
    dropped = np.mean([np.array_equal(s["ids"], null) for s in samples])
    assert dropped == pytest.approx(0.3, abs=0.07)
    latents = np.stack([s["latents"] for s in samples])
    assert latents.std() == pytest.approx(1, abs=0.02)  # sampled anew each time, not the mean
    with torch.no_grad():  # and states of the empty prompt, for guidance
        states = pipe.text_encoder(torch.from_numpy(null)[None])[0]
    assert torch.equal(states, pipe._encode([""]).states)


# --- the run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [TINY, DIT], ids=["unet", "dit"])
def test_a_checkpoint_is_a_pipeline(ldm, tmp_path, model):
    folder = run(ldm(tmp_path / "run", model))
    pipe = AutoPipeline.from_pretrained(folder)
    assert type(pipe) is LatentDiffusionPipeline
    how = {"num_inference_steps": 3, "output_type": "pt"}
    ours = pipe("a red cat", generator=torch.Generator().manual_seed(0), guidance_scale=5.0, **how).images
    assert ours.shape == (1, 3, 64, 64)
    if model is TINY:
        theirs = StableDiffusionPipeline.from_pretrained(folder)
        again = theirs("a red cat", generator=torch.Generator().manual_seed(0), guidance_scale=5.0, **how).images
        assert (ours - again).abs().max() < 1e-3
    assert (tmp_path / "run" / "samples" / "step-000006.png").is_file()


def test_a_t5_can_be_the_text_encoder(ldm, tmp_path):
    tokenizer = parts.clip_tokenizer()
    for part in (parts.t5(tokenizer), tokenizer):
        part.save_pretrained(tmp_path / "t5")
    folder = run(ldm(tmp_path / "run", text_encoder=str(tmp_path / "t5")))
    pipe = AutoPipeline.from_pretrained(folder)
    assert pipe._encode(["a red cat"]).mask is not None
    assert pipe("a red cat", num_inference_steps=2).images[0].size == (64, 64)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_loss_falls(ldm, tmp_path, kind):
    run(ldm(tmp_path / "run", prediction_type=kind, max_train_steps=60, checkpointing_steps=60, train_batch_size=16))
    found = losses(tmp_path / "run")
    assert np.mean(found[-20:]) < 0.9 * np.mean(found[:20])


@pytest.mark.parametrize(
    "together",
    [pytest.param(False, id="frozen text"), pytest.param(True, id="text learns too", marks=pytest.mark.slow)],
)
def test_a_resumed_run_is_one_that_never_stopped(ldm, tmp_path, together):
    how = {"max_train_steps": 8, "checkpointing_steps": 4, "dataloader_num_workers": 1, "train_text_encoder": together}
    whole, parted = tmp_path / "whole", tmp_path / "parts"
    run(ldm(whole, **how))
    run(ldm(parted, **how))
    shutil.rmtree(parted / "checkpoint-8")  # as after a kill after the first checkpoint
    run(ldm(parted, **how, resume="latest"))
    assert losses(parted) == losses(whole)
    weights = [p / "checkpoint-8" / "state" / "model.safetensors" for p in (whole, parted)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_text_encoder_is_trained_only_on_request(ldm, stages, tmp_path):
    given = digest(open_text_encoder(stages[1]).model)
    for together in (False, True):
        folder = run(ldm(tmp_path / str(together), train_text_encoder=together))
        assert (digest(AutoPipeline.from_pretrained(folder).text_encoder) == given) != together


def test_a_run_starts_from_the_given_pipeline(ldm, tmp_path):
    first = run(ldm(tmp_path / "first", train_text_encoder=True))
    task = ldm(tmp_path / "second", init_from=str(first), train_text_encoder=True).task()
    how = {"num_inference_steps": 2, "output_type": "pt"}
    drawn = [
        pipe("a red cat", generator=torch.Generator().manual_seed(0), **how).images
        for pipe in (AutoPipeline.from_pretrained(first), task.pipeline())
    ]
    assert torch.allclose(*drawn, atol=1e-5)
    assert "init_from_sha256" in task.fingerprint
    with pytest.raises(ValueError, match="of other sizes than this recipe's; leave out --init-from"):
        ldm(tmp_path / "third", {**TINY, "channels": (16, 32)}, init_from=str(first)).task()


def test_training_without_a_cache_equals_training_with_one(ldm, tmp_path):
    """Up to rounding to half precision."""
    found = []
    for name in ("none", str(tmp_path / "cache")):
        task = ldm(tmp_path / "run", cache=name).task()
        sample = task.prepare(task.source[3], np.random.default_rng(0))
        again = pickle.loads(pickle.dumps(task.prepare))(task.source[3], np.random.default_rng(0))  # in a data worker
        assert sample.keys() == again.keys()
        assert all(np.array_equal(sample[key], again[key]) for key in sample)
        batch = {key: torch.as_tensor(np.asarray(x))[None] for key, x in sample.items()}
        found.append(task.loss(**batch)["loss"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    run(ldm(tmp_path / "run", cache="none"))
    assert len(losses(tmp_path / "run")) == 6


def test_captions_of_another_encoder_are_refused(ldm, tmp_path):
    ldm(tmp_path / "run").task()
    tokenizer = parts.clip_tokenizer()
    torch.manual_seed(7)
    other = parts.clip(tokenizer)
    other.final_layer_norm.bias.data += 1
    for part in (other, tokenizer):
        part.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"something else \(encoder_sha256: .*; remove that folder"):
        ldm(tmp_path / "run", text_encoder=str(tmp_path / "other")).task()


@pytest.mark.slow
def test_two_processes_with_half_the_batch_train_as_one(ldm, stages, tmp_path):
    """And fill one cache together."""
    runs = {}
    for processes in (1, 2):
        folder, cache = tmp_path / f"run{processes}", tmp_path / f"cache{processes}"
        args = ["--train-batch-size", str(8 // processes), "--max-train-steps", "4", "--output-dir", str(folder)]
        args += ["--autoencoder", stages[0], "--text-encoder", stages[1], "--cache", str(cache)]
        args += ["--cached-images", "150", "--validation-prompts", "a cat"]
        args += ["--channels", "16", "16", "--head-width", "8", "--norm-groups", "8"]
        asked = command("ldm-toybox", *args, processes=processes)
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
        subprocess.run(asked, check=True, capture_output=True, timeout=200, env=on_cpu)
        runs[processes] = losses(folder), np.load(cache / "latents.npy")
    assert np.allclose(runs[1][0], runs[2][0], rtol=1e-3)
    assert np.allclose(runs[1][1], runs[2][1], atol=2e-3)


def test_a_run_is_not_resumed_on_another_autoencoder(ldm, tmp_path):
    run(ldm(tmp_path / "run"))
    parts.autoencoder(seed=1).save_pretrained(tmp_path / "other")
    changed = {"autoencoder": str(tmp_path / "other"), "cache": str(tmp_path / "more"), "resume": "latest"}
    with pytest.raises(ValueError, match="autoencoder_sha256"):
        run(ldm(tmp_path / "run", **changed))


def test_a_missing_or_wrong_first_stage_raises_with_the_command_that_trains_it(ldm, tmp_path):
    with pytest.raises(FileNotFoundError, match="t2i train kl-toybox"):
        run(ldm(tmp_path / "run", autoencoder=str(tmp_path / "nothing")))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQVAE"}))
    with pytest.raises(ValueError, match="holds a VQVAE, not an AutoencoderKL; make one with: t2i train kl-toybox"):
        run(ldm(tmp_path / "run", autoencoder=str(tmp_path)))


def test_contradictory_options_raise():
    for wrong, says in (
        ({"caption_dropout": 1.0}, r"\[0, 1\)"),
        ({"cached_images": 0}, "at least 1"),
        ({"noise_offset": -1.0}, "noise_offset"),
    ):
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(ldm_toybox("tiny"), **wrong)


# --- the held-out loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_a_checkpoint_has_its_held_out_loss_by_timestep(ldm, tmp_path, together, capsys):
    made = ldm(tmp_path / "run", held_out_images=6, train_text_encoder=together)
    scores = json.loads((run(made) / "scores.json").read_text())["held_out"]
    assert "held-out loss, timestep from" in capsys.readouterr().out
    assert scores["images"] == 6 and {len(x) for x in scores["loss_by_timestep"].values()} == {10}
    pipe, task = AutoPipeline.from_pretrained(tmp_path / "run"), made.task()
    images, captions = loaded(task.held_out)
    latents, _ = latents_of(pipe.vae, images)
    states = open_text_encoder(tmp_path / "run" / "latest").encode(captions).states
    errors = errors_by_timestep(task.objective, pipe.unet, latents, {"states": states})
    assert scores["loss"]["right conditions"] == pytest.approx(errors.mean().item(), rel=1e-3)


def test_without_held_out_images_there_are_no_scores(ldm, tmp_path):
    assert not (run(ldm(tmp_path / "run", held_out_images=0)) / "scores.json").exists()
    with pytest.raises(ValueError, match="held_out_images must be at least 2, not 1"):
        ldm(tmp_path / "run", held_out_images=1)
