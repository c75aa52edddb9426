"""Sampling image tokens: our prior with its cache, compared with no cache, transformers and dalle-pytorch.

Shapes: B batch · T text length · N image tokens of an image · K codebook size
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import transformers
from torch import Tensor

from benchmarks.dalle_peer import DallePytorch, PeerError
from benchmarks.timing import Benchmark, Row, Timed, clock, compare
from t2i.checks import UsageError
from t2i.nn.linear import Linear, use_int8
from t2i.prior.decoding import Decoder
from t2i.prior.sampling import check_sampling, sample_tokens, shortlist
from t2i.prior.transformer import TextImageTransformer

Peer = Literal["t2i-without-cache", "transformers", "dalle-pytorch", "floor"]


@dataclass(frozen=True)
class PriorBenchmark(Benchmark):
    """A text-image transformer with random weights, and peers of the same size.

    Args:
        layers, width, heads: of our transformer and of the peers'.
        batch, text, tokens: B, T and N; N is a square.
        text_vocab, codebook: sizes of the two vocabularies; transformers' model has the codebook only.
    """

    layers: int = 6
    width: int = 256
    heads: int = 8
    batch: int = 4
    text: int = 24
    tokens: int = 256
    text_vocab: int = 512
    codebook: int = 1024

    def __post_init__(self) -> None:
        if math.isqrt(self.tokens) ** 2 != self.tokens:
            raise UsageError(f"--tokens must be a square, such as 64 or 256, not {self.tokens}")


@dataclass(frozen=True)
class Sampling(PriorBenchmark):
    """Image tokens sampled from a text-image transformer with its cache, with random weights, without guidance.

    Args:
        layers, width, heads: of our transformer and of the peers'.
        batch, text, tokens: B, T and N; N is a square.
        text_vocab, codebook: sizes of the two vocabularies; transformers' model has the codebook only.
        peers: what to compare with; "floor" is the least time that the machine needs: see `_floor`.
        top_k: sample from the k most likely tokens; the temperature is 1.
        int8: our transformer has weights of 8 bits; the peers' are float32.
    """

    peers: tuple[Peer, ...] = ("t2i-without-cache", "transformers", "dalle-pytorch", "floor")
    top_k: int = 64
    int8: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sampling(1.0, self.top_k, None)

    @property
    def work(self) -> str:
        precision = ", int8" if self.int8 else ""
        return f"sample {self.batch} x {self.tokens} image tokens, {self.layers} layers x {self.width}{precision}"

    def run(self) -> list[Row]:
        torch.manual_seed(0)
        prior = new_prior(self)
        text = torch.randint(1, self.text_vocab, (self.batch, self.text))  # (B, T), 0 would be padding
        if self.int8:
            use_int8(prior)
        check_cache(prior, text)
        mine = clock(lambda: ours(prior, text, self.top_k))
        rows = []
        for name in self.peers:
            try:
                with PEERS[name](self, prior, text) as contests:
                    rows += [compare(self.work, mine, contest, self.repeats) for contest in contests]
            except PeerError as error:
                print(f"{name} is missing: {error}")
        return rows


def ours(prior: TextImageTransformer, text: Tensor, top_k: int) -> Tensor:
    """The loop of pipelines/dalle without guidance: text (B, T) -> tokens (B, N)."""
    N = prior.image_length
    codes = torch.zeros(len(text), N, dtype=torch.long)
    decoder = Decoder(prior, len(text))
    logits = decoder.prefill(text)  # (B, K)
    for i in range(N):
        codes[:, i] = sample_tokens(*shortlist(logits, 1.0, top_k), None)
        if i < N - 1:
            logits = decoder.step(codes[:, i], i)
    return codes


def without_cache(prior: TextImageTransformer, text: Tensor, top_k: int) -> Tensor:
    """The same sampling with a full forward pass per token: text (B, T) -> tokens (B, N)."""
    codes = torch.zeros(len(text), prior.image_length, dtype=torch.long)
    for i in range(prior.image_length):
        logits = prior(text, codes[:, :i])[1][:, -1]  # (B, K)
        codes[:, i] = sample_tokens(*shortlist(logits, 1.0, top_k), None)
    return codes


@torch.inference_mode()
def check_cache(prior: TextImageTransformer, text: Tensor) -> None:
    """Raise unless the logits of both loops agree on the same tokens: a wrong result has no valid timing."""
    codes = torch.randint(prior.config.image_vocab_size, (len(text), prior.image_length))
    decoder = Decoder(prior, len(text))
    for i in range(prior.image_length):
        cached = decoder.step(codes[:, i - 1], i - 1) if i else decoder.prefill(text)
        atol = 0.02 if prior.blocks[0].mlp[0].int8 else 1e-4  # rounding in 8 bits magnifies other rounding
        torch.testing.assert_close(cached, prior(text, codes[:, :i])[1][:, -1], rtol=1e-3, atol=atol)


def new_prior(o: PriorBenchmark) -> TextImageTransformer:
    """A transformer of these sizes with random weights, in eval mode."""
    sizes = {"width": o.width, "layers": o.layers, "heads": o.heads}
    return TextImageTransformer(o.text_vocab, o.codebook, o.text, math.isqrt(o.tokens), **sizes).eval()


# ------------------------------------------------------------------------------------------------------------ peers
# Each yields comparisons; in each, the fastest of the named settings represents the peer.


@contextmanager
def _without_cache(o: Sampling, prior: TextImageTransformer, text: Tensor) -> Iterator[list[dict[str, Timed]]]:
    yield [{"t2i without cache": clock(lambda: without_cache(prior, text, o.top_k))}]


@contextmanager
def _transformers(o: Sampling, prior: TextImageTransformer, text: Tensor) -> Iterator[list[dict[str, Timed]]]:
    model, prompt = _gpt2(o), torch.randint(o.codebook, (o.batch, 1 + o.text))
    name = f"transformers {transformers.__version__} generate"

    def generate(**cache: str) -> None:
        generated = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=o.tokens,
            do_sample=True,
            top_k=o.top_k,
            use_cache=True,
            pad_token_id=0,
            **cache,
        )
        if generated.shape != (o.batch, 1 + o.text + o.tokens):
            raise RuntimeError(f"generate stopped early: {tuple(generated.shape)}")

    default, static = clock(generate), clock(lambda: generate(cache_implementation="static"))
    yield [{f"{name} (default cache)": default, f"{name} (static cache)": static}]


def _gpt2(o: Sampling) -> transformers.GPT2LMHeadModel:
    """A GPT-2 with our sizes and without an end token. Our BOS, text and image tokens form one sequence."""
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=o.codebook,
        n_positions=1 + o.text + o.tokens,
        n_embd=o.width,
        n_layer=o.layers,
        n_head=o.heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config).eval()


@contextmanager
def _floor(o: Sampling, prior: TextImageTransformer, text: Tensor) -> Iterator[list[dict[str, Timed]]]:
    """The machine's floor for all steps: the time to read the weights and, on average, half the cache once a step, or
    to do a step's multiplications in one large product, whichever is longer.
    """
    layers = [module for module in prior.blocks.modules() if isinstance(module, Linear)]
    outputs = prior.image_tokens.weight
    weights = sum(layer.weight.numel() for layer in layers)
    weight_bytes = weights * (1 if o.int8 else 4) + 4 * outputs.numel()
    cache_bytes = 2 * o.layers * o.batch * o.width * 4 * (1 + o.text + o.tokens // 2)
    read = torch.zeros((weight_bytes + cache_bytes) // 4)
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    products = o.batch * (weights + outputs.numel()) * (o.tokens - 1) / side**3
    reading = clock(lambda: [read.sum() for _ in range(o.tokens - 1)])
    multiplying = clock(lambda: [a @ b for _ in range(math.ceil(products))])
    yield [{"floor": lambda: max(reading(), multiplying() * products / math.ceil(products))}]


@contextmanager
def _dalle_pytorch(o: Sampling, prior: TextImageTransformer, text: Tensor) -> Iterator[list[dict[str, Timed]]]:
    with DallePytorch(dalle_sizes(o) | {"top_k": o.top_k}) as peer:
        # Two comparisons, so two rows: the released version silently drops its cache; its best deserves a separate row.
        yield [
            {f"{peer.name} generate_images(use_cache=True)": lambda: peer.seconds("released")},
            {f"{peer.name} with its cache fixed": lambda: peer.seconds("mended")},
        ]


def dalle_sizes(o: PriorBenchmark) -> dict[str, int]:
    """Our sizes, as dalle_worker.py takes them."""
    return {
        "layers": o.layers,
        "width": o.width,
        "heads": o.heads,
        "batch": o.batch,
        "text": o.text,
        "grid": math.isqrt(o.tokens),
        "text_vocab": o.text_vocab,
        "codebook": o.codebook,
        "threads": torch.get_num_threads(),
    }


PEERS = {
    "t2i-without-cache": _without_cache,
    "transformers": _transformers,
    "dalle-pytorch": _dalle_pytorch,
    "floor": _floor,
}
