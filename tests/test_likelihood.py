"""The likelihood of real images under an autoregressive pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t2i.eval.evaluators.likelihood import token_likelihood
from t2i.images import to_tensor
from t2i.prior.decoding import Decoder
from t2i.text.bpe import encode


def some(n: int, side: int = 16) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def test_the_likelihood_is_the_sum_over_tokens_decoded_one_by_one(pipe):
    """Each token's probability is taken from the cached decoding used for sampling."""
    images, caption = some(1), "a red cat"
    given, without = token_likelihood(pipe, images, [caption])
    codes = pipe.image_tokenizer.encode(to_tensor(torch.from_numpy(np.stack(images)))).flatten(1)
    for text, found in ((caption, given), ("", without)):
        ids = encode(pipe.tokenizer, [text], pipe.prior.config.text_length).ids
        decoder = Decoder(pipe.prior, 1)
        with torch.no_grad():
            logits, nats = decoder.prefill(ids), 0.0
            for i in range(codes.shape[1]):
                nats -= logits.log_softmax(-1)[0, codes[0, i]].item()
                if i < codes.shape[1] - 1:
                    logits = decoder.step(codes[:, i], i)
        assert found[0] == pytest.approx(nats / codes.shape[1], rel=1e-4)


def test_the_batch_size_changes_nothing(pipe):
    images, captions = some(5), ["a red cat", "a car", "two apples", "", "a blue house"]
    one, all_ = (token_likelihood(pipe, images, captions, batch_size) for batch_size in (1, 5))
    np.testing.assert_allclose(one, all_, rtol=1e-5)


def test_bad_input_raises(pipe):
    with pytest.raises(ValueError, match="one caption for each image"):
        token_likelihood(pipe, some(2), ["a cat"])
    with pytest.raises(ValueError, match="no likelihood of image tokens"):
        token_likelihood(object(), some(1), ["a cat"])
