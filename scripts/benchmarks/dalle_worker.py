"""dalle-pytorch in its own process: reads one setting per line, samples a batch with it, prints {"seconds": …}.

"train": a training step on a batch of random text and codes, with AdamW.
"released": `DALLE.generate_images(use_cache=True)`. In 1.6.6 the argument has no effect without guidance:
`forward_with_cond_scale` does not pass the cache on when `cond_scale` is 1.
"mended": the same with the cache passed on, so that it runs with its own cache.

Independent of t2i: it runs with only the peer's folder on the path.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import cache

import torch
from dalle_pytorch import DALLE, DiscreteVAE  # pyright: ignore[reportMissingImports]  # installed by the benchmark
from torch import Tensor


class Mended(DALLE):
    def forward_with_cond_scale(self, *args, cond_scale=1, cache=None, **kwargs) -> Tensor:
        return self(*args, cache=cache, **kwargs)


def build(kind: type[DALLE], sizes: dict[str, int]) -> DALLE:
    """The defaults of dalle-pytorch at our sizes. Its VAE is one small layer, whose decoding time is negligible."""
    grid = sizes["grid"]
    vae = DiscreteVAE(image_size=2 * grid, num_tokens=sizes["codebook"], codebook_dim=8, num_layers=1, hidden_dim=8)
    return kind(
        dim=sizes["width"],
        vae=vae,
        num_text_tokens=sizes["text_vocab"],
        text_seq_len=sizes["text"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        dim_head=sizes["width"] // sizes["heads"],
        attn_types=("full",),
    ).eval()


@torch.inference_mode()
def check_cache(model: DALLE, text: Tensor) -> None:
    """Raise unless its cached and uncached logits agree on the same tokens."""
    codes = torch.randint(model.num_image_tokens, (len(text), model.image_seq_len))
    cache: dict = {}
    for i in range(model.image_seq_len):
        cached = model(text, codes[:, :i], cache=cache)[:, -1]
        torch.testing.assert_close(cached, model(text, codes[:, :i])[:, -1], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def seconds(model: DALLE, text: Tensor, top_k: int) -> float:
    # Its threshold is the fraction of the whole vocabulary, text and image, that is dropped; half a token for rounding.
    dropped = max(0.0, 1 - (top_k + 0.5) / model.total_tokens)
    start = time.perf_counter()
    model.generate_images(text, filter_thres=dropped, temperature=1.0, use_cache=True)
    return time.perf_counter() - start


def training_step(model: DALLE, text: Tensor) -> Callable[[], float]:
    """A function that times one training step on random codes."""
    optimizer = torch.optim.AdamW(model.train().parameters())
    codes = torch.randint(model.num_image_tokens, (len(text), model.image_seq_len))

    def step() -> float:
        start = time.perf_counter()
        model(text, codes, return_loss=True).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the peer's own output must not mix with the answers
    sizes = json.loads(sys.argv[1])
    torch.set_num_threads(sizes["threads"])
    torch.manual_seed(0)
    text = torch.randint(1, sizes["text_vocab"], (sizes["batch"], sizes["text"]))

    @cache  # each setting's model, with its optimizer, is built when it is first asked for
    def work(setting: str) -> Callable[[], float]:
        if setting == "train":
            return training_step(build(DALLE, sizes), text)
        model = build(Mended if setting == "mended" else DALLE, sizes)
        if setting == "mended":
            check_cache(model, text)
        return lambda: seconds(model, text, sizes["top_k"])

    for line in sys.stdin:
        taken = work(line.strip())()
        print(json.dumps({"seconds": taken}), file=answers, flush=True)


if __name__ == "__main__":
    main()
