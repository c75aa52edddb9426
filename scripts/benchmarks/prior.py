"""Training the prior, and looking up codes: compared with dalle-pytorch and vector-quantize-pytorch.

Shapes: B batch · T text length · N vectors, or image tokens of an image · K codes · D width of a code
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.dalle_peer import ROOT, DallePytorch, PeerError, install
from benchmarks.sampling import PriorBenchmark, dalle_sizes, new_prior
from benchmarks.timing import Benchmark, Row, clock, compare
from t2i.tokenizers.quantizer import EMAQuantizer

VECTOR_QUANTIZE = "1.32.0"
PACKAGES = (
    f"vector-quantize-pytorch=={VECTOR_QUANTIZE}",
    "einops==0.8.2",
    "einx==0.3.0",
    "frozendict",
    "loguru",
    "torch-einops-utils",
)


@dataclass(frozen=True)
class PriorTraining(PriorBenchmark):
    """A training step of the prior on text and image tokens, with random weights and AdamW.

    Args:
        layers, width, heads: of our transformer and of the peer's.
        batch, text, tokens: B, T and N; N is a square.
        text_vocab, codebook: sizes of the two vocabularies.
    """

    batch: int = 8

    @property
    def work(self) -> str:
        return f"train on {self.batch} x ({self.text} + {self.tokens}) tokens, {self.layers} layers x {self.width}"

    def run(self) -> list[Row]:
        torch.manual_seed(0)
        prior = new_prior(self).train()
        text = torch.randint(1, self.text_vocab, (self.batch, self.text))
        codes = torch.randint(self.codebook, (self.batch, self.tokens))
        optimizer = torch.optim.AdamW(prior.parameters())

        def step() -> None:
            prior.loss(text, codes)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

        try:
            with DallePytorch(dalle_sizes(self)) as peer:
                return [
                    compare(self.work, clock(step, grad=True), {peer.name: lambda: peer.seconds("train")}, self.repeats)
                ]
        except PeerError as error:
            print(f"dalle-pytorch is missing: {error}")
            return []


@dataclass(frozen=True)
class Lookup(Benchmark):
    """The nearest of K codes for N vectors.

    Args:
        vectors, codes, width: N, K and D.
    """

    vectors: int = 16_384
    codes: int = 8_192
    width: int = 32

    def run(self) -> list[Row]:
        torch.manual_seed(0)
        quantizer = EMAQuantizer(self.codes, self.width).eval()
        z = torch.randn(self.vectors, self.width)
        try:
            peer = _vector_quantize(quantizer.codebook)
        except PeerError as error:
            print(f"vector-quantize-pytorch is missing: {error}")
            return []
        with torch.inference_mode():
            differing = (quantizer.nearest(z) != peer(z)).float().mean().item()
        if differing > 1e-4:  # ties and rounding
            raise RuntimeError(
                f"{differing:.2%} of the codes differ from the peer's: a wrong result has no valid timing"
            )
        work = f"nearest of {self.codes} codes, {self.vectors} vectors of {self.width}"
        name = f"vector-quantize-pytorch {VECTOR_QUANTIZE}"
        return [compare(work, clock(lambda: quantizer.nearest(z)), {name: clock(lambda: peer(z))}, self.repeats)]


def _vector_quantize(codebook: Tensor) -> Callable[[Tensor], Tensor]:
    """The peer's lookup in the same codebook: (N, D) -> (N,). Raises PeerError."""
    folder = ROOT / ".cache" / "bench" / f"vector-quantize-pytorch-{VECTOR_QUANTIZE}"
    if not folder.exists():
        install(folder, PACKAGES, {})
    sys.path.append(str(folder))
    try:
        from vector_quantize_pytorch import VectorQuantize  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise PeerError(str(error)) from error
    finally:
        sys.path.remove(str(folder))
    peer = VectorQuantize(dim=codebook.shape[1], codebook_size=len(codebook), rotation_trick=False).eval()
    peer.codebook = codebook
    return lambda z: peer(z[None])[1][0]
