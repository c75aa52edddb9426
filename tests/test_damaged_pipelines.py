"""Truncated, mixed-up or incomplete pipeline folders and LoRA files: refused by name, never filled in."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusion_parts import pipeline
from safetensors.torch import load_file, save_file

from t2i.pipelines import AutoPipeline
from t2i.pipelines.loading.auto import embedded
from t2i.pipelines.loading.lora import LORA, add_lora, find_lora
from t2i.text.encoders import open_text_encoder

UNET, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
TEXT, INDEX = "text_encoder/model.safetensors", "model_index.json"
UNET_CONFIG, VAE_CONFIG = "unet/config.json", "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "whole"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(whole, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "damaged"))


def removed(name: str) -> Damage:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def cut(name: str, length: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def written(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def told(name: str, **changes) -> Damage:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def without(name: str, key: str) -> Damage:
    def apply(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        del config[key]
        (folder / name).write_text(json.dumps(config))

    return apply


def weights(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def apply(folder: Path) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name, metadata={"format": "pt"})

    return apply


def other_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(embedded()["toybox/ldm"] / "tokenizer", folder / "tokenizer")


def nan(state: dict[str, torch.Tensor]) -> None:
    for key in state:
        if key.startswith("decoder") or "conv_out" in key:
            state[key] = torch.full_like(state[key], torch.nan)


DAMAGES: list[tuple[Damage, str]] = [
    (written(INDEX, "{}"), "model_index.json has no '_class_name'"),
    (written(INDEX, "[]"), "model_index.json is not a JSON object"),
    (cut(INDEX, 30), "model_index.json is not JSON"),
    (told(INDEX, _class_name=3), "model_index.json has a _class_name that is no string but 3"),
    (told(INDEX, _class_name="Nope"), "model_index.json names 'Nope', which is no pipeline"),
    (
        told(INDEX, _class_name="UNet2DConditionModel"),
        "model_index.json names 'UNet2DConditionModel'",
    ),
    (told(INDEX, unet=["diffusers"]), "model_index.json names no class for 'unet'"),
    (told(INDEX, unet=["os", "system"]), "does not open as a LatentDiffusionPipeline"),
    (
        told(INDEX, vae=["diffusers", "UNet2DConditionModel"]),
        "vae/config.json is of class AutoencoderKL, and",
    ),
    (
        told(INDEX, unet=["diffusers", "Foo"]),
        "model_index.json names diffusers.Foo, which this version",
    ),
    (told(INDEX, unet=[None, None]), "model_index.json names no unet, which a LatentDiffusionPipeline needs: copy or"),
    (without(INDEX, "scheduler"), "model_index.json names no scheduler, which a LatentDiffusionPipeline needs"),
    (removed("unet"), "has no folder unet/"),
    (removed("tokenizer"), "has no folder tokenizer/"),
    (removed("tokenizer/tokenizer.json"), "tokenizer has no vocabulary"),
    (written("tokenizer/tokenizer.json", "{}"), "tokenizer.json is damaged"),
    (other_tokenizer, "tokenizer has 815 tokens, the text encoder a vocabulary of 600"),
    (told("text_encoder/config.json", eos_token_id=7), "tokenizer ends texts with token 599, the text encoder with 7"),
    (removed("scheduler/scheduler_config.json"), "there is no file .*scheduler_config.json"),
    (told(SCHEDULER, beta_schedule="x"), "scheduler_config.json does not describe a DDIMSched"),
    (written("scheduler/scheduler_config.json", "{}"), "scheduler_config.json has no 'num_train_timesteps'"),
    (without("scheduler/scheduler_config.json", "prediction_type"), "scheduler_config.json has no 'prediction_type'"),
    (without("vae/config.json", "scaling_factor"), "vae/config.json has no 'scaling_factor'"),
    (told(VAE_CONFIG, scaling_factor=None), "config.json says scaling_factor None"),
    (told("text_encoder/config.json", num_attention_heads=3), "text_encoder.* cannot be loaded as a CLIPTextModel"),
    (
        told(SCHEDULER, prediction_type="x"),
        "scheduler_config.json says prediction_type 'x', which",
    ),
    (
        told(SCHEDULER, timestep_spacing="x"),
        "config.json says timestep_spacing 'x', which must",
    ),
    (
        told(SCHEDULER, num_train_timesteps=0),
        "config.json says num_train_timesteps 0, which must",
    ),
    (
        told(SCHEDULER, _class_name="Foo"),
        "scheduler_config.json is of class Foo, and should be",
    ),
    (told(UNET_CONFIG, _class_name="Foo"), "unet/config.json is of class Foo, and should be of UNet2DCondition"),
    (
        told(UNET_CONFIG, in_channels="4"),
        r"unet/config.json cannot be loaded as a UNet2D\w+ \(in_channels is '4'\)",
    ),
    (told(UNET_CONFIG, in_channels=None), r"unet/config.json cannot be .* \(in_channels is None\)"),
    (
        told(UNET_CONFIG, in_channels=5),
        r"unet.*config.json describes: conv_in.weight expected shape \(16, 5, 3, 3\)",
    ),
    (told(UNET_CONFIG, block_out_channels=None), r"unet/config.json cannot .* \(block_out_channels is None\)"),
    (told(UNET_CONFIG, block_out_channels=[33, 64]), "unet/config.json cannot be loaded as .*33.* divisible by"),
    (told(UNET_CONFIG, sample_size="x"), "unet/config.json says sample_size 'x', which must be a whole number"),
    (told(VAE_CONFIG, latent_channels="4"), r"vae/config.json cannot be .* \(latent_channels is '4'\)"),
    (
        told(VAE_CONFIG, scaling_factor=0),
        "vae/config.json says scaling_factor 0, which must be a number above 0",
    ),
    (
        told("text_encoder/config.json", model_type="bert"),
        "encoder/config.json says model_type 'bert', but",
    ),
    (told("text_encoder/config.json", hidden_act="foo"), r"text_encoder/config.json cannot be .* \('foo'\)"),
    (written("tokenizer/tokenizer_config.json", "[]"), "tokenizer_config.json is not a JSON object"),
    (told("tokenizer/tokenizer_config.json", model_max_length="x"), "tokenizer_config.json says model_max_length 'x'"),
    (written("unet/config.json", "{"), "unet/config.json is not JSON"),
    (removed(UNET), "there are no weights in .*unet"),
    (cut(UNET, 5000), "unet/diffusion_pytorch_model.safetensors is damaged or incomplete"),
    (cut(TEXT, 0), "text_encoder/model.safetensors is damaged or incomplete"),
    (weights(UNET, lambda state: state.pop("conv_in.bias")), "unet.*does not fit the UNet2D.*it lacks conv_in.bias"),
    (weights(UNET, lambda state: state.update(x=torch.zeros(1))), "unet.*which has no parameter x"),
    (
        weights(UNET, lambda state: state.update({"conv_in.bias": torch.zeros(3)})),
        r"bias expected shape \(16\)",
    ),
    (weights(TEXT, lambda state: state.pop(min(state))), "text_encoder/model.safetensors does not fit.*it lacks"),
    (weights(TEXT, lambda state: state.update({min(state): torch.zeros(3)})), r"text_encoder.* is \(3,\), not"),
    (weights(TEXT, lambda state: [state.update({f"x.{k}": state.pop(k)}) for k in list(state)]), "it lacks .* tensors"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=[says[:45] for _, says in DAMAGES])
def test_a_damaged_folder_is_refused_with_the_files_name(damage, says, damaged, capfd):
    damage(damaged)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        AutoPipeline.from_pretrained(damaged)
    assert str(damaged) in str(error.value) and "\n" not in str(error.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_public_checkpoint_may_carry_more_than_is_used(damaged, caplog):
    told(INDEX, _made_by="another tool")(damaged)
    weights(UNET, lambda state: state.update(x=torch.zeros(1)))(damaged)
    with caplog.at_level(logging.WARNING):
        AutoPipeline.from_pretrained(damaged)
    assert any("has no parameter x: it is left out" in record.getMessage() for record in caplog.records)
    weights(UNET, lambda state: state.pop("conv_in.bias"))(damaged)
    with pytest.raises(ValueError, match=r"it lacks conv_in\.bias"):
        AutoPipeline.from_pretrained(damaged)


UNKNOWN = [
    (
        "unet/config.json",
        {"foo": 1},
        "unet/config.json says foo, which UNet2DConditionModel does not take: it is left out",
    ),
    (VAE_CONFIG, {"foo": 1}, "says foo, which AutoencoderKL does not take: it is left out"),
    (SCHEDULER, {"foo": 1}, "says foo, which DDIMScheduler does not take: it is left out"),
    (
        "tokenizer/tokenizer_config.json",
        {"tokenizer_class": "Foo"},
        "is of class Foo, and is read as",
    ),
]


@pytest.mark.parametrize(("file", "change", "says"), UNKNOWN, ids=[file for file, _, _ in UNKNOWN])
def test_unknown_config_keys_are_named(file, change, says, damaged, caplog):
    told(file, **change)(damaged)
    with caplog.at_level(logging.WARNING):
        AutoPipeline.from_pretrained(damaged)
    [said] = [record.getMessage() for record in caplog.records]
    assert says in said and file in said


def test_a_public_checkpoint_may_name_another_scheduler_but_not_any_class(damaged, caplog):
    told(INDEX, _made_by="another tool")(damaged)
    told(SCHEDULER, _class_name="PNDMScheduler")(damaged)
    with caplog.at_level(logging.WARNING):
        AutoPipeline.from_pretrained(damaged)
        assert not caplog.records
        told(SCHEDULER, _class_name="FooScheduler")(damaged)
        AutoPipeline.from_pretrained(damaged)
    assert "is of class FooScheduler, and is read as one of DDIMScheduler" in caplog.records[0].getMessage()


def test_a_component_that_is_given_need_not_be_in_the_folder(damaged):
    given = pipeline().unet
    shutil.rmtree(damaged / "unet")
    assert AutoPipeline.from_pretrained(damaged, unet=given).unet is given


@pytest.mark.parametrize(("name", "says"), [(VAE, "images are not finite"), (UNET, "latents are not finite")])
def test_numbers_that_are_not_finite_are_an_error_and_no_black_image(name, says, damaged):
    weights(name, nan)(damaged)
    pipe = AutoPipeline.from_pretrained(damaged)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(FloatingPointError, match=says):
        pipe("a red cat", num_inference_steps=2)


def test_a_prior_or_decoder_that_is_not_finite_is_an_error(pipe):
    with torch.no_grad():
        next(pipe.image_tokenizer.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="images are not finite"):
        pipe("a red cat")
    with torch.no_grad():
        next(pipe.prior.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="probabilities are not finite"):
        pipe("a red cat")


def test_weights_of_half_precision_open_by_their_own_name(whole, damaged):
    for name in (UNET, VAE, TEXT):
        file = damaged / name
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    want, got = (AutoPipeline.from_pretrained(folder) for folder in (whole, damaged))
    for part in ("unet", "vae", "text_encoder"):
        theirs = getattr(want, part).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in getattr(got, part).state_dict().items())


def test_a_text_encoder_in_training_is_verified_too(damaged):
    other_tokenizer(damaged)
    with pytest.raises(ValueError, match="tokenizer has 815 tokens"):
        open_text_encoder(damaged)


# --- LoRA -----------------------------------------------------------------------------------------------------------


def lora_of(pipe) -> dict[str, torch.Tensor]:
    """LoRA weights for every query of the denoiser, under diffusers' names: eight layers."""
    state = {}
    for name, layer in pipe.unet.named_modules():
        if name.endswith("to_q"):
            state[f"unet.{name}.lora_A.weight"] = torch.ones(2, layer.in_features)
            state[f"unet.{name}.lora_B.weight"] = torch.ones(layer.out_features, 2)
    return state


