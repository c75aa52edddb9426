"""Image editing as a user types it: from another folder, and with mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_parts import SIDE, pipeline, unet
from PIL import Image

from t2i.cli import main
from t2i.data.toybox_v1 import Scene, Thing
from t2i.diffusion.grid_conditions import LabelMap, LowResolution, widen
from t2i.pipelines import (
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionLayoutPipeline,
    LatentDiffusionPipeline,
    LatentDiffusionUpscalePipeline,
)

SIZE = 8 * SIDE


@pytest.fixture(scope="module")
def pipe() -> LatentDiffusionPipeline:
    return pipeline()


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Scene((Thing("armchair", "avocado"),)).render(SIZE)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    white = np.zeros((SIZE, SIZE), np.uint8)
    white[20:40, 5:30] = 255
    return Image.fromarray(white)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images]).astype(int)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, image, mask) -> Path:
    """A separate working directory with an image and a mask."""
    monkeypatch.chdir(tmp_path)
    image.save("photo.png")
    mask.save("mask.png")
    return tmp_path


@pytest.fixture
def saved(pipe, elsewhere) -> list[str]:
    pipe.save_pretrained("system")
    return ["--pipeline", "system", "--num-inference-steps", "3"]


def test_edit_equals_image_to_image_and_records_its_settings(saved, pipe, image, capsys):
    main(
        [
            "edit",
            "photo.png",
            "a red cat",
            "--strength",
            "0.7",
            "--num-images",
            "2",
            "--seed",
            "4",
            "--out",
            "o/",
            *saved,
        ]
    )
    assert "o: 2 images in" in capsys.readouterr().out
    result = Image.open("o/a-red-cat-5.png")
    img2img = LatentDiffusionImg2ImgPipeline.from_pipe(pipe)
    alone = img2img("a red cat", image, 0.7, num_inference_steps=3, generator=seeded(5)).images[0]
    assert np.abs(pixels([result]) - pixels([alone])).max() <= 1
    made = result.text
    assert (made["image"], made["prompt"], made["seed"], made["system"]) == ("photo.png", "a red cat", "5", "system")
    assert json.loads(made["settings"]) == {"strength": 0.7, "num_inference_steps": 3}


def test_edit_without_a_prompt_makes_variations_on_a_sheet(saved, elsewhere):
    Image.new("RGB", (90, 50), "red").save("odd.jpg")
    main(["edit", "odd.jpg", "--image-size", str(SIZE), "--num-images", "2", "--out", "sheet.png", *saved])
    assert Image.open("sheet.png").text["prompt"] == ""


def test_inpaint_keeps_the_rest_of_the_image(saved, image, mask):
    main(["inpaint", "photo.png", "mask.png", "a red cat", "--num-images", "1", "--out", "o/", *saved])
    result = Image.open("o/a-red-cat-0.png")
    black = np.asarray(mask) == 0
    assert (np.asarray(result)[black] == np.asarray(image)[black]).all()
    assert result.text["mask"] == "mask.png"


def test_interpolate_numbers_its_images_and_ends_in_the_plain_ones(saved, pipe):
    main(["interpolate", "a red cat", "a blue car", "--num-images", "3", "--seeds", "3", "4", "--out", "way/", *saved])
    assert sorted(p.name for p in Path("way").iterdir()) == ["0.png", "1.png", "2.png"]
    plain = pipe("a blue car", num_inference_steps=3, generator=seeded(4)).images[0]
    last = Image.open("way/2.png")
    assert np.abs(pixels([last]) - pixels([plain])).max() <= 1
    assert (last.text["prompt"], last.text["seed"]) == ("a red cat | a blue car", "3 4")
    main(["interpolate", "a red cat", "--seeds", "3", "4", "--num-images", "2", "--out", "strip.png", *saved])
    assert Image.open("strip.png").width > 2 * 128


BAD_COMMANDS = [
    (["edit"], "give an image, as in: t2i edit photo.png"),
    (["edit", "nowhere.png"], "there is no image nowhere.png"),
    (["edit", "notes.txt"], "notes.txt is not an image that can be read"),
    (["edit", "photo.png", "x", "--strength", "2"], "--strength must lie in [0, 1]"),
    (["edit", "photo.png", "x", "--num-images", "0"], "--num-images must be at least 1"),
    (["edit", "photo.png", "x", "--seed", "-1"], "--seed must be at least 0"),
    (["edit", "photo.png", "x", "--image-size", "0"], "--image-size must be at least 1"),
    (["edit", "photo.png", "x", "--out", "x.gif"], "must end in .png"),
    (
        ["edit", "photo.png", "x", "--pipeline", "toybox/dalle"],
        "toybox/dalle holds a DallePipeline, which does not edit",
    ),
    (
        ["edit", "photo.png", "x", "--pipeline", "system", "--image-size", "20"],
        "photo.png of 20×20 is not divisible",
    ),
    (["edit", "photo.png", "x", "--pipeline", "system", "--scheduler", "eular"], "did you mean euler?"),
    (["inpaint", "photo.png"], "give a mask after the image"),
    (["inpaint", "photo.png", "photo.png", "x"], "photo.png has colours (mode RGB): save it in grey"),
    (["inpaint", "photo.png", "clear.png", "x"], "clear.png is transparent in places"),
    (
        ["inpaint", "photo.png", "small.png", "x", "--pipeline", "system"],
        "photo.png has 64×64 pixels and small.png has 8×8",
    ),
    (["interpolate"], "give one prompt or two"),
    (["interpolate", "a", "b", "c"], "give one prompt or two"),
    (["interpolate", "a"], "give a second prompt, or a second seed"),
    (["interpolate", "a", "b", "--num-images", "1"], "--num-images must be at least 2"),
    (["interpolate", "a", "b", "--seeds", "1", "2", "3"], "--seeds takes one number or two"),
    (["upscale", "photo.png"], "train it with `t2i train upscale-toybox`"),
    (["layout", "mask.png"], "train it with `t2i train layout-toybox`"),
]


@pytest.mark.parametrize(("args", "says"), BAD_COMMANDS, ids=lambda a: " ".join(a) if isinstance(a, list) else "")
def test_mistakes_at_the_command_line_end_in_one_clear_line(saved, elsewhere, args, says):
    Path("notes.txt").write_text("no image")
    Image.new("L", (8, 8)).save("small.png")
    Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 9)).save("clear.png")
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        main(args)
    line = str(exit_.value)
    assert line.startswith("error: ")
    assert says in line
    assert "\n" not in line
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "further", "says"),
    [
        (LatentDiffusionUpscalePipeline, LowResolution(4, 8).channels, "t2i upscale IMAGE --pipeline more"),
        (LatentDiffusionLayoutPipeline, LabelMap(3, 8).channels, "t2i layout MAP --pipeline more"),
    ],
    ids=["upscale", "layout"],
)
def test_a_pipeline_conditioned_on_more_than_a_prompt_names_its_command(pipe, elsewhere, kind, further, says):
    denoiser = unet()
    widen(denoiser, further)
    kind(**(pipe.components | {"unet": denoiser})).save_pretrained("more")
    for command in (
        ["generate", "x"],
        ["interpolate", "a", "b"],
        ["edit", "photo.png"],
        ["inpaint", "photo.png", "mask.png"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main([*command, "--pipeline", "more"])
        assert says in str(exit_.value)
