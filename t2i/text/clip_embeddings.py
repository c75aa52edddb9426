"""Embeddings of images and texts by pretrained CLIPs, through transformers or open_clip, with one interface.

Each model is used with its own preprocessing. Embeddings are float32, and not normalised.

Shapes: N images or texts · H × W pixels · S side of the network's input · D dimensions of the joint space
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from t2i.folders import newest_in_run
from t2i.text.pretrained import load, open_open_clip
from t2i.weights import digest, tokenizer_digest

TEXTS = 256  # batch size


class TransformersClip:
    """CLIP (Radford et al. 2021, arXiv 2103.00020) in transformers.

    Args:
        source: a folder written by save_pretrained, a run of `t2i train clip-toybox`, or a model on the Hub.

    Raises FileNotFoundError or ValueError if `source` is not such a model.
    """

    def __init__(self, source: str, device: str | torch.device = "cpu"):
        from transformers import AutoImageProcessor, CLIPModel

        self.source, self.device = source, torch.device(device)
        self.model = load(CLIPModel, source, "clip").eval().requires_grad_(False).to(device)
        self.processor = load(AutoImageProcessor, source)
        self.dim, self.size = self.model.config.projection_dim, self.model.config.vision_config.image_size

    @cached_property
    def tokenizer(self):  # deferred: not needed for images
        from transformers import AutoTokenizer

        return load(AutoTokenizer, self.source)

    def fingerprint(self) -> str:
        """SHA-256 of all that determines the embeddings: weights, tokenizer, preprocessing."""
        return _hash(digest(self.model), tokenizer_digest(self.tokenizer), self.processor.to_json_string())

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) on the CPU -> float32 (N, 3, S, S)"""
        return self.processor(images=list(images), return_tensors="pt")["pixel_values"]

    def embed_images(self, prepared: Tensor) -> Tensor:
        """(N, 3, S, S) on `device` -> (N, D)"""
        return self.model.visual_projection(self.model.vision_model(prepared).pooler_output)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 (N, D) on the CPU. Longer ones are truncated to the context; the end token is kept."""
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        for some in _chunks(texts):
            tokens = self.tokenizer(some, padding=True, truncation=True, max_length=length, return_tensors="pt")
            pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
            parts.append(self.model.text_projection(pooled).float().cpu())
        return torch.cat(parts)


class OpenClip:
    """A CLIP model of open_clip (Ilharco et al. 2021, doi 10.5281/zenodo.5143773).

    Args:
        source: "ARCH/PRETRAINED" with one of open_clip's tags ("ViT-B-32/openai"), "ARCH//path/to/file", or
            "hf-hub:OWNER/NAME".

    Raises ValueError for models unknown to open_clip, FileNotFoundError if the file is missing.
    """

    def __init__(self, source: str, device: str | torch.device = "cpu"):
        model, self.transform, self.arch = open_open_clip(source)
        self.device, self._tokenizer = torch.device(device), None
        self.model = model.eval().requires_grad_(False).to(device)
        with torch.no_grad():
            blank = self.transform(Image.new("RGB", (8, 8)))[None]
            self.dim = self.model.encode_image(blank.to(device)).shape[1]  # the attribute's name depends on the class
        self.size = blank.shape[-1]

    def fingerprint(self) -> str:
        """SHA-256 of all that determines the embeddings: weights, architecture with its tokenizer, preprocessing."""
        return _hash(digest(self.model), self.arch, str(self.transform))

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) on the CPU -> float32 (N, 3, S, S)"""
        rows = images.permute(0, 2, 3, 1).numpy()
        return torch.stack([self.transform(Image.fromarray(row)) for row in rows])

    def embed_images(self, prepared: Tensor) -> Tensor:
        """(N, 3, S, S) on `device` -> (N, D)"""
        return self.model.encode_image(prepared)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 (N, D) on the CPU. Longer ones are truncated to the context; the end token is kept."""
        if self._tokenizer is None:
            import open_clip

            self._tokenizer = open_clip.get_tokenizer(self.arch)
        parts = [self.model.encode_text(self._tokenizer(some).to(self.device)) for some in _chunks(texts)]
        return torch.cat(parts).float().cpu()


Clip = TransformersClip | OpenClip


def open_clip_model(name: str, device: str = "cpu") -> Clip:
    """The CLIP called `name`, opened once for all calls; of a run, its newest checkpoint at each call.

    Args:
        name: the folder or Hub id of a CLIP of transformers, or "open_clip:ARCH/PRETRAINED". As in `t2i eval`, "clip:"
            may precede a folder or Hub id.

    Raises FileNotFoundError, with the remedy, for a CLIP that is not there, and ValueError for anything else.
    """
    library, _, source = name.partition(":")
    if library not in ("clip", "open_clip"):
        library, source = "clip", name
    if library == "open_clip":
        return _opened(OpenClip, source, device)
    try:
        newest = newest_in_run(source, "config.json")
        return _opened(TransformersClip, str(newest.resolve() if newest.is_dir() else source), device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no CLIP: {error}; t2i train clip-toybox trains one, and open_clip's are named "
            "open_clip:ARCH/PRETRAINED"
        ) from error


@lru_cache(maxsize=2)
def _opened(cls: type[TransformersClip] | type[OpenClip], source: str, device: str) -> Clip:
    return cls(source, device)


@torch.no_grad()
def cosines(clip: Clip, images: Tensor, texts: Sequence[Sequence[str]]) -> Tensor:
    """The cosines of images and texts, those of the first image first: float32 (T,) on the CPU.

    Args:
        images: uint8 (N, H, W, 3) on the CPU.
        texts: of each image its texts, T of all images.
    """
    flat = list(chain.from_iterable(texts))
    if not flat:
        return torch.zeros(0)
    distinct = {text: i for i, text in enumerate(dict.fromkeys(flat))}
    of_texts = clip.embed_texts(list(distinct))[[distinct[text] for text in flat]]  # (T, D)
    of_images = clip.embed_images(clip.prepare(images.permute(0, 3, 1, 2)).to(clip.device)).float().cpu()  # (N, D)
    counts = torch.tensor([len(own) for own in texts])
    return F.cosine_similarity(of_images.repeat_interleave(counts, 0), of_texts)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _chunks(texts: Sequence[str]) -> list[list[str]]:
    if isinstance(texts, str) or len(texts) == 0:
        raise ValueError("CLIP embeds a list with at least one text")
    texts = list(texts)
    return [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]
