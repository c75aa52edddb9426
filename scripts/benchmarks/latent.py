"""Latent diffusion: sampling compared with diffusers' StableDiffusionPipeline, training with a plain loop.

Both sides load the same folder, hence the same weights.

Shapes: B batch · S image side · C, h, w latent · L text positions
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel, compute_snr
from diffusers.utils import logging
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.timing import Benchmark, Row, Timed, clock, compare
from t2i.checks import UsageError
from t2i.data.fingerprint import combine
from t2i.data.toybox_v1 import Toybox
from t2i.diffusion.schedulers import make_scheduler
from t2i.pipelines import AutoPipeline, LatentDiffusionPipeline
from t2i.text.clip import train_clip_tokenizer
from t2i.training.config import LoopConfig
from t2i.training.loop import train
from t2i.training.recipes.ldm.denoiser import LDMRecipe, LDMTask, make_denoiser
from t2i.training.recipes.ldm.kl import kl_toybox
from t2i.training.recipes.text.clip import clip_toybox

FULL = {"torch_dtype": torch.float32}  # whatever the files' dtype
AGREE = 1e-3  # tolerance for latents of standard deviation 1 or more: rounding over all steps of a sampler


@dataclass(frozen=True)
class Latent(Benchmark):
    """Latent diffusion: sampling compared with diffusers' pipeline, training with a plain loop of the same network.

    Args:
        pipeline: folder of a pipeline with a U-Net and CLIP; default: one with random weights and the recipe's sizes.
        batches: batch sizes, one row of the table each.
        steps: number of DPM-Solver++ steps.
        guidance_scale: guidance scale; 1 means no guidance.
        train_batch: batch size in training.
        train_steps: number of timed training steps; 0 skips training.
    """

    pipeline: Path | None = None
    batches: tuple[int, ...] = (1, 4, 16)
    steps: int = 20
    guidance_scale: float = 3.0
    train_batch: int = 32
    train_steps: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.train_batch < 1 or any(b < 1 for b in self.batches) or self.train_steps < 0:
            raise UsageError("--steps, --batches and --train-batch must be at least 1, --train-steps at least 0")
        if self.pipeline is not None and not (self.pipeline / "model_index.json").is_file():
            raise UsageError(f"{self.pipeline} is not a pipeline: it has no model_index.json")

    def run(self) -> list[Row]:
        logging.disable_progress_bar()
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.pipeline
            if folder is None:
                random_pipeline(folder := Path(scratch) / "pipeline")
            rows = sampling(self, folder)
            return rows + (training(self, folder, Path(scratch)) if self.train_steps else [])


def random_pipeline(folder: Path) -> None:
    """Save a pipeline with random weights and the sizes that the recipes train."""
    torch.manual_seed(0)
    clip, recipe = clip_toybox(), LDMRecipe()
    sizes = clip.model
    tokenizer = train_clip_tokenizer(Toybox(num=500).captions(500), clip.vocab_size, clip.text_length)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        max_position_embeddings=clip.text_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kl, size = kl_toybox().model, recipe.data.image_size
    vae = kl.build(image_size=size)
    unet = make_denoiser(recipe.model, kl.latent_channels, size // 2 ** (len(kl.channels) - 1), sizes.text_width)
    parts = vae, CLIPTextModel(config), tokenizer, unet, recipe.objective().scheduler()
    LatentDiffusionPipeline(*parts).save_pretrained(folder)


# ------------------------------------------------------------------------------------------------------------ sampling


def sampling(o: Latent, folder: Path) -> list[Row]:
    ours, theirs = AutoPipeline.from_pretrained(folder), their_pipeline(folder)
    for pipe in (ours, theirs):
        pipe.scheduler = make_scheduler("dpm++", pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": o.steps, "guidance_scale": o.guidance_scale}
    rows = []
    for batch in o.batches:
        prompts = list(Toybox(num=batch).captions(batch))

        def generate(pipe, prompts=prompts, **more):
            generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
            return pipe(prompts, generator=generators, **how, **more).images

        _check(generate(ours, output_type="latent"), generate(theirs, output_type="latent"))
        mine, others = (
            clock(lambda generate=generate: generate(ours)),
            clock(lambda generate=generate: generate(theirs)),
        )
        work = f"{batch} images of {ours.image_size}, {o.steps} steps of DPM++, guidance {o.guidance_scale:g}"
        rows.append(compare(work, mine, {_peer("StableDiffusionPipeline"): others}, o.repeats))
    return rows


def their_pipeline(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, **FULL)


def _check(ours: Tensor, theirs: Tensor) -> None:
    """Raise if the results differ: a wrong result has no valid timing."""
    if not torch.allclose(ours, theirs, atol=AGREE, rtol=AGREE):
        raise RuntimeError(f"diffusers generates something else: latents differ by {(ours - theirs).abs().max():.2g}")


def _peer(what: str) -> str:
    return f"diffusers {diffusers.__version__} {what}"


# ------------------------------------------------------------------------------------------------------------ training
# Timed from the start of a step to the start of one `train_steps` later, on both sides, so that start-up, checkpoints
# and previews are excluded.


class RenderedImages:
    """A few toybox images, rendered in advance."""

    def __init__(self, num: int, size: int):
        self.items = list(itertools.islice(Toybox(size=size, num=num), num))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]

    def captions(self, limit: int) -> Iterator[str]:
        return (item["text"] for item in self.items[:limit])

    def fingerprint(self) -> str:
        return combine(*(item["image"].tobytes() for item in self.items))


class TimedTask(LDMTask):
    """The recipe's task on given images or on its own cache; records when each step began."""

    def __init__(self, recipe: LDMRecipe, folder: Path, images: RenderedImages | None):
        self.begun: list[float] = []
        super().__init__(recipe)
        self.model = _unet(folder).to(memory_format=torch.channels_last)
        self.model.set_attn_processor(AttnProcessor())  # on a CPU, as in make_denoiser
        self.source = images or self.source

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        self.begun.append(time.perf_counter())
        return super().loss(**batch)

    def preview(self) -> Image.Image:
        return Image.new("RGB", (8, 8))

    def save(self, folder: Path) -> None:
        """Nothing: saving is not timed."""


