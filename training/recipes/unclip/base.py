"""What the recipes of DALL·E 2 share: the frozen CLIP, cached image embeddings, held-out pairs and scores.

Shapes: B images or captions · N held-out pairs · D width of the embeddings · S image side
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from t2i.data.sources import Source
from t2i.data.toybox.dataset import SceneDataset
from t2i.folders import newest_in_run
from t2i.processes import this_process
from t2i.text.encoders import ClipTextEncoder
from t2i.text.pretrained import check_tokenizer, load
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.recipes.encodings import CachedEncodings, Encoding, cached_encodings
from t2i.training.recipes.text.base import NEW_SEED
from t2i.training.recipes.text.clip import EVALUATED, held_out_pairs
from t2i.unclip.clip import ClipText, embed_images, embed_text
from t2i.weights import digest

BINS = 10
FITTED = 1024  # images whose embeddings give mean, scale and components, where no embeddings are cached


@dataclass(frozen=True)
class FrozenClip:
    """A CLIP that is not trained, with what it reads texts and images by."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    processor: object

    @property
    def length(self) -> int:
        """Maximum number of tokens of a text, to which all are padded."""
        return ClipTextEncoder("the CLIP", self.model.text_model, self.tokenizer).length

    def to(self, device: torch.device) -> FrozenClip:
        if self.model.device != device:
            self.model.to(device)
        return self

    def embed_images(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> (B, D) on the device of the images"""
        return embed_images(self.to(images.device).model, self.processor, images)

    def embed_text(self, ids: Tensor, mask: Tensor) -> ClipText:
        """ids, mask (B, L) -> B captions"""
        return embed_text(self.to(ids.device).model, ids, mask)

    def texts(self, captions: list[str]) -> ClipText:
        """B captions, on the device of the model"""
        options = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        tokens = self.tokenizer(captions, **options).to(self.model.device)
        return self.embed_text(tokens["input_ids"], tokens["attention_mask"])


def load_clip(name: str) -> FrozenClip:
    """Open a CLIP. Raises FileNotFoundError or ValueError, with the command that trains one."""
    remedy = f"train one with: t2i train clip-toybox{' --preset tiny' if 'tiny' in name else ''}, and give its --clip"
    try:
        model = load(CLIPModel, name, "clip").eval().requires_grad_(False)
        tokenizer, processor = load(AutoTokenizer, name), load(AutoImageProcessor, name)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{name} is no CLIP of texts and images ({error}): {remedy}") from error
    check_tokenizer(tokenizer, model.text_model, newest_in_run(name, "tokenizer_config.json"))
    return FrozenClip(model, tokenizer, processor)


# --- embeddings of the data -----------------------------------------------------------------------------------------


def cached_embeddings(
    clip: FrozenClip, source: Source, data: DataConfig, loop: LoopConfig, folder: str | None, num: int
) -> CachedEncodings:
    """Items {"image_embeds": (D,), "text": str} of the source's first `num` images; see `cached_encodings`."""

    def encode(images: Tensor) -> Tensor:
        return clip.embed_images(images.to(device))[:, None]  # (B, 1, D)

    device = this_process().device
    encoding = Encoding("embeddings", ("image_embeds",), encode, np.float32, {"clip_sha256": digest(clip.model)})
    options = (loop.seed, num, loop.dataloader_num_workers, Path(loop.output_dir).parent)
    return cached_encodings(encoding, folder, source, data, *options)


def some_embeddings(clip: FrozenClip, source: Source) -> Tensor:
    """Embeddings of the first images, (N, D), or all that are cached, on the CPU."""
    if isinstance(source, CachedEncodings):
        return torch.from_numpy(np.array(source.encodings[:, 0]))
    images = (torch.from_numpy(source[i]["image"]) for i in range(min(FITTED, len(source))))
    return torch.cat([clip.embed_images(image[None].to(this_process().device)).cpu() for image in images])


class Joined:
    """Two sources of the same images and captions as one, with the entries of both."""

    def __init__(self, first: Source, second: Source):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return min(len(self.first), len(self.second))

    def __getitem__(self, index: int) -> dict:
        return self.first[index] | self.second[index]

    def captions(self, limit: int) -> Iterator[str]:
        return self.first.captions(min(limit, len(self)))

    def fingerprint(self) -> str:
        return self.first.fingerprint()


# --- held-out data --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Images and captions that are not trained on: from another toybox seed; of other data, the first ones.

    Attributes:
        images: uint8 (N, S, S, 3).
        again: for scenes of toybox, the images of the same captions with other places and shapes; else None.
    """

    images: Tensor
    captions: list[str]
    again: Tensor | None

    @classmethod
    def of(cls, source: Source, num: int = EVALUATED) -> HeldOut:
        images, captions = held_out_pairs(source)
        again = None
        if isinstance(source, SceneDataset):
            world = type(source)("train", source.size, NEW_SEED, len(images[:num]))
            scenes = (world.scene(i)[0] for i in range(len(world)))
            others = (dataclasses.replace(scene, jitter_seed=scene.jitter_seed + 1) for scene in scenes)
            again = torch.from_numpy(np.stack([np.array(scene.render(source.size)) for scene in others]))
        return cls(images[:num], captions[:num], again)


def cosine(first: Tensor, second: Tensor) -> float:
    """The mean cosine of the rows of (N, D) and (N, D)."""
    return F.cosine_similarity(first.float(), second.float(), dim=1).mean().item()


def by_timestep(loss: Callable[[Tensor], float], num: int, num_train_timesteps: int) -> list[float]:
    """The loss of `num` samples in each of ten bins of timesteps, from the least noise to the most.

    Args:
        loss: the mean loss at timesteps (num,), integers; the same noise every time.
    """
    places = (torch.arange(num) + 0.5) / num  # spread evenly over each bin
    bins = [((b + places) / BINS * num_train_timesteps).long() for b in range(BINS)]
    return [loss(timesteps) for timesteps in bins]


def print_scores(scores: dict) -> None:
    """Print the scores of a checkpoint, one line for each."""
    lines = [f"  {name}: {_written(value)}" for name, value in scores.items()]
    print("\n".join(["", "held-out scores", *lines]), flush=True)


def _written(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_written(one)}" for name, one in value.items())
    return " ".join(f"{one:.3f}" for one in value) if isinstance(value, list) else f"{value:.4f}"
