"""CLIP and DINOv2 as extractors, through transformers or open_clip, with each model's own preprocessing.

Embeddings are returned unnormalised; cosine similarities and CMMD normalise them.

Shapes: N images or texts · H × W pixels · D dimensions
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from t2i.eval.features.base import Extractor
from t2i.text.pretrained import load, open_open_clip
from t2i.weights import digest

TEXTS = 256  # batch size
# Settings that determine how a transformers processor changes an image.
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "size", "crop_size", "resample")
_NUMBERS = ("rescale_factor", "image_mean", "image_std")


class TransformersExtractor(Extractor):
    """Base class of CLIP and DINOv2: a model and an image processor of transformers in one folder.

    Args:
        kind: "clip" or "dinov2".
        source: a folder, or a model on the Hub.
        model: that source's model, in float32.
    """

    def __init__(self, kind: str, source: str, model, dim: int, device: str):
        from transformers import AutoImageProcessor

        self.processor = load(AutoImageProcessor, source)
        self.model = model.eval().requires_grad_(False).to(device)
        settings = {key: getattr(self.processor, key, None) for key in (*_STEPS, *_NUMBERS)}
        preprocess_id = f"{kind}-{_fingerprint(settings)}"
        super().__init__(f"{kind}:{Path(source).name}", dim, preprocess_id, digest(model), device)

    def prepare(self, images: Tensor) -> Tensor:
        return self.processor(images=list(images), return_tensors="pt")["pixel_values"]


class ClipExtractor(TransformersExtractor):
    """CLIP (Radford et al. 2021, arXiv 2103.00020) in transformers; D is the dimension of the joint embedding space.

    Raises FileNotFoundError or ValueError if `source` is not such a model.
    """

    def __init__(self, source: str, device: str = "cpu"):
        from transformers import CLIPModel

        model = load(CLIPModel, source, "clip")
        self.source, self._tokenizer = source, None
        super().__init__("clip", source, model, model.config.projection_dim, device)

    def forward(self, prepared: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(prepared).pooler_output)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 (N, D). Texts longer than the context are truncated; the end token is always kept."""
        if self._tokenizer is None:  # deferred: not needed for images
            from transformers import AutoTokenizer

            self._tokenizer = load(AutoTokenizer, self.source)
        length = self.model.config.text_config.max_position_embeddings
        parts = []
        for some in _chunks(texts):
            tokens = self._tokenizer(some, padding=True, truncation=True, max_length=length, return_tensors="pt")
            pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
            parts.append(self.model.text_projection(pooled).float().cpu())
        return torch.cat(parts)


class Dinov2Extractor(TransformersExtractor):
    """The class token of DINOv2 (Oquab et al. 2023, arXiv 2304.07193) after the last norm; D is the model's width.

    Raises FileNotFoundError or ValueError if `source` is not such a model.
    """

    def __init__(self, source: str, device: str = "cpu"):
        from transformers import AutoModel

        model = load(AutoModel, source, "dinov2", "dinov2_with_registers")
        super().__init__("dinov2", source, model, model.config.hidden_size, device)

    def forward(self, prepared: Tensor) -> Tensor:
        return self.model(prepared).last_hidden_state[:, 0]


class OpenClipExtractor(Extractor):
    """A CLIP model of open_clip (Ilharco et al. 2021, doi 10.5281/zenodo.5143773).

    Args:
        source: "ARCH/PRETRAINED" with one of open_clip's tags ("ViT-B-32/openai"), "ARCH//path/to/file", or
            "hf-hub:OWNER/NAME".

    Raises ValueError for models unknown to open_clip, FileNotFoundError if the file is missing.
    """

    def __init__(self, source: str, device: str = "cpu"):
        model, self.transform, arch = open_open_clip(source)
        self.arch, self.model, self._tokenizer = arch, model.eval().requires_grad_(False).to(device), None
        pretrained = "" if source == arch else f"/{Path(source).name}"
        name = f"open_clip:{arch}{pretrained}"
        with torch.no_grad():
            blank = self.transform(Image.new("RGB", (8, 8)))[None]
            dim = self.model.encode_image(blank.to(device)).shape[1]  # the attribute's name depends on the class
        preprocess_id = f"open_clip-{_fingerprint(model.visual.preprocess_cfg)}"
        super().__init__(name, dim, preprocess_id, digest(model), device)

    def prepare(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 3, 1).numpy()
        return torch.stack([self.transform(Image.fromarray(row)) for row in rows])

    def forward(self, prepared: Tensor) -> Tensor:
        return self.model.encode_image(prepared)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 (N, D). Texts longer than the context are truncated; the end token is always kept."""
        if self._tokenizer is None:
            import open_clip

            self._tokenizer = open_clip.get_tokenizer(self.arch)
        parts = [self.model.encode_text(self._tokenizer(some).to(self.device)) for some in _chunks(texts)]
        return torch.cat(parts).float().cpu()


def _chunks(texts: Sequence[str]) -> list[list[str]]:
    if isinstance(texts, str) or len(texts) == 0:
        raise ValueError("encode_text takes a list with at least one text")
    texts = list(texts)
    return [texts[i : i + TEXTS] for i in range(0, len(texts), TEXTS)]


def _fingerprint(settings: dict) -> str:
    """Twelve hexadecimal digits that depend on all settings, of which some are size mappings of transformers."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=dict).encode()).hexdigest()[:12]
