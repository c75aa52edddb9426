"""What the recipes of DALL·E 2 share: the frozen CLIP, cached image embeddings, and held-out images.

Shapes: B images or captions · N images of a source · D width of the embeddings · S image side
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
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
from t2i.unclip.clip import ClipText, embed_images, embed_text
from t2i.weights import digest

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


def stacked_images(items: Iterable[dict]) -> Tensor:
    """uint8 (N, S, S, 3)"""
    return torch.from_numpy(np.stack([item["image"] for item in items]))


def images_of_the_same_captions(source: Source) -> Tensor | None:
    """Of toybox's scenes, images with other places and shapes, uint8 (N, S, S, 3); of other data None."""
    if not isinstance(source, SceneDataset):
        return None
    scenes = (source.scene(i)[0] for i in range(len(source)))
    others = (dataclasses.replace(scene, jitter_seed=scene.jitter_seed + 1) for scene in scenes)
    return torch.from_numpy(np.stack([np.array(scene.render(source.size)) for scene in others]))
