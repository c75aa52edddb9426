"""The recipes of Imagen on tiny real stages, the held-out loss by timestep and the swap test."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
from functools import partial
from pathlib import Path

import diffusion_parts
import imagen_parts as parts
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from test_training import command, losses
from test_training import recipe as tiny_recipe
from torch import nn
from transformers import BertConfig, BertModel

from t2i.data.image_file import square
from t2i.data.sources import open_source
from t2i.data.splits import Part
from t2i.data.toybox_v1 import Toybox, export
from t2i.diffusion.conditioning import encoder_of
from t2i.diffusion.objective import DiffusionObjective
from t2i.pipelines import AutoPipeline, ImagenPipeline
from t2i.text.encoders import open_text_encoder
from t2i.text.t5 import train_t5_tokenizer
from t2i.training.cli import run
from t2i.training.held_out import RIGHT, bins, errors_by_timestep, scores_of, split_held_out, swap_test, table_of
from t2i.training.recipes import RECIPES
from t2i.training.recipes.imagen.task import PrepareImage
from t2i.training.recipes.text_conditioned import Tokens, load_text_encoder
from t2i.weights import digest

PICTURES = 24
SMALL = {"cached_images": PICTURES, "held_out_images": 2, "validation_prompts": ("a red cat",)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A T5 with its tokenizer, as t5-toybox saves them."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = train_t5_tokenizer(Toybox(num=200).captions(200), 400, diffusion_parts.LENGTH)
    for part in (diffusion_parts.t5(tokenizer), tokenizer):
        part.save_pretrained(folder)
    return str(folder)


def with_size(made, size: int, data: str = "toybox-v1"):
    return dataclasses.replace(made, data=dataclasses.replace(made.data, data=data, image_size=size))


@pytest.fixture
def base(encoder, tmp_path):
    def make(folder: Path, size: int = 16, data: str = "toybox-v1", **options):
        given = {"text_encoder": encoder, "base_size": 8, "cache": str(tmp_path / "images")}
        return with_size(tiny_recipe("imagen-base", folder, parts.SIZES, **SMALL | given | options), size, data)

    return make


@pytest.fixture(scope="module")
def trained_base(encoder, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "base"
    made = tiny_recipe("imagen-base", folder, parts.SIZES, **SMALL, text_encoder=encoder, base_size=8, cache="none")
    return str(run(with_size(made, 16)))


@pytest.fixture
def sr(trained_base, tmp_path):
    def make(folder: Path, size: int = 16, **options):
        given = {"base": trained_base, "cache": str(tmp_path / "images")}
        return with_size(tiny_recipe("imagen-sr", folder, parts.SIZES, **SMALL | given | options), size)

    return make


# --- samples --------------------------------------------------------------------------------------------------------


def sample(prepare, item: dict, seed: int = 0) -> dict:
    return prepare(item, np.random.default_rng(seed))


def test_a_fraction_of_captions_is_the_empty_prompt(encoder):
    pipe = parts.pipeline(0)
    prepare = PrepareImage(Tokens(pipe.tokenizer, diffusion_parts.LENGTH), 0.3, DiffusionObjective(), 8, None)
    item = {"image": np.zeros((16, 16, 3), np.uint8), "text": "a red cat"}
    ids = np.stack([sample(prepare, item, i)["ids"] for i in range(300)])
    null = np.array(pipe.tokenizer("", padding="max_length", max_length=diffusion_parts.LENGTH)["input_ids"])
    assert (ids == null).all(1).mean() == pytest.approx(0.3, abs=0.08)


def test_super_resolution_is_trained_on_the_base_models_images(base, sr, tmp_path):
    """At a level that is uniform, with noise for the low-resolution image and for the image."""
    small, large = base(tmp_path / "a", cache="none").task(), sr(tmp_path / "b", cache="none").task()
    item = small.source[5]
    found = [sample(large.prepare, item, i) for i in range(200)]
    assert np.array_equal(found[0]["low_images"], sample(small.prepare, item)["images"])
    assert np.array_equal(found[0]["images"], square(Image.fromarray(item["image"]), 16))
    levels = np.array([one["levels"] for one in found])
    assert levels.min() >= 0 and levels.max() < 1
    assert np.allclose(np.quantile(levels, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)
    assert found[0]["low_noise"].shape == (3, 8, 8) and found[0]["noise"].shape == (3, 16, 16)
    assert np.std([one["low_noise"] for one in found]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("stage", ["base", "sr"])
def test_training_with_a_cache_equals_training_without(stage, request, tmp_path):
    """Images are the same, text states up to rounding to half precision."""
    make, found = request.getfixturevalue(stage), []
    for cache in ("none", str(tmp_path / "cache")):
        task = make(tmp_path / "run", cache=cache).task()
        one = sample(task.prepare, task.source[3])
        again = sample(pickle.loads(pickle.dumps(task.prepare)), task.source[3])  # in a data worker
        assert one.keys() == again.keys() and all(np.array_equal(one[key], again[key]) for key in one)
        batch = {key: torch.as_tensor(np.asarray(x))[None] for key, x in one.items()}
        nn.init.normal_(task.denoiser.conv_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        found.append((one["images"], task.loss(**batch)["loss"].item()))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)
    assert "ids" not in one and one["states"].shape == (diffusion_parts.LENGTH, diffusion_parts.TEXT_WIDTH)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_checkpoints_are_pipelines_the_second_stages_the_whole_cascade(trained_base, sr, tmp_path):
    pipe = AutoPipeline.from_pretrained(trained_base)
    assert type(pipe) is ImagenPipeline and pipe.image_size == 8
    cascade = AutoPipeline.from_pretrained(run(sr(tmp_path / "run")))
    assert cascade.image_size == 16
    assert digest(cascade.unet) == digest(pipe.unet) and digest(cascade.text_encoder) == digest(pipe.text_encoder)
    assert cascade("a red cat", num_inference_steps=2).images[0].size == (16, 16)
    assert (tmp_path / "run" / "samples" / "step-000006.png").is_file()


def test_a_cascade_gets_a_second_super_resolution_model_and_no_third(trained_base, sr, tmp_path):
    first = str(run(sr(tmp_path / "first")))
    second = str(run(sr(tmp_path / "second", 32, base=first, cache="none")))
    pipe = AutoPipeline.from_pretrained(second)
    assert [unet.config.sample_size for unet, _ in pipe.cascade] == [8, 16, 32]
    with pytest.raises(ValueError, match="two super-resolution models already"):
        sr(tmp_path / "third", 64, base=second).task()


@pytest.mark.parametrize(
    ("stage", "kind"), [("base", "v_prediction"), ("base", "sample"), ("base", "flow"), ("sr", "v_prediction")]
)
def test_the_loss_falls(stage, kind, request, tmp_path):
    how = {"max_train_steps": 60, "checkpointing_steps": 60, "train_batch_size": 16, "prediction_type": kind}
    run(request.getfixturevalue(stage)(tmp_path / "run", **how))
    found = losses(tmp_path / "run")
    assert np.mean(found[-20:]) < 0.9 * np.mean(found[:20])


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("base", {}),
        ("sr", {}),
        pytest.param("base", {"train_text_encoder": True}, marks=pytest.mark.slow),
    ],
    ids=["base", "super-resolution", "text learns too"],
)
def test_a_resumed_run_is_one_that_never_stopped(stage, options, request, tmp_path):
    make = partial(request.getfixturevalue(stage), **options)
    how = {"max_train_steps": 8, "checkpointing_steps": 4, "dataloader_num_workers": 1}
    whole, parted = tmp_path / "whole", tmp_path / "parts"
    run(make(whole, **how))
    run(make(parted, **how))
    shutil.rmtree(parted / "checkpoint-8")  # as after a kill after the first checkpoint
    run(make(parted, **how, resume="latest"))
    assert losses(parted) == losses(whole)
    weights = [p / "checkpoint-8" / "state" / "model.safetensors" for p in (whole, parted)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_text_encoder_is_trained_only_on_request(base, encoder, tmp_path):
    given = digest(open_text_encoder(encoder).model)
    for together in (False, True):
        folder = run(base(tmp_path / str(together), train_text_encoder=together))
        assert (digest(AutoPipeline.from_pretrained(folder).text_encoder) == given) != together


def test_a_clip_can_be_the_text_encoder(base, tmp_path):
    _, clip = diffusion_parts.save_stages(tmp_path)
    pipe = AutoPipeline.from_pretrained(run(base(tmp_path / "run", text_encoder=clip)))
    assert pipe("a red cat", num_inference_steps=2).images[0].size == (8, 8)


@pytest.mark.parametrize("together", [False, True])
def test_a_bert_can_be_the_text_encoder_of_captions_of_any_length(base, encoder, tmp_path, together):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = open_text_encoder(encoder).tokenizer
    bert = BertModel(BertConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=diffusion_parts.LENGTH))
    for part in (bert, tokenizer):
        part.save_pretrained(tmp_path / "bert")
    options = {"text_encoder": str(tmp_path / "bert"), "text_length": 5, "train_text_encoder": together}
    pipe = AutoPipeline.from_pretrained(run(base(tmp_path / "run", **options)))
    assert isinstance(pipe.text_encoder, BertModel)
    images = [
        pipe(text, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
        for text in ("a red cat", "a blue car")
    ]
    assert images[0].tobytes() != images[1].tobytes()
    assert encoder_of(pipe.text_encoder, pipe.tokenizer).length == 5, "the pipeline truncates as in training"
    with pytest.raises(ValueError, match=f"at most {diffusion_parts.LENGTH} tokens, not 99"):
        base(tmp_path / "run", **options | {"text_length": 99}).task()


def test_captions_are_as_long_in_training_as_in_the_pipeline(encoder):
    made = load_text_encoder(encoder, 100)
    assert made.length == encoder_of(made.model, made.tokenizer).length == 100
    with pytest.raises(ValueError, match="text_length must be at most 128, as many as a pipeline encodes, not 200"):
        load_text_encoder(encoder, 200)


@pytest.mark.slow
def test_two_processes_with_half_the_batch_train_as_one(encoder, tmp_path):
    runs = {}
    small = ["--block-out-channels", "8", "16", "--head-width", "8", "--norm-groups", "4", "--held-out-images", "2"]
    for processes in (1, 2):
        folder, cache = tmp_path / f"run{processes}", str(tmp_path / f"cache{processes}")
        args = ["--train-batch-size", str(8 // processes), "--max-train-steps", "4", "--output-dir", str(folder)]
        args += ["--text-encoder", encoder, "--cache", cache, "--cached-images", "70", "--base-size", "8", *small]
        asked = command("imagen-base", *args, processes=processes)
        on_cpu = os.environ | {"ACCELERATE_USE_CPU": "true"}
        subprocess.run(asked, check=True, capture_output=True, timeout=200, env=on_cpu)
        runs[processes] = losses(folder), np.load(Path(cache) / "images.npy")
    assert np.allclose(runs[1][0], runs[2][0], rtol=1e-3)
    assert np.array_equal(runs[1][1], runs[2][1])


def test_a_run_is_not_resumed_on_another_base_model(trained_base, sr, tmp_path):
    run(sr(tmp_path / "run"))
    pipe = AutoPipeline.from_pretrained(trained_base)
    pipe.unet.conv_out.bias.data += 1
    pipe.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="base_sha256"):
        run(sr(tmp_path / "run", base=str(tmp_path / "other"), resume="latest"))


@pytest.mark.slow
def test_the_cascade_trains_and_generates_on_another_device(encoder, tmp_path, device):
    short = SMALL | {"max_train_steps": 2, "checkpointing_steps": 2, "mixed_precision": "bf16"}
    given = {"text_encoder": encoder, "base_size": 8, "train_text_encoder": True, "cache": "none"}
    first = run(with_size(tiny_recipe("imagen-base", tmp_path / "base", parts.SIZES, **short, **given), 16))
    AcceleratorState._reset_state(reset_partial_state=True)
    made = tiny_recipe("imagen-sr", tmp_path / "sr", parts.SIZES, **short, base=str(first))
    second = run(with_size(made, 16))
    assert all((folder / "scores.json").is_file() for folder in (first, second))
    pipe = AutoPipeline.from_pretrained(second).to(device)
    assert pipe("a red cat", num_inference_steps=2).images[0].size == (16, 16)


# --- scores ---------------------------------------------------------------------------------------------------------


class Remembers(nn.Module):
    """Predicts zero, or what the pooled text says, and records timesteps and inputs."""

    def __init__(self, uses_text: bool = False):
        super().__init__()
        self.uses_text, self.times, self.inputs = uses_text, [], []

    def forward(self, x, timesteps, encoder_hidden_states, encoder_attention_mask=None):
        self.times.append(timesteps)
        self.inputs.append(x)
        text = encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1) if self.uses_text else 0.0
        return type("Output", (), {"sample": torch.zeros_like(x) + text})


def held_out(n: int = 40) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Images that are all of one value, and texts that say which."""
    values = torch.linspace(-1, 1, n)
    states = values.view(n, 1, 1).expand(n, 3, 4)
    images = values.view(n, 1, 1, 1).expand(n, 3, 4, 4).clone()
    return images, {"states": states, "mask": torch.ones(n, 3, dtype=torch.bool)}