def training(o: Latent, folder: Path, scratch: Path) -> list[Row]:
    pipe = their_pipeline(folder)
    size = pipe.unet.config.sample_size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    images, recipe = RenderedImages(4 * o.train_batch, size), _recipe(o, folder, size)
    cached = dataclasses.replace(recipe, cache=str(scratch / "latents"), cached_images=len(images.items))
    peer = {_peer("plain loop"): lambda: plain_loop(o, folder, images, recipe)}
    work = f"{o.train_steps} training steps of {o.train_batch} images of {size}"
    return [
        compare(f"{work}, from images", _our_loop(recipe, folder, images), peer, o.repeats),
        compare(f"{work}, latents and text cached", _our_loop(cached, folder, None), peer, o.repeats),
    ]


def _recipe(o: Latent, folder: Path, size: int) -> LDMRecipe:
    recipe = LDMRecipe(autoencoder=str(folder / "vae"), text_encoder=str(folder), cache="none")
    steps = {"max_train_steps": o.train_steps + 1, "train_batch_size": o.train_batch, "lr_warmup_steps": 0}
    loop = LoopConfig(**steps, checkpointing_steps=10**9, dataloader_num_workers=0, report_to="none")
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, image_size=size), loop=loop)


def _our_loop(recipe: LDMRecipe, folder: Path, images: RenderedImages | None) -> Timed:
    def timed() -> float:
        with tempfile.TemporaryDirectory() as run:
            task = TimedTask(recipe, folder, images)
            train(task, dataclasses.replace(recipe.loop, output_dir=run), {})
        return task.begun[-1] - task.begun[0]

    return timed


def plain_loop(o: Latent, folder: Path, images: RenderedImages, recipe: LDMRecipe) -> float:
    """The loop of diffusers' train_text_to_image.py with --use_ema and --snr_gamma; returns its seconds."""
    vae, unet = AutoencoderKL.from_pretrained(folder / "vae", **FULL), _unet(folder)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    for frozen in (vae, text_encoder):
        frozen.eval().requires_grad_(False)
    unet.train()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    optimizer = torch.optim.AdamW(unet.parameters(), recipe.loop.learning_rate)
    ema = EMAModel(unet.parameters(), recipe.loop.ema_decay)
    pixels = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])

    def collate(items: list[dict]) -> tuple[Tensor, Tensor]:
        texts = [item["text"] for item in items]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return torch.stack([pixels(item["image"]) for item in items]), ids

    loader = DataLoader(images, o.train_batch, shuffle=True, collate_fn=collate)
    batches, begun = itertools.chain.from_iterable(itertools.repeat(loader)), []
    for images, ids in itertools.islice(batches, o.train_steps + 1):
        begun.append(time.perf_counter())
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
            states = text_encoder(ids)[0]  # (B, L, D)
        noise = torch.randn_like(latents)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(latents),))
        prediction = unet(scheduler.add_noise(latents, noise, t), t, states, return_dict=False)[0]
        target = scheduler.get_velocity(latents, noise, t)
        snr = compute_snr(scheduler, t)
        weights = snr.clamp(max=recipe.min_snr_gamma) / (snr + 1)
        loss = (F.mse_loss(prediction.float(), target.float(), reduction="none").mean((1, 2, 3)) * weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), recipe.loop.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        if not np.isfinite(loss.item()):
            raise RuntimeError(f"the plain loop's loss is {loss.item()}")
    return begun[-1] - begun[0]


def _unet(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder / "unet", **FULL)
