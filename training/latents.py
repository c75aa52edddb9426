"""Latents of a data set's pictures, computed once and kept on disk.

A latent does not change while a denoiser learns, and the autoencoder costs about as much as the denoiser itself. A
folder of latents holds

    cache.json       what they were made from: autoencoder, data with a few pictures' digest, size, seed, number
    latents.npy      float16 (N, 2, C, h, w): mean and standard deviation of each picture's latents, scaled
    captions.jsonl   a JSON string for each picture

and is written whole: under a hidden name first, by all processes together, then renamed.

Shapes: N pictures · B batch · C channels · h, w sides of a latent · S image side
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from t2i.data.fingerprint import combine
from t2i.data.loading import load_batches
from t2i.data.sources import Source
from t2i.files import write_json, write_whole
from t2i.images import to_tensor
from t2i.processes import this_process
from t2i.tokenizers.kl import posterior, stride_of
from t2i.training.config import DataConfig
from t2i.weights import digest

BATCH = 64  # pictures an encoder's pass
SAMPLED_CAPTIONS = 1000  # by which data of one name are told from others
SAMPLED_PICTURES = 16  # and by which too, spread evenly
KEY, LATENTS, CAPTIONS = "cache.json", "latents.npy", "captions.jsonl"


class CachedLatents:
    """A source of items {"mean", "std": float16 (C, h, w), "text": str}, read from a folder as it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.texts = [json.loads(line) for line in (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()]
        self.latents = np.load(folder / LATENTS, mmap_mode="r")
        if len(self.latents) != len(self.texts):
            raise ValueError(f"{folder} has {len(self.latents)} latents but {len(self.texts)} captions; remove it")

    def __len__(self) -> int:
        return len(self.texts)

    def fingerprint(self) -> str:
        return combine((self.folder / KEY).read_text())

    def __reduce__(self):
        return CachedLatents, (self.folder,)  # sent to another process by name: the array would go with it whole

    def __getitem__(self, index: int) -> dict:
        mean, std = self.latents[index]
        return {"mean": mean, "std": std, "text": self.texts[index]}

    def captions(self, limit: int) -> Iterator[str]:
        return islice(self.texts, limit)


def cached_latents(
    folder: Path, source: Source, autoencoder: AutoencoderKL, data: DataConfig, seed: int, num: int, workers: int = 1
) -> CachedLatents:
    """The latents of the source's first `num` pictures: those in `folder`, or new ones, written there.

    Args:
        source: of pictures, as `open_source(data…, seed)` gives it.
        autoencoder: on the device that it is to run on.
        workers: processes that draw or read pictures, for each process of `accelerate launch`.

    Raises ValueError where the folder holds latents of another autoencoder, of other data, or of a version that noted
    less of them, and FileExistsError where it holds something else.
    """
    key = cache_key(source, autoencoder, data, seed, num)
    state = this_process()
    if (folder / KEY).is_file():
        _check(folder, key)
    elif folder.exists():
        raise FileExistsError(f"{folder} is there but holds no latents; give another folder with --cache")
    else:
        _build(folder, key, source, autoencoder, workers, state)
    return CachedLatents(folder)


def cache_key(source: Source, autoencoder: AutoencoderKL, data: DataConfig, seed: int, num: int) -> dict:
    """What the latents follow from, as plain data."""
    some, num = "\n".join(source.captions(SAMPLED_CAPTIONS)), min(num, len(source))
    pixels = hashlib.sha256()
    for i in np.linspace(0, num - 1, min(num, SAMPLED_PICTURES)).astype(int).tolist():
        pixels.update(source[i]["image"].tobytes())
    return {
        "autoencoder_sha256": digest(autoencoder),
        "scaling_factor": autoencoder.config.scaling_factor,
        "data": data.data,
        "image_column": data.image_column,
        "captions_sha256": hashlib.sha256(some.encode()).hexdigest(),
        "pixels_sha256": pixels.hexdigest(),
        "image_size": data.image_size,
        "seed": seed,
        "num": num,
    }


def latents_of(autoencoder: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (B, S, S, 3) -> mean and standard deviation of the scaled latents, float32 (B, C, h, w) each."""
    # Not in mixed precision: these are what the decoder will be given.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        q = posterior(autoencoder, to_tensor(images))
    return q.mean * autoencoder.config.scaling_factor, q.std * autoencoder.config.scaling_factor


def _check(folder: Path, key: dict) -> None:
    before, remedy = json.loads((folder / KEY).read_text()), "remove that folder, or give another one with --cache"
    changed = [f"{name}: {before[name]} -> {key[name]}" for name in key if name in before and before[name] != key[name]]
    if changed:
        raise ValueError(f"the latents in {folder} are of something else ({'; '.join(changed)}); {remedy}")
    if unknown := [name for name in key if name not in before]:
        raise ValueError(
            f"the latents in {folder} were made by an earlier version, which did not note their {', '.join(unknown)}, "
            f"so that they may be of something else; {remedy}"
        )


def _build(
    folder: Path, key: dict, source: Source, autoencoder: AutoencoderKL, workers: int, state: PartialState
) -> None:
    """Process r of n encodes every n-th batch; the first one makes the folder and gives it its name."""
    part, num = folder.with_name(f".{folder.name}.part"), key["num"]
    side = key["image_size"] // stride_of(autoencoder)
    shape = (num, 2, autoencoder.config.latent_channels, side, side)
    if state.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        np.lib.format.open_memmap(part / LATENTS, mode="w+", dtype=np.float16, shape=shape).flush()
    state.wait_for_everyone()
    found = np.lib.format.open_memmap(part / LATENTS, mode="r+")
    own = [range(i, min(i + BATCH, num)) for i in range(state.process_index * BATCH, num, state.num_processes * BATCH)]
    pictures = load_batches(_Pictures(source), batch_sampler=own, num_workers=workers, generator=torch.Generator())
    bar = tqdm(total=num, unit=" images", desc=f"latents → {folder}", disable=not state.is_main_process)
    for rows, images in zip(own, pictures, strict=True):
        both = torch.stack(latents_of(autoencoder, images.to(autoencoder.device)), 1)  # (B, 2, C, h, w)
        found[rows.start : rows.stop] = both.cpu().numpy().astype(np.float16)
        bar.update(min(len(rows) * state.num_processes, num - bar.n))
    bar.close()
    found.flush()
    state.wait_for_everyone()
    if state.is_main_process:
        lines = "".join(json.dumps(text) + "\n" for text in source.captions(num))
        write_whole(part / CAPTIONS, lines)
        write_json(part / KEY, key)
        part.rename(folder)
    state.wait_for_everyone()


class _Pictures(Dataset):
    """The source's pictures alone: tensors uint8 (S, S, 3)."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.source[index]["image"])
