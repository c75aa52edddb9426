"""A LoRA at the command line: images generated with it, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from diffusion_parts import dit, pipeline, unet
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from t2i.cli import main
from t2i.pipelines import AutoPipeline
from t2i.pipelines.loading.auto import LORA

HOW = ["--num-inference-steps", "2", "--pipeline", "system"]


def save_lora(model, folder: Path, seed: int = 0) -> None:
    """As saved by `t2i train lora`, with weights that have an effect."""
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pipeline().save_pretrained(folder / "system")
    save_lora(unet(), folder / "run" / "latest")
    save_lora(wide(), folder / "other")
    nowhere = {"text_model.layers.0.lora.up.weight": torch.ones(4, 2), "unet.x.lora.up.weight": torch.ones(4, 2)}
    (folder / "words").mkdir()
    save_file(nowhere, folder / "words" / LORA)
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(folder / "photo.png")
    Image.fromarray(np.arange(64)[None].repeat(64, 0) < 32).save(folder / "mask.png")
    return folder


def wide():
    """A denoiser with matrices of other shapes."""
    config = dict(unet().config) | {"cross_attention_dim": 48, "block_out_channels": (24, 24)}
    return UNet2DConditionModel.from_config(config)


@pytest.fixture(autouse=True)
def elsewhere(saved, monkeypatch):
    monkeypatch.chdir(saved)


def drawn(command: list[str], out: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The first image that a command generates, and its file's metadata."""
    main([*command, *HOW, "--out", f"{out}/"])
    picture = Image.open(min(out.glob("*.png")))
    return np.asarray(picture).astype(int), picture.text


COMMANDS = [
    ["generate", "a red cat", "--num-images", "1"],
    ["edit", "photo.png", "a red cat", "--num-images", "1"],
    ["inpaint", "photo.png", "mask.png", "a red cat", "--num-images", "1"],
    ["interpolate", "a red cat", "a blue car", "--num-images", "2"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_a_lora_changes_images_unless_its_scale_is_0(command, tmp_path):
    plain, _ = drawn(command, tmp_path / "plain")
    taught, said = drawn([*command, "--lora", "run/latest"], tmp_path / "taught")
    none, _ = drawn([*command, "--lora", "run/latest", "--lora-scale", "0"], tmp_path / "none")
    assert np.abs(taught - plain).max() > 3
    assert np.abs(none - plain).max() <= 1
    assert json.loads(said["settings"])["lora"] == "run/latest"


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_command_generates_the_images_that_python_generates(scale, tmp_path):
    options = ["--lora", "run/latest", *(["--lora-scale", str(scale)] if scale != 1 else [])]
    got, _ = drawn([*COMMANDS[0], *options], tmp_path)
    pipe = AutoPipeline.from_pretrained("system")
    pipe.load_lora_weights("run/latest")
    pipe.fuse_lora(lora_scale=scale)
    pipe.set_progress_bar_config(disable=True)
    want = pipe("a red cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert np.abs(got - np.asarray(want).astype(int)).max() <= 1


MISTAKES = [
    (["generate", "x", "--pipeline", "run/latest"], "add --lora run/latest at the command line"),
    (["generate", "x", "--pipeline", "system", "--lora", "./nowhere"], "there is no LoRA in './nowhere'"),
    (["generate", "x", "--pipeline", "system", "--lora", "runs/nowhere"], "there is no LoRA in 'runs/nowhere'"),
    (["generate", "x", "--pipeline", "system", "--lora", "system"], "there is no LoRA in 'system'"),
    (["generate", "x", "--pipeline", "system", "--lora-scale", "2"], "--lora-scale has no effect without --lora"),
    (["generate", "x", "--pipeline", "toybox/dalle", "--lora", "run/latest"], "toybox/dalle takes no LoRA"),
    (["generate", "x", "--pipeline", "dit", "--lora", "run/latest"], "dit takes no LoRA"),
    (
        ["edit", "photo.png", "--pipeline", "system", "--lora", "other"],
        ".safetensors was not trained on system: 0 of its 32 layers fit",
    ),
    (
        ["edit", "photo.png", "--pipeline", "system", "--lora", "words"],
        ".safetensors was not trained on system: 0 of its 2 layers fit",
    ),
    (["interpolate", "a", "b", "--pipeline", "system", "--lora", "photo.png"], "photo.png"),
]


@pytest.mark.parametrize(("args", "says"), MISTAKES, ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_mistakes_end_in_one_clear_line(args, says, capfd):
    if "dit" in args and not Path("dit").exists():
        pipeline(denoiser=dit()).save_pretrained("dit")
    with pytest.raises(SystemExit) as exit_:
        main(args)
    line = str(exit_.value)
    assert line.startswith("error: ")
    assert says in line
    assert "\n" not in line
    assert len(line) < 500
    assert "size mismatch" not in capfd.readouterr().err


def test_a_folder_of_a_lora_is_no_pipeline_and_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"pipe.load_lora_weights\('run/latest'\) in Python"):
        AutoPipeline.from_pretrained("run/latest")
