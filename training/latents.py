"""Latents of a data set's pictures, computed once and kept on disk.

A latent does not change while a denoiser learns, and the autoencoder costs about as much as the denoiser itself. A
folder of latents holds

    cache.json       what they were made from: autoencoder, the data's fingerprint, size, seed, number
    latents.npy      float16 (N, 2, C, h, w): mean and standard deviation of each picture's latents, scaled
    captions.jsonl   a JSON string for each picture
    manifest.json    sizes and digests of these files, which are compared whenever the folder is opened

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

from t2i.data.loading import load_batches
from t2i.data.sources import Source
from t2i.files import reserve, slug, sync, write_json, write_whole, writing
from t2i.images import to_tensor
from t2i.manifest import damage, write_manifest
from t2i.processes import this_process
from t2i.tokenizers.kl import posterior, stride_of
from t2i.training.config import DataConfig
from t2i.weights import digest

BATCH = 64  # pictures an encoder's pass
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
        """That of the data behind them."""
        return json.loads((self.folder / KEY).read_text())["data_sha256"]

    def __reduce__(self):
        return CachedLatents, (self.folder,)  # sent to another process by name: the array would go with it whole

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
    beside: Path | str = "runs",
) -> CachedLatents:
    """The latents of the source's first `num` pictures: those in `folder`, or new ones, written there.

    Args:
        folder: by default one in `beside` whose name ends in a digest of all that the latents are made from, so that
            other data, or changed images, have another.
        source: of pictures, as `open_source(data…, seed)` gives it.
        autoencoder: on the device that it is to run on.
        workers: processes that draw or read pictures, for each process of `accelerate launch`.

    Raises ValueError where the folder holds latents of another autoencoder, of other data, or of a version that noted
    less of them, or damaged ones, FileExistsError where it holds something else, and OSError where the disk is full.
    """
    key = cache_key(source, autoencoder, data, seed, num)
    folder = Path(folder) if folder is not None else Path(beside) / _name(key, data)
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
    # Not in mixed precision: these are what the decoder will be given.
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        q = posterior(autoencoder, to_tensor(images))
    return q.mean * autoencoder.config.scaling_factor, q.std * autoencoder.config.scaling_factor


def _check(folder: Path, key: dict) -> None:
    before, remedy = json.loads((folder / KEY).read_text()), "remove that folder, or give another one with --cache"
    changed = [name for name in key if name in before and before[name] != key[name]]
    if changed:
        changed = [f"{name}: {str(before[name])[:12]} -> {str(key[name])[:12]}" for name in changed]
        raise ValueError(f"the latents in {folder} are of something else ({'; '.join(changed)}); {remedy}")
    if unknown := [name for name in key if name not in before]:
        raise ValueError(
            f"the latents in {folder} were made by an earlier version, which did not note their {', '.join(unknown)}, "
            f"so that they may be of something else; {remedy}"
        )
    if what := damage(folder, resuming=True):
        raise ValueError(f"the latents in {folder} are damaged: {what}; {remedy}")


def _build(
    folder: Path, key: dict, source: Source, autoencoder: AutoencoderKL, workers: int, state: PartialState
) -> None:
    """Process r of n encodes every n-th batch; the first one makes the folder and gives it its name."""
    part, num = folder.with_name(f".{folder.name}.part"), key["num"]
    side = key["image_size"] // stride_of(autoencoder)
    shape = (num, 2, autoencoder.config.latent_channels, side, side)
    try:
        with writing(folder):
            if state.is_main_process:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                reserve(part / LATENTS, np.float16, shape)
            state.wait_for_everyone()
            _encode(part, key, source, autoencoder, workers, state)
            state.wait_for_everyone()
            if state.is_main_process:
                lines = "".join(json.dumps(text) + "\n" for text in source.captions(num))
                write_whole(part / CAPTIONS, lines)
                write_json(part / KEY, key)
                write_manifest(part)
                part.rename(folder)
                sync(folder.parent)
    except BaseException:  # also on Ctrl-C: leave no half-made folder behind
        if state.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        raise
    state.wait_for_everyone()


def _encode(
    part: Path, key: dict, source: Source, autoencoder: AutoencoderKL, workers: int, state: PartialState
) -> None:
    """This process's share of the latents."""
    num, found = key["num"], np.lib.format.open_memmap(part / LATENTS, mode="r+")
    own = [range(i, min(i + BATCH, num)) for i in range(state.process_index * BATCH, num, state.num_processes * BATCH)]
    pictures = load_batches(_Pictures(source), batch_sampler=own, num_workers=workers, generator=torch.Generator())
    bar = tqdm(total=num, unit=" images", desc="latents", disable=not state.is_main_process)
    for rows, images in zip(own, pictures, strict=True):
        both = torch.stack(latents_of(autoencoder, images.to(autoencoder.device)), 1)  # (B, 2, C, h, w)
        found[rows.start : rows.stop] = both.cpu().numpy().astype(np.float16)
        bar.update(min(len(rows) * state.num_processes, num - bar.n))
    bar.close()
    found.flush()


class _Pictures(Dataset):
    """The source's pictures alone: tensors uint8 (S, S, 3)."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.source[index]["image"])
