"""How probable are real pictures to an autoregressive pipeline, with their captions and without?

The prior's likelihood is one of codes, not of pixels: what the tokenizer loses has no probability. So it is given in
nats a code, and compares priors over one tokenizer only.

Shapes: B pictures in a batch · S image side · T text length · N codes of a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from t2i.images import to_tensor
from t2i.pipelines import DallePipeline
from t2i.text.bpe import encode


@dataclass(frozen=True, eq=False)
class CodeLikelihood:
    """Nats a code of each picture, (P,): `given` its caption, and given `nothing`. The lower, the more probable."""

    given: np.ndarray
    nothing: np.ndarray

    @property
    def explained(self) -> np.ndarray:
        """(P,), what the caption tells about the picture: log p(codes | caption) − log p(codes), nats a code."""
        return self.nothing - self.given


def code_likelihood(
    pipeline: DallePipeline, images: Sequence[np.ndarray], captions: Sequence[str], batch_size: int = 32
) -> CodeLikelihood:
    """−log p(codes | caption) / N of pictures, each uint8 (S, S, 3), S being the pipeline's size.

    Raises ValueError for a pipeline without a likelihood of codes, and where there is not one caption for each picture.
    """
    if not isinstance(pipeline, DallePipeline):
        raise ValueError(f"a {type(pipeline).__name__} has no likelihood of codes; give a DallePipeline")
    if len(images) != len(captions) or not len(images):
        raise ValueError(f"there must be one caption for each picture, not {len(captions)} for {len(images)}")
    prior, tokenizer, device = pipeline.prior, pipeline.image_tokenizer, pipeline.device
    given, nothing = [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.stack(images[start : start + batch_size]))  # (B, S, S, 3)
        with torch.no_grad():
            codes = tokenizer.encode(to_tensor(batch).to(device, tokenizer.dtype)).flatten(1)  # (B, N)
        texts = captions[start : start + batch_size]
        for parts, words in ((given, texts), (nothing, [""] * len(texts))):
            ids = encode(pipeline.tokenizer, words, prior.config.text_length).ids.to(device)  # (B, T)
            parts.append(-prior.log_likelihood(ids, codes).cpu() / codes.shape[1])
    return CodeLikelihood(torch.cat(given).double().numpy(), torch.cat(nothing).double().numpy())
