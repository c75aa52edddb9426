"""What a latent diffusion run is initialised from: another pipeline, a text encoder, an autoencoder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import diffusion_parts as parts
import pytest
import torch
from diffusers import AutoencoderKL
from test_training import recipe as tiny_recipe
from transformers import CLIPTextModel

from t2i.data.toybox_v1 import Toybox
from t2i.pipelines import AutoPipeline
from t2i.pipelines.loading.auto import embedded
from t2i.text.clip import train_clip_tokenizer
from t2i.training.recipes import text_conditioned
from t2i.training.recipes.ldm import base as ldm_base
from t2i.training.recipes.ldm.denoiser import load_autoencoder
from t2i.weights import digest

TINY = {"channels": (16, 16), "head_width": 8, "norm_groups": 8}


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> tuple[str, str]:
    return parts.save_stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def ldm(stages, tmp_path):
    def make(name: str = "run", **options):
        both = {"autoencoder": stages[0], "text_encoder": stages[1], "cached_images": 8}
        return tiny_recipe("ldm-toybox", tmp_path / name, TINY, **(both | {"cache": str(tmp_path / name)} | options))

    return make


@pytest.fixture
def other(ldm, tmp_path) -> str:
    """A pipeline with the recipe's sizes and a different text encoder."""
    task = ldm("first", cache="none").task()
    task.encoder.model.final_layer_norm.bias.data += 1
    task.pipeline().save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


# --- another pipeline -----------------------------------------------------------------------------------------------


def test_captions_have_the_states_of_the_pipeline_that_a_run_starts_from(ldm, other):
    pipe = AutoPipeline.from_pretrained(other)
    pipe._encode(["a red cat"])  # a used tokenizer has other settings in its file, but is the same one
    pipe.tokenizer.save_pretrained(Path(other) / "tokenizer")
    plain, task = ldm("plain").task(), ldm("started", init_from=other).task()
    text = task.source[0]["text"]
    states = task.prepare.texts.encode([text]).states
    assert torch.allclose(states, pipe._encode([text]).states, atol=4e-3)  # stored in half precision
    assert (states - plain.prepare.texts.encode([text]).states).abs().max() > 0.5
    assert task.fingerprint["text_encoder_sha256"] != plain.fingerprint["text_encoder_sha256"]


def test_the_digest_of_initial_weights_depends_on_the_text_encoder(ldm, other):
    def started() -> str:
        return ldm(cache="none", init_from=other).task().fingerprint["init_from_sha256"]

    before = started()
    assert started() == before
    model = CLIPTextModel.from_pretrained(other, subfolder="text_encoder")
    model.final_layer_norm.bias.data += 1
    model.save_pretrained(Path(other) / "text_encoder")
    assert started() != before


def test_a_pipeline_with_another_tokenizer_is_refused(ldm, other):
    words = train_clip_tokenizer(Toybox(seed=1, num=50).captions(50), 600, parts.LENGTH)
    assert len(words) == len(parts.clip_tokenizer())  # so that the weights alone would fit
    words.save_pretrained(Path(other) / "tokenizer")
    with pytest.raises(
        ValueError, match=r"another tokenizer than .*; give the --text-encoder that it was trained with"
    ):
        ldm(init_from=other).task()


# --- the text encoder -----------------------------------------------------------------------------------------------


def test_an_open_clip_text_encoder_raises(ldm):
    with pytest.raises(ValueError, match="a CLIP, T5 or BERT of transformers"):
        ldm(text_encoder="open_clip:ViT-B-32/laion2b_s34b_b79k").task()


def test_caches_are_filled_on_the_device_of_the_process(ldm, monkeypatch):
    where = {}

    def to(self, *device, **layout):
        where[type(self)] = device[0] if device else where.get(type(self))
        return self

    def states(encoder, *args):
        assert where[type(encoder.model)] == where[AutoencoderKL] == "its own"

    for kind in (AutoencoderKL, CLIPTextModel):
        monkeypatch.setattr(kind, "to", to)
    process = SimpleNamespace(device="its own")
    for module in (text_conditioned, ldm_base):
        monkeypatch.setattr(module, "this_process", lambda: process)
    monkeypatch.setattr(text_conditioned, "cached_states", states)
    task = ldm().task()
    task.pipeline()
    assert where[CLIPTextModel] == where[AutoencoderKL] == task.denoiser.device


# --- the autoencoder ------------------------------------------------------------------------------------------------


def test_an_autoencoder_has_many_names(stages, tmp_path, monkeypatch):
    own = digest(load_autoencoder(stages[0]))
    parts.pipeline().save_pretrained(tmp_path / "pipeline")
    assert digest(load_autoencoder(str(tmp_path / "pipeline"))) == own
    found = load_autoencoder("toybox/ldm")
    assert digest(found) == digest(AutoencoderKL.from_pretrained(embedded()["toybox/ldm"] / "vae"))
    assert found.dtype == torch.float32
    for name in ("load_config", "from_pretrained"):
        there = getattr(AutoencoderKL, name)
        on_hub = {"someone/vae": stages[0]}
        monkeypatch.setattr(
            AutoencoderKL, name, lambda asked, f=there, hub=on_hub, **how: f(hub.get(asked, asked), **how)
        )
    assert digest(load_autoencoder("someone/vae")) == own


def test_an_unknown_autoencoder_raises_with_the_command_that_trains_one(tmp_path, monkeypatch):
    def asked(name):
        raise OSError(f"{name} is not a valid model identifier\nand so on")

    monkeypatch.setattr(AutoencoderKL, "load_config", asked)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DallePipeline"}))
    remedy = "; make one with: t2i train kl-toybox, and give its folder with --autoencoder"
    for name in ("runs/kl-toybx/latest", "./kl", "kl", "toybox/lmd", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"there is no autoencoder in .*{remedy}$"):
            load_autoencoder(name)
    with pytest.raises(FileNotFoundError, match=f"in me/kl{remedy}. The Hub says: .* valid model identifier$"):
        load_autoencoder("me/kl")