def test_a_lora_that_fits_changes_the_denoiser(tmp_path):
    pipe = pipeline()
    save_file(lora_of(pipe), tmp_path / LORA)
    Path(tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-7").symlink_to(tmp_path)
    found = find_lora(str(tmp_path / "run"), None)
    assert found == tmp_path / "run" / "checkpoint-7" / LORA
    add_lora(pipe, "x", found, 0.5)
    assert pipe.get_active_adapters() == ["lora"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unet.nowhere.to_q.lora_A.weight": (2, 8)}, "8 of its 9 layers fit, and not unet.nowhere.to_q"),
        ({"unet.conv_in.lora_A.weight": (2, 9), "unet.conv_in.lora_B.weight": (16, 2)}, "8 of its 9 layers fit"),
        ({"something": (2,)}, "8 of its 9 layers fit, and not something"),
    ],
    ids=["no such layer", "another shape", "no lora"],
)
def test_a_lora_of_which_a_part_does_not_fit_is_refused_whole(change, says, tmp_path):
    pipe = pipeline()
    save_file(lora_of(pipe) | {key: torch.ones(shape) for key, shape in change.items()}, tmp_path / LORA)
    with pytest.raises(ValueError, match=says):
        add_lora(pipe, "system", tmp_path / LORA, 1.0)
    assert not hasattr(pipe.unet, "peft_config")


def test_a_damaged_lora_is_named(tmp_path):
    (tmp_path / LORA).write_bytes(b"\x10\0\0\0\0\0\0\0nothing")
    with pytest.raises(ValueError, match=LORA):
        add_lora(pipeline(), "system", tmp_path / LORA, 1.0)
    save_file({key: value * torch.inf for key, value in lora_of(pipeline()).items()}, tmp_path / LORA)
    with pytest.raises(ValueError, match="not finite"):
        add_lora(pipeline(), "system", tmp_path / LORA, 1.0)


@pytest.mark.parametrize("size", [None, 0, "x", [8]])
def test_a_sample_size_that_is_none_is_an_error_of_the_config(size, damaged):
    told(UNET_CONFIG, sample_size=size)(damaged)
    with pytest.raises(ValueError, match=r"config\.json says sample_size"):
        AutoPipeline.from_pretrained(damaged)("a red cat")
