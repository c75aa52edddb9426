"""CLIP and DINOv2 as extractors, through transformers or open_clip, with each model's own preprocessing.

Embeddings are returned unnormalised; cosine similarities and CMMD normalise them.

Shapes: N images or texts · H × W pixels · D dimensions
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from t2i.eval.features.base import Extractor
from t2i.text.clip_embeddings import OpenClip, TransformersClip
from t2i.text.pretrained import load
from t2i.weights import digest

# Settings that determine how a transformers processor changes an image.
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "size", "crop_size", "resample")
_NUMBERS = ("rescale_factor", "image_mean", "image_std")


class TransformersExtractor(Extractor):
    """Base class of CLIP and DINOv2: a model and an image processor of transformers in one folder.

    Args:
        kind: "clip" or "dinov2".
        source: a folder, or a model on the Hub.
        model, processor: those of that source, the model in float32.
    """

    def __init__(self, kind: str, source: str, model, processor, dim: int, device: str):
        self.processor = processor
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
        self.clip = TransformersClip(source, device)
        super().__init__("clip", source, self.clip.model, self.clip.processor, self.clip.dim, device)

    def forward(self, prepared: Tensor) -> Tensor:
        return self.clip.embed_images(prepared)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 (N, D). Texts longer than the context are truncated; the end token is always kept."""
        return self.clip.embed_texts(texts)


class Dinov2Extractor(TransformersExtractor):
    """The class token of DINOv2 (Oquab et al. 2023, arXiv 2304.07193) after the last norm; D is the model's width.

    Raises FileNotFoundError or ValueError if `source` is not such a model.
    """

    def __init__(self, source: str, device: str = "cpu"):
        from transformers import AutoImageProcessor, AutoModel

        model = load(AutoModel, source, "dinov2", "dinov2_with_registers")
        processor = load(AutoImageProcessor, source)
        super().__init__("dinov2", source, model, processor, model.config.hidden_size, device)

    def forward(self, prepared: Tensor) -> Tensor:
        return self.model(prepared).last_hidden_state[:, 0]


class OpenClipExtractor(Extractor):
    """A CLIP model of open_clip (Ilharco et al. 2021, doi 10.5281/zenodo.5143773).

    Args:
        source: as of `t2i.text.clip_embeddings.OpenClip`.

    Raises ValueError for models unknown to open_clip, FileNotFoundError if the file is missing.
    """

    def __init__(self, source: str, device: str = "cpu"):
        self.clip = OpenClip(source, device)
        self.model = model = self.clip.model
        arch = self.clip.arch
        name = f"open_clip:{arch}{'' if source == arch else f'/{Path(source).name}'}"
        preprocess_id = f"open_clip-{_fingerprint(model.visual.preprocess_cfg)}"
        super().__init__(name, self.clip.dim, preprocess_id, digest(model), device)

    def prepare(self, images: Tensor) -> Tensor:
        return self.clip.prepare(images)

    def forward(self, prepared: Tensor) -> Tensor:
        return self.clip.embed_images(prepared)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 (N, D). Texts longer than the context are truncated; the end token is always kept."""
        return self.clip.embed_texts(texts)


def _fingerprint(settings: dict) -> str:
    """Twelve hexadecimal digits that depend on all settings, of which some are size mappings of transformers."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=dict).encode()).hexdigest()[:12]
