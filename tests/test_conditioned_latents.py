"""Super-resolution and images from label maps, on tiny real components."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import diffusion_parts as parts
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_training import losses
from torch.utils.data import default_collate

from t2i.cli import main
from t2i.data.sampling import NumberedSamples
from t2i.data.sources import WORLDS
from t2i.data.toybox import label_image
from t2i.data.toybox_v1 import LABELS, Scene, Thing, Toybox, export
from t2i.diffusion.grid_conditions import LabelMap, LowResolution, widen
from t2i.images import to_tensor
from t2i.pipelines import AutoPipeline, LatentDiffusionImg2ImgPipeline, LatentDiffusionPipeline
from t2i.pipelines import LatentDiffusionLayoutPipeline as FromMap
from t2i.pipelines import LatentDiffusionUpscalePipeline as Upscale
from t2i.training.cli import run
from t2i.training.recipes import RECIPES
from t2i.training.recipes.ldm.conditioned import ConditionedTask

SCENE = Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of", "meadow", 5)
OTHER = Scene((Thing("tree", "wood"),), jitter_seed=3)
BOTH = pytest.mark.parametrize("task", ["upscale", "layout"])


@pytest.fixture(scope="module")
def base() -> LatentDiffusionPipeline:
    return parts.pipeline()


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    base.save_pretrained(folder)
    return str(folder)


def condition_of(task: str) -> LowResolution | LabelMap:
    return LowResolution(4, 8) if task == "upscale" else LabelMap(len(LABELS), 8)


def made(base, task: str, scale: float = 0.3, denoiser=None) -> Upscale | FromMap:
    """The base's pipeline with a widened denoiser; `scale` is the scale of the new weights."""
    unet = denoiser or copy.deepcopy(base.unet)
    before = parts.CHANNELS * getattr(unet.config, "patch_size", 1) ** 2
    widen(unet, condition_of(task).channels)
    first = unet.patches if hasattr(unet, "patches") else unet.conv_in
    torch.manual_seed(9)
    with torch.no_grad():
        first.weight[:, before:].normal_(std=scale)
    extra = {"labels": list(LABELS)} if task == "layout" else {}
    pipe = (Upscale if task == "upscale" else FromMap)(**base.components | {"unet": unet}, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def given(task: str, scene: Scene = SCENE) -> Image.Image:
    return label_image(scene.layout(64)) if task == "layout" else scene.render(64).resize((16, 16))


def draw(pipe, *args, seeds=(0,), **how) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    return pipe(*args, num_inference_steps=3, output_type="latent", generator=generators, **how).images


# --- what lies on the grid ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_condition_preserves_every_pixel_of_the_low_resolution_image(factor):
    condition, pictures = LowResolution(factor, 8), torch.rand(2, 3, 64 // factor, 96 // factor) * 2 - 1
    grid = condition.grid(pictures)
    assert grid.shape == (2, condition.channels, 8, 12)
    assert torch.equal(F.pixel_shuffle(grid, 8 // factor), pictures)
    assert LowResolution.of(condition.channels, 8) == condition
    moved = pictures.clone()
    moved[0, :, -1, 0] = 0.5  # the lower left pixel affects the lower left latent only
    changed = (condition.grid(moved) != grid).any(1).nonzero()
    assert changed.tolist() == [[0, 7, 0]]


def test_a_map_becomes_each_latents_shares_of_labels():
    condition, maps = LabelMap(5, 8), torch.randint(5, (2, 32, 16))
    grid = condition.grid(maps)
    assert grid.shape == (2, 5, 4, 2)
    assert torch.allclose(grid.sum(1), torch.ones(2, 4, 2))
    block = maps[1, 8:16, 8:16]
    assert torch.allclose(grid[1, :, 1, 1], torch.bincount(block.flatten(), minlength=5) / 64)
    one = torch.full((1, 8, 8), 3)
    assert condition.grid(one).flatten().tolist() == [0, 0, 0, 1, 0]


# --- the pipelines --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_widened_denoiser_predicts_as_before(base, task, kind):
    denoiser = copy.deepcopy(base.unet) if kind == "unet" else parts.dit()
    plain = LatentDiffusionPipeline(**base.components | {"unet": copy.deepcopy(denoiser)})
    plain.set_progress_bar_config(disable=True)
    wide = made(base, task, scale=0.0, denoiser=denoiser)
    how = {"seeds": (1, 2), "guidance_scale": 3.0, "num_images_per_prompt": 2}
    assert torch.allclose(draw(wide, "a red cat", given(task), **how), draw(plain, "a red cat", **how), atol=1e-5)


@BOTH
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_condition_changes_its_image_only(base, task, kind):
    pipe = made(base, task, denoiser=copy.deepcopy(base.unet) if kind == "unet" else parts.dit())
    prompts, how = ["a red cat", "a tree"], {"guidance_scale": 3.0}
    pair = draw(pipe, prompts, [given(task), given(task, OTHER)], seeds=(1, 2), **how)
    exchanged = draw(pipe, prompts, [given(task), given(task)], seeds=(1, 2), **how)
    assert torch.allclose(pair[0], exchanged[0], atol=1e-5)
    assert (pair[1] - exchanged[1]).abs().max() > 1e-2
    alone = draw(pipe, prompts[1], given(task, OTHER), seeds=(2,), **how)
    assert torch.allclose(alone[0], pair[1], atol=1e-5)
    pipe.max_batch_bytes = 1  # one row per batch
    assert torch.allclose(draw(pipe, prompts, [given(task), given(task, OTHER)], seeds=(1, 2), **how), pair, atol=1e-5)


@BOTH
def test_the_prompt_and_the_negative_prompt_have_an_effect(base, task):
    pipe = made(base, task)
    red, blue = (draw(pipe, prompt, given(task), guidance_scale=3.0) for prompt in ("a red cat", "a blue car"))
    assert (red - blue).abs().max() > 1e-3
    against = draw(pipe, "a red cat", given(task), guidance_scale=3.0, negative_prompt="a blue car")
    assert (red - against).abs().max() > 1e-3


def test_upscaling_needs_no_prompt(base):
    pipe = made(base, "upscale")
    two = [given("upscale"), given("upscale", OTHER)]
    silent = draw(pipe, image=two, seeds=(1, 2))
    assert torch.equal(silent, draw(pipe, ["", ""], two, seeds=(1, 2), guidance_scale=1.0))
    assert pipe.factor == 4
    assert pipe(image=two[0], num_inference_steps=2).images[0].size == (64, 64)
    assert pipe(image=Image.new("RGB", (24, 8)), num_inference_steps=2).images[0].size == (96, 32)


@BOTH
def test_the_last_image_of_an_interpolation_is_that_of_its_second_prompt(base, task):
    pipe = made(base, task)
    how = {("image" if task == "upscale" else "layout"): given(task), "num_inference_steps": 3}
    way = pipe.interpolate(["a red cat", "a blue car"], [1, 2], 3, output_type="latent", guidance_scale=2.0, **how)
    last = draw(pipe, "a blue car", given(task), seeds=(2,), guidance_scale=2.0)
    assert torch.allclose(way[2], last[0], atol=1e-4)


@BOTH
def test_a_saved_folder_opens_as_what_it_was(base, task, tmp_path):
    pipe = made(base, task)
    pipe.save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(pipe)
    assert torch.equal(draw(again, "a red cat", given(task)), draw(pipe, "a red cat", given(task)))
    if task == "layout":
        assert again.labels == LABELS
    with pytest.raises(ValueError, match="belong to another pipeline class"):
        LatentDiffusionImg2ImgPipeline.from_pipe(again)


def test_bad_input_is_refused(base):
    for factor in (1, 3, 16):
        with pytest.raises(ValueError, match=r"factor must divide the autoencoder's stride 8 \(2, 4, 8\)"):
            LowResolution(factor, 8)
    with pytest.raises(ValueError, match="from 2 to 256 labels, not 1"):
        LabelMap(1, 8)
    up, layout = made(base, "upscale"), made(base, "layout")
    too_many = label_image(np.full((64, 64), 30))
    wrong = [
        (up, {"image": Image.new("RGB", (15, 16))}, "15×16 is not divisible by 2"),
        (up, {}, "image must be a PIL image"),
        (up, {"image": given("upscale"), "height": 128}, "instead of giving height"),
        (up, {"image": [given("upscale")] * 2, "prompt": "a cat"}, "there are 2 for 1"),
        (layout, {"prompt": "a cat"}, "layout must be a PIL image"),
        (layout, {"layout": given("layout")}, "give either prompt or prompt_embeds"),
        (layout, {"prompt": "a cat", "layout": SCENE.render(64)}, "mode P .* or L, not RGB"),
        (
            layout,
            {"prompt": "a cat", "layout": too_many},
            "label 30, but there are only 25, from 0 on: background, arm",
        ),
        (layout, {"prompt": "a cat", "layout": Image.new("L", (60, 64))}, "60×64 is not divisible by 8"),
        (layout, {"prompt": "a cat", "layout": torch.full((1, 64, 64), 25)}, "integers .* from 0 to 24"),
        (layout, {"prompt": "a cat", "layout": torch.zeros(1, 64, 64)}, "must be integers"),
    ]
    for pipe, how, says in wrong:
        with pytest.raises(ValueError, match=says):
            pipe(**how)
    with pytest.raises(ValueError, match="which fit no low-resolution image; train one with: t2i train upscale-toybox"):
        Upscale(**base.components)
    with pytest.raises(ValueError, match="which fit no label map; train one with: t2i train layout-toybox"):
        FromMap(**base.components)
    with pytest.raises(ValueError, match="takes 25 labels, but 2 have names"):
        FromMap(**layout.components, labels=["ground", "cat"])


# --- the recipes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(saved, monkeypatch):
    monkeypatch.setattr(ConditionedTask, "SHOWN", 2)

    def make(task: str, folder: Path, data: str = "toybox-v1", **options):
        tiny = RECIPES[f"{task}-toybox"]("tiny")
        own = {f.name for f in dataclasses.fields(tiny)} & options.keys()
        loop = {"max_train_steps": 4, "train_batch_size": 4, "checkpointing_steps": 2, "dataloader_num_workers": 0}
        loop |= {"lr_warmup_steps": 0} | {k: v for k, v in options.items() if k not in own}
        return dataclasses.replace(
            tiny,
            **{"init_from": saved} | {k: options[k] for k in own},
            data=dataclasses.replace(tiny.data, data=data),
            loop=dataclasses.replace(tiny.loop, output_dir=str(folder), report_to="none", **loop),
        )

    return make


def batch_of(stage, numbers: range) -> dict:
    samples = NumberedSamples(stage.source, stage.prepare, 0)
    return default_collate([samples[i] for i in numbers])


@BOTH
def test_a_run_starts_with_the_predictions_of_its_pipeline(recipe, base, task, tmp_path):
    stage = recipe(task, tmp_path).task()
    batch = batch_of(stage, range(4))
    plain = copy.deepcopy(base.unet)
    text = {k: v for k, v in batch.items() if k != "given"}
    wide = stage.loss(**batch)["loss"]
    stage.model, learning = plain, stage.model
    assert wide.item() == pytest.approx(super(type(stage).__mro__[1], stage).loss(**text)["loss"].item(), rel=1e-5)
    wide.backward()
    further = learning.conv_in.weight.grad[:, parts.CHANNELS :]
    assert further.abs().max() > 0  # the new input channels receive a gradient
    frozen = [*stage.autoencoder.parameters(), *stage.encoder.model.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


@pytest.fixture(scope="module")
def telling(tmp_path_factory) -> str:
    """A pipeline whose latents depend on the image; those of a random encoder hardly do."""
    vae, C = parts.autoencoder(), parts.CHANNELS
    pictures = torch.stack([torch.from_numpy(item["image"]) for item in Toybox(num=16)])
    with torch.no_grad():
        mean = vae.encode(to_tensor(pictures)).latent_dist.mean
        vae.quant_conv.weight[:C] /= mean.std((0, 2, 3)).view(-1, 1, 1, 1)
        vae.quant_conv.weight[C:], vae.quant_conv.bias[C:] = 0, -12  # almost no noise
    vae.register_to_config(scaling_factor=1.0)
    parts.pipeline(vae=vae).save_pretrained(folder := tmp_path_factory.mktemp("telling"))
    return str(folder)


@BOTH
def test_the_condition_lowers_the_loss(recipe, telling, task, tmp_path):
    """On unseen images, the right condition helps more than another image's."""
    stage = recipe(task, tmp_path, init_from=telling).task()
    optimizer = torch.optim.AdamW(stage.model.parameters(), 5e-3)
    for step in range(24):
        stage.loss(**batch_of(stage, range(16 * step, 16 * step + 16)))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    asked = batch_of(stage, range(5000, 5064))
    with torch.no_grad():
        right = stage.loss(**asked)["mse"]
        wrong = stage.loss(**asked | {"given": asked["given"].roll(1, 0)})["mse"]
    assert right < 0.995 * wrong


@BOTH
def test_a_resumed_run_is_one_that_never_stopped(recipe, task, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        run(recipe(task, folder))
    shutil.rmtree(halves / "checkpoint-4")  # as after a kill after the first checkpoint
    run(recipe(task, halves, resume="latest"))
    assert losses(halves) == losses(whole)
    weights = [p / "checkpoint-4" / "unet" / "diffusion_pytorch_model.safetensors" for p in (whole, halves)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (whole / "samples" / "step-000004.png").is_file()
    pipe = AutoPipeline.from_pretrained(whole / "latest")
    assert pipe("a red cat", given(task), num_inference_steps=2).images[0].size == (64, 64)
    with pytest.raises(ValueError, match="conditioned on text only"):
        recipe(task, tmp_path / "more", init_from=str(whole / "latest")).task()


def test_a_folder_of_images_trains_both_but_a_layout_needs_its_column(recipe, tmp_path):
    maps = export(tmp_path / "maps", 6, layouts=True)
    plain = export(tmp_path / "plain", 6)
    run(recipe("layout", tmp_path / "a", str(maps), max_train_steps=1, labels=("toybox-v1",)))
    run(recipe("upscale", tmp_path / "b", str(plain), max_train_steps=1, factor=8))
    assert AutoPipeline.from_pretrained(tmp_path / "b" / "latest").factor == 8
    with pytest.raises(ValueError, match=r"no column 'layout' of maps .* --layout-column"):
        recipe("layout", tmp_path / "c", str(plain), labels=("toybox-v1",)).task()
    with pytest.raises(ValueError, match="does not name its labels: give --labels"):
        recipe("layout", tmp_path / "c", str(maps))
    stage = recipe("layout", tmp_path / "c", str(maps), labels=("ground", "thing")).task()
    with pytest.raises(ValueError, match=r"image 0: the map holds label .* only 2, from 0 on: ground, thing"):
        stage.source[0]
    for wrong, says in (({"labels": ("cat", "cat")}, "each once"), ({"caption_dropout": 1.0}, "caption_dropout")):
        with pytest.raises(ValueError, match=says):
            recipe("layout", tmp_path, **wrong)
    with pytest.raises(ValueError, match="factor must divide"):
        recipe("upscale", tmp_path, factor=3).task()


def test_label_maps_are_of_the_data_they_are_trained_on(recipe, tmp_path):
    for world in ("toybox", "toybox-v1"):
        stage = recipe("layout", tmp_path / world, world).task()
        assert tuple(stage.pipeline().labels) == WORLDS[world].labels
        item = stage.source[0]
        kinds = {WORLDS[world].labels[label] for label in np.unique(item["layout"]) if label}
        assert kinds and kinds <= {thing.kind for thing in item["scene"].things}
    with pytest.raises(ValueError, match="labels of its own"):
        recipe("layout", tmp_path, "toybox", labels=("toybox-v1",)).task()


# --- the command line -----------------------------------------------------------------------------------------------


def test_upscale_and_layout_as_a_user_types_them(base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    up, layout = made(base, "upscale"), made(base, "layout")
    up.save_pretrained("up")
    layout.save_pretrained("layout")
    main(["data", "toybox-v1", "--num", "1", "--out", "boxes", "--workers", "1", "--layouts"])
    given("upscale").save("small.png")
    steps = ["--num-inference-steps", "3", "--num-images", "2"]
    main(["upscale", "small.png", "--pipeline", "up", "--seed", "4", "--out", "o/", *steps])
    drawn = Image.open("o/image-5.png")
    want = up(image=given("upscale"), num_inference_steps=3, generator=torch.Generator().manual_seed(5)).images[0]
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(want)).max() <= 1
    assert drawn.text["image"] == "small.png"
    mapped = "boxes/0000000.layout.png"
    main(["layout", mapped, "a red cat", "--pipeline", "layout", "--out", "o/", *steps])
    drawn = Image.open("o/a-red-cat-1.png")
    seeded = torch.Generator().manual_seed(1)
    want = layout("a red cat", Image.open(mapped), num_inference_steps=3, generator=seeded).images[0]
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(want)).max() <= 1
    assert drawn.text["map"] == mapped
    main(["layout", mapped, "--image-size", "32", "--pipeline", "layout", "--out", "sheet.png", *steps])
    for args, says in (
        (["upscale"], "give an image, as in: t2i upscale small.png"),
        (["layout"], "give a label map, as in: t2i layout map.png"),
        (["upscale", "small.png", "--pipeline", "layout"], "holds a LatentDiffusionLayoutPipeline, which does not ups"),
        (["layout", mapped, "--pipeline", "up"], "t2i train layout-toybox"),
        (["layout", "small.png", "--pipeline", "layout"], "mode P (with a palette) or L, not RGB"),
        (["upscale", "small.png", "--pipeline", "nowhere"], "there is no pipeline 'nowhere'"),
        (
            ["edit", "small.png", "--pipeline", "up"],
            "generates from a low-resolution image: t2i upscale IMAGE --pipeline up",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(args)
        assert says in str(exit_.value)
        assert "\n" not in str(exit_.value)
