"""Regenerate the images of the documentation: `python scripts/make_figures.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from t2i.arguments import parse
from t2i.checks import UsageError, check_choice
from t2i.cli_errors import exit_on_bad_input
from t2i.contact_sheet import contact_sheet
from t2i.data.domains import Unpaired
from t2i.data.sources import open_source
from t2i.data.toybox import label_image
from t2i.data.toybox_v1 import Scene, Thing, Toybox
from t2i.images import to_pil, to_tensor
from t2i.models import load_pretrained
from t2i.models.adversarial.cyclegan import CycleGAN
from t2i.pipelines import (
    AutoPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionPipeline,
)
from t2i.pipelines.commands.generate import Generate, generate
from t2i.runs import RECIPE_FILE
from t2i.tokenizers.auto import open_image_tokenizer
from t2i.training.previews import reconstructions

DOCS = Path(__file__).parent.parent / "docs"
PROMPTS = (
    "an avocado armchair",  # the first six are held-out pairs
    "a zebra cactus",
    "a leopard robot",
    "a watermelon car",
    "a cat made of wood",
    "a starry night backpack",
    "a red cat on top of a blue car",
    "a black apple and a green backpack",
    "three polka dot mushrooms",
)
GIVEN = Scene((Thing("cat", "red"), Thing("car", "blue")), "on top of", background="studio")
GALLERY_SEEDS = 2  # images per prompt
ROW = 6  # images per task
BLOCKS = ("gated", "vae", "hvae", "iwae", "nice", "realnvp", "glow")
SAMPLES = 12  # per unconditional model


@dataclass(frozen=True)
class MakeFigures:
    systems: tuple[str, ...] = ("toybox/dalle", "toybox/ldm")
    """Systems to show in the gallery, one above the other."""
    edit: str = "toybox/ldm"
    """Latent diffusion pipeline for image editing."""
    upscale: str = "runs/upscale-toybox/latest"
    """Folder of a run of `t2i train upscale-toybox`; if missing, its row is omitted, as for the next one."""
    layout: str = "runs/layout-toybox/latest"
    blocks: tuple[str, ...] = (*(f"runs/mnist-{name}" for name in BLOCKS), "runs/toybox-gan")
    """Runs of unconditional models; each existing one has a row of samples."""
    translate: str = "runs/toybox-cyclegan"
    """Folder of a run of `t2i train cyclegan`."""
    only: tuple[str, ...] = ()
    """Which sheets to make: toybox, tokenizer, gallery, tasks or blocks; default: all."""


def main(args: list[str]) -> None:
    ask = parse(MakeFigures(), args, prog="make_figures.py", description=__doc__)
    DOCS.mkdir(exist_ok=True)
    sheets = {"toybox": toybox, "gallery": lambda: gallery(ask.systems), "tasks": lambda: tasks(ask)}
    sheets |= {"tokenizer": tokenizer, "blocks": lambda: blocks(ask)}
    for name in ask.only:
        check_choice("sheet", name, sheets)
    for name in ask.only or sheets:
        sheets[name]().save(path := DOCS / f"{name}.png", optimize=True)
        print(path)


def toybox() -> Image.Image:
    scenes = [Toybox(num=24, seed=1)[i] for i in range(24)]
    return contact_sheet([s["scene"].render(128) for s in scenes], [s["text"] for s in scenes], columns=8, max_lines=3)


def tokenizer() -> Image.Image:
    """New images of toybox, not selected, and their reconstructions by the embedded image tokenizer."""
    return reconstructions(open_source("toybox", 128, seed=1), open_image_tokenizer("toybox/vqgan").reconstruct)


def gallery(systems: tuple[str, ...]) -> Image.Image:
    """One row for each of the first seeds (not selected), from each system."""
    rows = []
    for name in systems:
        images = generate(quiet(name), Generate(prompts=PROMPTS, num_images=GALLERY_SEEDS))  # one prompt's together
        for seed in range(GALLERY_SEEDS):
            labels = PROMPTS if seed == GALLERY_SEEDS - 1 else [""] * len(PROMPTS)  # under the last row
            sheet = contact_sheet(images[seed::GALLERY_SEEDS], labels, columns=len(PROMPTS), cell=104)
            rows.append(("" if seed else name, sheet))
    return page(rows)


def tasks(ask: MakeFigures) -> Image.Image:
    """One row for each task of latent diffusion, with an image, a mask, two prompts or a label map."""
    pipe = quiet(ask.edit)
    blocks = [
        ("image to image, by strength", image_to_image(pipe)),
        ("variations", variations(pipe)),
        ("inpainting", inpainting(pipe)),
        ("from one prompt to another", interpolation(pipe)),
    ]
    for title, folder, make in (
        ("super-resolution, four times", ask.upscale, upscaling),
        ("from a label map", ask.layout, from_map),
    ):
        if Path(folder).exists():
            blocks.append((title, make(quiet(folder))))
    return page(blocks)


def image_to_image(pipe: LatentDiffusionPipeline) -> Image.Image:
    prompt, strengths = "a yellow cat on top of a brick house", (0.3, 0.5, 0.6, 0.7, 0.9)
    edit, given = LatentDiffusionImg2ImgPipeline.from_pipe(pipe), GIVEN.render(pipe.image_size)
    images = [edit(prompt, given, strength, generator=seeded(1)).images[0] for strength in strengths]
    return row([given, *images], ["given", *(f"{prompt} · {strength}" for strength in strengths)])


def variations(pipe: LatentDiffusionPipeline) -> Image.Image:
    given = GIVEN.render(pipe.image_size)
    images = LatentDiffusionImg2ImgPipeline.from_pipe(pipe).variations(given, ROW - 1, 0.6, GIVEN.caption())
    return row([given, *images], ["given", *[""] * len(images)])


def inpainting(pipe: LatentDiffusionPipeline) -> Image.Image:
    given, side = GIVEN.render(pipe.image_size), pipe.image_size
    mask = np.zeros((side, side), np.uint8)
    mask[: side * 9 // 16] = 255
    prompts = [f"{thing} on top of a blue car" for thing in ("a green teapot", "a zebra horse", "an avocado cat")]
    prompts.append("a pink robot on top of a blue car")
    repaint = LatentDiffusionInpaintPipeline.from_pipe(pipe)
    images = repaint(prompts, given, Image.fromarray(mask), generator=seeded(len(prompts))).images
    return row([given, Image.fromarray(mask).convert("RGB"), *images], ["given", "where to repaint", *prompts])


def interpolation(pipe: LatentDiffusionPipeline) -> Image.Image:
    ends = "a red apple", "a blue teapot"
    return row(pipe.interpolate(ends, seeds=0, num=ROW), [ends[0], *[""] * (ROW - 2), ends[1]])


def upscaling(pipe) -> Image.Image:
    large = [Toybox(num=4, seed=3)[i]["scene"].render(pipe.image_size) for i in range(2)]
    small = [image.resize([pipe.image_size // pipe.factor] * 2, Image.Resampling.BOX) for image in large]
    images = pipe(image=small, generator=seeded(len(small))).images
    names = ["input", "generated", "original"]
    return row([i for triple in zip(small, images, large, strict=True) for i in triple], names * len(small))


def from_map(pipe) -> Image.Image:
    labels = GIVEN.layout(pipe.image_size)
    prompts = ["a red cat on top of a blue car", "a zebra cat on top of a pink car", "a cat on top of a car"]
    prompts += ["a yellow cat on top of a brick car", "a cat made of wood on top of a watermelon car"]
    images = pipe(prompts, label_image(labels), generator=seeded(len(prompts))).images
    return row([label_image(labels).convert("RGB"), *images], ["given", *prompts])


def blocks(ask: MakeFigures) -> Image.Image:
    """Samples of each run, and a CycleGAN's translations of images, and their reconstructions."""
    rows = [(Path(run).name, samples(run)) for run in ask.blocks if Path(run).exists()]
    if Path(ask.translate).exists():
        rows.append((Path(ask.translate).name, translations(Path(ask.translate))))
    if not rows:
        raise UsageError("there are no runs to show: see --blocks")
    return page(rows)


