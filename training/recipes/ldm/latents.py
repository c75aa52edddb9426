"""Latents of a dataset's images, computed once and cached on disk.

Latents do not change while a denoiser trains, and encoding costs about as much as the denoiser itself. The folder is a
cache (see `t2i.disk_cache`) of

    latents.npy      float16 (N, 2, C, h, w): mean and standard deviation of each image's latents, scaled
    captions.jsonl   one JSON string per image

Shapes: N images · B batch · C channels · h, w sides of a latent · S image side
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from t2i.data.loading import load_batches
from t2i.data.sources import Source
from t2i.disk_cache import KEY, batches_of_this_process, open_or_fill
from t2i.files import read_json, reserve, slug, write_whole
from t2i.images import to_tensor
from t2i.tokenizers.kl import posterior, stride_of
from t2i.training.config import DataConfig
from t2i.weights import digest

BATCH = 64  # images per forward pass of the encoder
LATENTS, CAPTIONS = "latents.npy", "captions.jsonl"


class CachedLatents:
    """A source of items {"mean", "std": float16 (C, h, w), "text": str}; the latents are memory-mapped."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.texts = [json.loads(line) for line in (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()]
        self.latents = np.load(folder / LATENTS, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        """The fingerprint of the data that the latents were computed from."""
        return read_json(self.folder / KEY)["data_sha256"]

    def __reduce__(self):
        return CachedLatents, (self.folder,)  # reopened: pickling the array would copy it

    def __getitem__(self, index: int) -> dict:
        mean, std = self.latents[index]
        return {"mean": mean, "std": std, "text": self.texts[index]}

    def captions(self, limit: int) -> Iterator[str]:
        return islice(self.texts, limit)


def cached_latents(
    folder: Path | str | None,
    source: Source,
    autoencoder: AutoencoderKL,
    data: DataConfig,
    seed: int,
    num: int,
    workers: int = 1,
    parent: Path | str = "runs",
) -> CachedLatents:
    """Latents of the source's first `num` images, from `folder` if it is there, else computed and written.

    Args:
        folder: default: one in `parent` whose name ends in a digest of everything that determines the latents, so that
            other data or changed images use a different folder.
        source: the images, as returned by `open_source(data…, seed)`.
        autoencoder: on the device to run on.
        workers: number of processes that render or read images, per process of `accelerate launch`.

    Raises as `disk_cache.open_or_fill` does.
    """
    key = cache_key(source, autoencoder, data, seed, num)
    folder = Path(folder) if folder is not None else Path(parent) / _name(key, data)
    fill = partial(_fill, key, source, autoencoder, workers)
    open_or_fill(folder, key, fill, "latents", "give another folder with --cache")
    return CachedLatents(folder)


def cache_key(source: Source, autoencoder: AutoencoderKL, data: DataConfig, seed: int, num: int) -> dict:
    """Everything that determines the latents, as plain data."""
    return {
        "autoencoder_sha256": digest(autoencoder),
        "scaling_factor": autoencoder.config.scaling_factor,
        "data_sha256": source.fingerprint(),
        "image_size": data.image_size,
        "seed": seed,
        "num": min(num, len(source)),
    }


def _name(key: dict, data: DataConfig) -> str:
    content = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"latents-{slug(Path(data.data).name) or 'data'}-{content[:12]}"


def latents_of(autoencoder: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (B, S, S, 3) -> mean and standard deviation of the scaled latents, float32 (B, C, h, w) each."""
    # Full precision, as the decoder expects.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        q = posterior(autoencoder, to_tensor(images))
    return q.mean * autoencoder.config.scaling_factor, q.std * autoencoder.config.scaling_factor


def _fill(key: dict, source: Source, autoencoder: AutoencoderKL, workers: int, part: Path, state: PartialState) -> None:
    num, side = key["num"], key["image_size"] // stride_of(autoencoder)
    if state.is_main_process:
        reserve(part / LATENTS, np.float16, (num, 2, autoencoder.config.latent_channels, side, side))
        write_whole(part / CAPTIONS, "".join(json.dumps(text) + "\n" for text in source.captions(num)))
    state.wait_for_everyone()
    latents = np.lib.format.open_memmap(part / LATENTS, mode="r+")
    rows = list(batches_of_this_process(num, BATCH, state))
    images = load_batches(_Images(source), batch_sampler=rows, num_workers=workers, generator=torch.Generator())
    bar = tqdm(total=num, unit=" images", desc="latents", disable=not state.is_main_process)
    for some, batch in zip(rows, images, strict=True):
        both = torch.stack(latents_of(autoencoder, batch.to(autoencoder.device)), 1)  # (B, 2, C, h, w)
        latents[some.start : some.stop] = both.cpu().numpy().astype(np.float16)
        bar.update(min(len(some) * state.num_processes, num - bar.n))
    bar.close()
    latents.flush()


class _Images(Dataset):
    """The source's images only: tensors uint8 (S, S, 3)."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.source[index]["image"])