@pytest.mark.parametrize("kind", ["sample", "flow"])
def test_every_image_is_tested_once_in_each_bin_of_timesteps(kind):
    model, (images, given) = Remembers(), held_out()
    errors = errors_by_timestep(DiffusionObjective(parts.COSINE, kind), model, images, given)
    assert errors.shape == (10, 40)
    times = torch.cat(model.times).view(10, 40)
    starts = torch.tensor(bins(1000))[:, None]
    assert ((starts <= times) & (times < starts + 100)).all() and times.float().std(1).min() > 10
    if kind == "sample":  # the target is the image, the prediction zero
        assert torch.allclose(errors, images.square().mean((1, 2, 3)).expand(10, 40), atol=1e-6)


def test_the_swap_test_has_the_same_noise_and_shows_what_the_model_uses():
    for uses_text in (False, True):
        model, (images, given) = Remembers(uses_text), held_out()
        test = partial(errors_by_timestep, DiffusionObjective(parts.COSINE, "sample"), model, images)
        errors = swap_test(test, given, {"other": ("states", "mask")})
        half = len(model.inputs) // 2
        assert all(torch.equal(a, b) for a, b in zip(model.inputs[:half], model.inputs[half:], strict=True))
        assert (errors["other"].mean() > errors[RIGHT].mean() + 1e-4) == uses_text
        if uses_text:
            assert errors[RIGHT].abs().max() < 1e-10
        else:
            assert torch.equal(errors["other"], errors[RIGHT])