def samples(run: str) -> Image.Image:
    model = load_pretrained(run)
    labels = torch.arange(SAMPLES) % model.num_classes if model.conditional else None
    return strip(model.sample(SAMPLES, labels, seeded(SAMPLES)))


def translations(run: Path) -> Image.Image:
    """Rows: images of one domain, translated to the other, and back."""
    recipe = json.loads((run / RECIPE_FILE).read_text())
    domains = Unpaired(recipe["domain_a"], recipe["domain_b"], recipe["image_size"], recipe["seed"])
    model = CycleGAN.from_pretrained(run / "latest").eval()
    given = torch.from_numpy(np.stack([domains.a[len(domains) - 1 - i]["image"] for i in range(SAMPLES)]))
    with torch.no_grad():
        made = model.translate(to_tensor(given), "b")
        back = model.translate(made, "a")
    return strip(torch.cat([to_tensor(given), made, back]))


def strip(images: torch.Tensor) -> Image.Image:
    """(n, C, S, S) in [-1, 1], grey or RGB -> a sheet with SAMPLES per row"""
    shown = to_pil(images.float().expand(-1, 3, -1, -1))
    return contact_sheet(shown, [""] * len(shown), columns=SAMPLES, cell=64)


def row(images: list[Image.Image], labels: list[str]) -> Image.Image:
    return contact_sheet(images, labels, columns=ROW, cell=128, max_lines=3)


def seeded(num: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(num)]


def quiet(name: str):
    pipe = AutoPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def page(blocks: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Images stacked vertically, each under its title, if any."""
    heads = [30 if title else 0 for title, _ in blocks]
    height = sum(heads) + sum(block.height for _, block in blocks)
    whole = Image.new("RGB", (max(block.width for _, block in blocks), height), "white")
    y, draw, font = 0, ImageDraw.Draw(whole), ImageFont.load_default(18)
    for head, (title, block) in zip(heads, blocks, strict=True):
        draw.text((12, y + 8), title, fill=(52, 50, 58), font=font)
        whole.paste(block, (0, y + head))
        y += head + block.height
    return whole


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
