"""The transformer prior."""

from __future__ import annotations

import pytest
import torch

from t2i.nn.attention import KVCache, attend
from t2i.nn.linear import FEW, MLP, Int8Weight, Linear, use_int8
from t2i.prior.decoding import Decoder
from t2i.prior.transformer import PAD, TextImageTransformer


@pytest.fixture
def stream(prior):
    T, N, K = prior.config.text_length, prior.image_length, prior.config.image_vocab_size
    text = torch.randint(1, prior.config.text_vocab_size, (2, T))
    text[1, 5:] = PAD
    return text, torch.randint(K, (2, N))


@torch.no_grad()
def test_no_position_sees_a_later_one(prior, stream):
    """Perturb each position of the sequence in turn: predictions up to and including it must not change."""
    text, codes = stream
    T, N = text.shape[1], codes.shape[1]
    text_logits, image_logits = prior(text, codes)
    for position in range(T + N):
        text2, codes2 = text.clone(), codes.clone()
        if position < T:
            text2[:, position] = text2[:, position] % (prior.config.text_vocab_size - 1) + 1
        else:
            codes2[:, position - T] = (codes2[:, position - T] + 1) % prior.config.image_vocab_size
        text_logits2, image_logits2 = prior(text2, codes2)
        moved = [(text_logits2 - text_logits).abs().amax(-1), (image_logits2 - image_logits).abs().amax(-1)]
        moved = torch.cat(moved, 1)  # (B, T + N), the largest change of any logit
        assert moved[:, : position + 1].max() < 1e-5, position
        assert (moved[:, position + 1 :] > 1e-6).all(), position  # and all later ones do change


@torch.no_grad()
def test_cached_equals_uncached(prior, stream):
    text, codes = stream
    _, whole = prior(text, codes)
    decoder = Decoder(prior, len(text))
    logits = [decoder.prefill(text)]
    logits += [decoder.step(codes[:, i], i) for i in range(codes.shape[1] - 1)]
    assert (torch.stack(logits, 1) - whole).abs().max() < 1e-4
    with pytest.raises(ValueError, match="cache holds"):
        decoder.step(codes[:, -1], 0)


@torch.no_grad()
def test_a_partial_image_gives_the_first_logits_of_the_whole(prior, stream):
    text, codes = stream
    assert torch.allclose(prior(text, codes[:, :5])[1], prior(text, codes)[1][:, :6], atol=1e-5)
    assert prior(text, codes[:, :0])[1].shape[1] == 1


def test_inputs_are_not_written_to(prior, stream):
    text, codes = stream
    before = text.clone(), codes.clone()
    prior.loss(text, codes)
    Decoder(prior, 2).prefill(text)
    assert torch.equal(text, before[0])
    assert torch.equal(codes, before[1])


def test_each_position_has_its_own_padding(prior):
    V, T = prior.config.text_vocab_size, prior.config.text_length
    assert prior.place_padding(torch.zeros(1, T, dtype=torch.long))[0].tolist() == list(range(V, V + T))
    with pytest.raises(ValueError, match="must have the shape"):
        prior.place_padding(torch.zeros(1, T + 1, dtype=torch.long))


def test_loss_is_the_weighted_mean_of_text_and_image(prior, stream):
    losses = prior.loss(*stream)
    assert torch.allclose(losses["loss"], (losses["text"] + 7 * losses["image"]) / 8)


@torch.no_grad()
def test_log_likelihood_is_that_of_the_loss(prior, stream):
    text, codes = stream
    total = prior.log_likelihood(text, codes).mean() / codes.shape[1]
    assert torch.allclose(-total, prior.loss(text, codes)["image"], rtol=1e-5)


def test_a_dropped_caption_adds_no_text_loss(prior, stream):
    text, codes = stream
    assert prior.loss(torch.zeros_like(text), codes)["text"] == 0


def test_gradient_reaches_every_parameter(prior, stream):
    prior.loss(*stream)["loss"].backward()
    assert [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_changes_no_gradient(prior, stream):
    prior.train().loss(*stream)["loss"].backward()
    plain = {n: p.grad.clone() for n, p in prior.named_parameters()}
    prior.zero_grad()
    prior.enable_gradient_checkpointing()
    prior.loss(*stream)["loss"].backward()
    assert all(torch.allclose(p.grad, plain[n], atol=1e-6) for n, p in prior.named_parameters())


def test_save_and_load_are_bit_equal(prior, stream, tmp_path):
    prior.save_pretrained(tmp_path)
    again = TextImageTransformer.from_pretrained(tmp_path)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in prior.state_dict().items())
    assert torch.equal(prior(*stream)[1], again(*stream)[1])


def test_attention_backends_that_cannot_run_say_why():
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"'\.\[xformers\]'|needs a CUDA device"):
        attend(q, q, q, causal=True, backend="xformers")
    with pytest.raises(ValueError, match="unknown attention backend 'flash'"):
        attend(q, q, q, causal=True, backend="flash")


@pytest.mark.parametrize("shape", [(1, 5), (3, 1, 5), (FEW, 5), (FEW + 1, 5), (2, 4, 5)])
def test_linear_layers_are_torchs_whatever_the_rows(shape):
    x, layer = torch.randn(shape), Linear(5, 7)
    with torch.no_grad():
        few = layer(x)
    with torch.enable_grad():
        torch.testing.assert_close(few, layer(x))
    torch.testing.assert_close(few, torch.nn.functional.linear(x, layer.weight, layer.bias))
    assert few.is_contiguous()