def test_the_table_shows_the_means():
    errors = {RIGHT: torch.full((10, 4), 0.5), "captions of other images": torch.full((10, 4), 0.55)}
    scores = scores_of(errors, bins(1000))
    assert scores["loss"] == pytest.approx({RIGHT: 0.5, "captions of other images": 0.55})
    assert scores["timesteps"] == list(range(0, 1000, 100)) and scores["images"] == 4
    lines = table_of(scores).splitlines()
    assert lines[1].split() == ["right", "conditions", *["0.5000"] * 11]
    assert lines[2].split()[-2:] == ["0.5500", "+10.0%"]


def test_a_checkpoint_has_scores_and_prints_them(sr, tmp_path, capsys):
    folder = run(sr(tmp_path / "run"))
    scores = json.loads((folder / "scores.json").read_text())["held_out"]
    rows = [RIGHT, "captions of other images", "other low-resolution images"]
    assert list(scores["loss"]) == rows and [len(x) for x in scores["loss_by_timestep"].values()] == [10] * 3
    assert "held-out loss, timestep from" in capsys.readouterr().out


def test_held_out_images_are_not_trained_on(base, tmp_path):
    folder = export(tmp_path / "boxes", 60)
    task = base(tmp_path / "run", data=str(folder), held_out_images=10, cache="none").task()
    assert (len(task.source), len(task.held_out)) == (57, 3)  # a twentieth
    both = [*task.source.captions(57), *task.held_out.captions(3)]
    assert both == list(open_source(str(folder), 16).captions(60))
    source = Toybox("train", 16, 0, 50)
    train, new = split_held_out(source, 5)
    assert train is source and len(new) == 5 and new.seed != source.seed
    with pytest.raises(ValueError, match="2 images are too few"):
        split_held_out(Part(open_source(str(folder), 16), 0, 2), 5)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_wrong_stage_is_refused_with_the_command_that_trains_it(base, sr, trained_base, tmp_path):
    with pytest.raises(FileNotFoundError, match="make one with: t2i train t5-toybox"):
        base(tmp_path / "run", text_encoder=str(tmp_path / "t5")).task()
    with pytest.raises(FileNotFoundError, match=r"make one with: t2i train imagen-base, and give .* with --base"):
        sr(tmp_path / "run", base=str(tmp_path / "nothing")).task()
    with pytest.raises(FileNotFoundError, match="t2i train imagen-base --preset tiny"):
        sr(tmp_path / "run", base=str(tmp_path / "tiny-imagen-base")).task()
    with pytest.raises(ValueError, match="toybox/ldm holds a LatentDiffusionPipeline, not an ImagenPipeline; make one"):
        sr(tmp_path / "run", base="toybox/ldm").task()


def test_sizes_that_do_not_fit_are_refused(base, sr, tmp_path):
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 8, .* not 20"):
        sr(tmp_path / "run", 20).task()
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 8, .* not 8"):
        sr(tmp_path / "run", 8).task()
    with pytest.raises(ValueError, match="base_size must be at most 64, not 128"):
        dataclasses.replace(RECIPES["imagen-base"]("tiny"), base_size=128)
    with pytest.raises(ValueError, match="9 pixels are not divisible by 4"):
        base(tmp_path / "run", base_size=9).task()


def test_contradictory_options_are_refused():
    for wrong, says in (
        ({"caption_dropout": 1.0}, r"\[0, 1\)"),
        ({"cached_images": 0}, "at least 1"),
        ({"held_out_images": 1}, "at least 2"),
        ({"min_snr_gamma": -1.0}, "min_snr_gamma must be above 0"),
    ):
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(RECIPES["imagen-base"]("tiny"), **wrong)