@pytest.mark.parametrize("shape", [(1, 6), (3, 1, 6), (FEW + 1, 6)])
def test_a_perceptron_is_its_layers_one_after_the_other(shape):
    x, mlp = torch.randn(shape), MLP(6)
    with torch.no_grad():
        few = mlp(x)
    torch.testing.assert_close(few, torch.nn.Sequential(*mlp)(x))


# --- weights of 8 bits ------------------------------------------------------------------------------------------------


def test_weights_of_8_bits_are_the_nearest():
    """To half a step of each output's scale; a matrix of such weights is itself, and zeros stay zeros."""
    weight = torch.randn(7, 5) * torch.tensor([1e-3, 1, 1, 1, 1, 100, 0])[:, None]

    def restored(rounded: Int8Weight) -> torch.Tensor:
        return rounded.values.float()[:, :5] * rounded.scale.float()[:, None]

    rounded = Int8Weight.of(weight)
    assert ((restored(rounded) - weight).abs() <= 0.51 * rounded.scale.float()[:, None]).all()
    torch.testing.assert_close(restored(Int8Weight.of(restored(rounded))), restored(rounded), rtol=0.01, atol=0)


@pytest.mark.parametrize("inputs", [1, 5, 63, 64, 65, 256])
def test_weights_of_8_bits_multiply_inputs_of_any_number(inputs):
    rounded = Int8Weight.of(torch.randn(7, inputs))
    restored = rounded.values.float()[:, :inputs] * rounded.scale.float()[:, None]
    for rows in (1, 3, FEW + 1):
        x = torch.randn(rows, inputs).bfloat16().float()
        torch.testing.assert_close(rounded(x), x @ restored.T, rtol=0.01, atol=0.02 * inputs**0.5)


@torch.no_grad()
def test_with_weights_of_8_bits_a_row_does_not_depend_on_the_others():
    layer = Linear(32, 48)
    use_int8(layer)
    x = torch.randn(2 * FEW, 32)
    whole = layer(x)
    for rows in (1, 3, FEW, FEW + 1):
        assert torch.equal(layer(x[:rows]), whole[:rows])


def test_a_prior_with_weights_of_8_bits_is_nearly_the_same(prior, stream):
    text, codes = stream
    with torch.no_grad():
        exact = prior(text, codes)[1]
        use_int8(prior)
        rounded = prior(text, codes)[1]
        decoder = Decoder(prior, len(text))
        logits = [decoder.prefill(text), *(decoder.step(codes[:, i], i) for i in range(codes.shape[1] - 1))]
    divergence = (exact.softmax(-1) * (exact.log_softmax(-1) - rounded.log_softmax(-1))).sum(-1)
    assert 0 < divergence.max() < 1e-3
    assert (torch.stack(logits, 1) - rounded).abs().max() < 0.02
    trained = prior(text, codes)[1]  # with gradients: of the weights themselves
    torch.testing.assert_close(trained.detach(), exact, atol=1e-5, rtol=1e-5)
    use_int8(prior, False)
    with torch.no_grad():
        assert torch.equal(prior(text, codes)[1], exact)
    with pytest.raises(ValueError, match="no layers for weights of 8 bits"):
        use_int8(torch.nn.LayerNorm(3))
    with pytest.raises(ValueError, match="for a CPU"):
        use_int8(Linear(2, 2, device="meta"))


@torch.no_grad()
def test_changed_blocks_are_decoded_as_they_are(prior, stream):
    """A LoRA in place of a layer, and a hook: decoding calls them, instead of the weights that were there."""
    text, codes = stream

    class Doubled(Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    called = []
    prior.blocks[0].mlp[2].register_forward_hook(lambda *_: called.append(0))
    plain = prior(text, codes)[1]
    prior.blocks[1].attention.out.__class__ = prior.blocks[0].mlp[0].__class__ = Doubled
    whole = prior(text, codes)[1]
    decoder = Decoder(prior, len(text))
    logits = [decoder.prefill(text), *(decoder.step(codes[:, i], i) for i in range(codes.shape[1] - 1))]
    assert len(called) == codes.shape[1] + 2
    assert (whole - plain).abs().max() > 1e-3
    torch.testing.assert_close(torch.stack(logits, 1), whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_compiled_blocks_are_decoded_compiled(prior, stream):
    text, codes = stream
    whole = prior(text, codes)[1]
    called = []

    def backend(graph, inputs):
        called.append(graph)
        return graph.forward

    for block in prior.blocks:
        block.compile(backend=backend)
    decoder = Decoder(prior, len(text))
    logits = [decoder.prefill(text), *(decoder.step(codes[:, i], i) for i in range(3))]
    assert called
    torch.testing.assert_close(torch.stack(logits, 1), whole[:, :4], atol=1e-4, rtol=1e-4)


def test_cache_hands_out_all_that_was_put_in():
    cache = KVCache(1, 2, 4, 3)
    pairs = torch.randn(2, 1, 2, 3, 3)
    cache.append(pairs[:, :, :, :2])
    assert torch.equal(cache.append(pairs[:, :, :, 2:]), pairs)
