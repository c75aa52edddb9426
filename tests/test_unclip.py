"""unCLIP: the priors, the decoder's conditioning, embeddings and DDIM inversion, on tiny real components."""

from __future__ import annotations

import diffusion_parts as parts
import pytest
import torch
import unclip_parts as own
from diffusers import DDIMScheduler
from torch.nn.functional import normalize

from t2i.diffusion.inversion import invert
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import set_timesteps
from t2i.unclip.autoregressive_prior import AutoregressivePrior
from t2i.unclip.clip import ClipText, embed_images, embed_text
from t2i.unclip.decoder import ImageProjection, with_embedding
from t2i.unclip.diffusion_prior import DiffusionPrior
from t2i.unclip.embeddings import EmbeddingStatistics, slerp_embeds, text_diff

BOTH = pytest.mark.parametrize("kind", ["diffusion", "autoregressive"])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# --- embeddings -----------------------------------------------------------------------------------------------------


def test_scaled_embeddings_have_mean_zero_and_unit_variance():
    statistics, embeds = EmbeddingStatistics(own.DIM), own.embeddings(100)
    statistics.fit(embeds)
    scaled = statistics.scale(embeds)
    assert torch.allclose(scaled.mean(0), torch.zeros(own.DIM), atol=1e-5)
    assert scaled.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(statistics.unscale(scaled), embeds, atol=1e-5)
    with pytest.raises(ValueError, match="two or more different ones, not on 1"):
        statistics.fit(embeds[:1])


def test_all_principal_components_together_are_the_identity():
    statistics, embeds = EmbeddingStatistics(own.DIM, own.DIM), own.embeddings(100)
    statistics.fit(embeds)
    components = statistics.reduce(embeds)
    assert torch.allclose(statistics.expand(components), embeds, atol=1e-5)
    variances = components.var(0)
    assert (variances[:-1] >= variances[1:] - 1e-5).all()
    errors = [(statistics.expand(components[:, :n]) - embeds).square().mean().item() for n in range(own.DIM + 1)]
    assert errors[0] > errors[4] > errors[8] > errors[16]
    with pytest.raises(ValueError, match="16 principal components, not 17"):
        statistics.expand(torch.zeros(1, 17))


def test_slerp_and_text_diffs_end_where_they_should():
    first, second = own.embeddings(3), own.embeddings(3, seed=1)
    assert torch.allclose(slerp_embeds(first, second, 0.0), first)
    assert torch.allclose(slerp_embeds(first, second, 1.0), second)
    middle = slerp_embeds(first, second, 0.5)
    assert torch.allclose(middle.norm(dim=1), torch.ones(3))
    assert torch.allclose((middle * first).sum(1), (middle * second).sum(1))
    base, target = own.embeddings(3, seed=2), own.embeddings(3, seed=3)
    assert torch.allclose(text_diff(first, base, target, 0.0), first)
    assert torch.allclose(text_diff(first, base, target, 1.0), normalize(target - base, dim=1), atol=1e-6)


def test_clip_gives_embeddings_of_length_one_and_the_states_of_its_text_tower():
    clip, tokenizer = own.clip(), parts.clip_tokenizer()
    tokens = tokenizer(["a red cat", "a car"], padding="max_length", max_length=own.LENGTH, return_tensors="pt")
    text = embed_text(clip, tokens["input_ids"], tokens["attention_mask"])
    assert text.states.shape == (2, own.LENGTH, own.WIDTH)
    assert torch.equal(text.mask, tokens["attention_mask"].bool())
    theirs = clip.get_text_features(**tokens)
    theirs = theirs if isinstance(theirs, torch.Tensor) else theirs.pooler_output
    assert torch.allclose(text.embeds, normalize(theirs, dim=1), atol=1e-6)
    images = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    embeds = embed_images(clip, own.image_processor(), images)
    assert torch.allclose(embeds.norm(dim=1), torch.ones(2))
    alone = embed_images(clip, own.image_processor(), images[1:])
    assert torch.allclose(embeds[1:], alone, atol=1e-6)


# --- the priors -----------------------------------------------------------------------------------------------------


def test_the_loss_is_zero_for_a_prior_that_returns_the_true_embedding(monkeypatch):
    prior, embeds = own.prior("diffusion"), own.embeddings(4)
    noise = {"noise": torch.randn(4, own.DIM), "timesteps": torch.tensor([0, 10, 500, 999])}
    assert prior.loss(own.text(4), embeds, **noise)["loss"] > 0.1
    monkeypatch.setattr(prior, "forward", lambda x, t, text: prior.statistics.scale(embeds))
    assert prior.loss(own.text(4), embeds, **noise)["loss"] == 0


@BOTH
def test_padding_has_no_effect(kind):
    prior, text = own.prior(kind), own.text(3)
    other = torch.where(text.mask[..., None], text.states, torch.randn(text.states.shape) * 9)
    longest = int(text.mask.sum(1).max())
    want = prior.sample(text, generators=seeded(1, 2, 3))
    for states, length in ((other, own.LENGTH), (text.states, longest)):
        same = ClipText(states[:, :length], text.embeds, text.mask[:, :length])
        assert torch.allclose(prior.sample(same, generators=seeded(1, 2, 3)), want, atol=1e-5)
    changed = ClipText(-3 * text.states, text.embeds, text.mask)
    assert not torch.allclose(prior.sample(changed, generators=seeded(1, 2, 3)), want, atol=1e-3)
    with pytest.raises(ValueError, match=f"up to {own.LENGTH} tokens, not {own.LENGTH + 1}"):
        prior.sample(ClipText(torch.zeros(1, own.LENGTH + 1, own.WIDTH), text.embeds[:1], torch.ones(1, 25) > 0))


@BOTH
def test_guidance_of_one_is_the_conditional_model(kind):
    prior, text, negative = own.prior(kind), own.text(2), own.text(2, seed=1)
    how = {"num_candidates": 1}
    plain = prior.sample(text, generators=seeded(1, 2), **how)
    assert torch.equal(prior.sample(text, negative, 1.0, generators=seeded(1, 2), **how), plain)
    same = prior.sample(text, text, 3.0, generators=seeded(1, 2), **how)  # u + s (c − u) with u = c
    assert torch.allclose(same, plain, atol=1e-3)
    guided = prior.sample(text, negative, 3.0, generators=seeded(1, 2), **how)
    assert not torch.allclose(guided, plain, atol=1e-2)
    with pytest.raises(ValueError, match="guidance needs a negative_text"):
        prior.sample(text, guidance_scale=2.0)


@BOTH
def test_each_row_depends_on_its_own_text_and_generator_only(kind):
    prior, text, negative = own.prior(kind), own.text(3), own.text(3, seed=1)
    together = prior.sample(text, negative, 2.0, generators=seeded(1, 2, 3))
    for i in range(3):
        row = slice(i, i + 1)
        alone = prior.sample(text[row], negative[row], 2.0, generators=seeded(i + 1))
        assert torch.allclose(together[row], alone, atol=1e-4)
    assert torch.allclose(together.norm(dim=1), torch.ones(3))


@BOTH
def test_of_several_candidates_the_one_nearest_to_the_text_is_kept(kind):
    prior, text = own.prior(kind), own.text(4)
    generators = seeded(1, 2, 3, 4)
    singles = torch.stack([prior.sample(text, num_candidates=1, generators=generators) for _ in range(3)])
    best = prior.sample(text, num_candidates=3, generators=seeded(1, 2, 3, 4))
    products = (singles * text.embeds).sum(2)  # (3, 4)
    assert torch.allclose((best * text.embeds).sum(1), products.amax(0), atol=1e-6)
    assert len(set(products.argmax(0).tolist())) > 1


@BOTH
def test_a_prior_is_saved_with_its_statistics(kind, tmp_path):
    prior, text = own.prior(kind), own.text(2)
    prior.save_pretrained(tmp_path)
    again = type(prior).from_pretrained(tmp_path).eval()
    assert torch.equal(again.statistics.mean, prior.statistics.mean)
    samples = [each.sample(text, generators=seeded(1, 2)) for each in (prior, again)]
    assert torch.allclose(*samples, atol=1e-5)


@BOTH
def test_a_prior_learns_the_embedding_of_each_text(kind):
    torch.manual_seed(0)
    if kind == "diffusion":
        prior = DiffusionPrior(own.DIM, own.WIDTH, own.LENGTH, **own.SIZES)
    else:
        prior = AutoregressivePrior(own.DIM, own.WIDTH, own.LENGTH, 8, 16, **own.SIZES)
    text, embeds = own.text(8), own.embeddings(8)
    prior.fit(own.embeddings(200))
    optimizer = torch.optim.AdamW(prior.parameters(), 3e-3)
    for _ in range(200):
        noise = {"noise": torch.randn(8, own.DIM), "timesteps": torch.randint(1000, (8,))}
        loss = prior.loss(text, embeds, **(noise if kind == "diffusion" else {}))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = prior.eval().sample(text, num_inference_steps=10 if kind == "diffusion" else None)
    assert (found @ embeds.T).argmax(1).tolist() == list(range(8))


def test_quantised_components_come_back_within_half_a_bucket():
    prior, embeds = own.prior("autoregressive"), own.embeddings(200)
    components, codes = prior.statistics.reduce(embeds), prior.encode(embeds)
    assert codes.min() == 0 and codes.max() == 31  # the bounds are those of these embeddings
    half = (prior.high - prior.low) / 32 / 2
    assert ((prior.components(codes) - components).abs() <= half * 1.001).all()
    with pytest.raises(ValueError, match="fewer than 8 components: take fewer"):
        prior.fit(own.embeddings(4))
    with pytest.raises(ValueError, match="leave num_prior_steps out"):
        prior.sample(own.text(1), num_inference_steps=10)


def test_codes_depend_on_earlier_ones_only():
    prior, text = own.prior("autoregressive"), own.text(2)
    codes = torch.randint(32, (2, 7))
    logits = prior(text, codes)
    assert logits.shape == (2, 8, 32)
    changed = codes.clone()
    changed[:, 4] = (codes[:, 4] + 1) % 32
    differs = (prior(text, changed) - logits).abs().amax((0, 2)) > 1e-6
    assert differs.tolist() == [False] * 5 + [True] * 3
    assert torch.allclose(prior(text, codes[:, :3]), logits[:, :4], atol=1e-5)


def test_denoising_with_a_cache_equals_denoising_without():
    prior, text, negative = own.prior("diffusion"), own.text(2), own.text(2, seed=1)
    cached = prior.sample(text, negative, 2.0, num_inference_steps=2, num_candidates=1, generators=seeded(1, 2))
    x = torch.stack([torch.randn(own.DIM, generator=g) for g in seeded(1, 2)])
    for t, s in ((999, 499), (499, -1)):
        times = torch.full((2,), t)
        conditional, unconditional = prior(x, times, text), prior(x, times, negative)
        x0 = unconditional + 2 * (conditional - unconditional)
        a, sigma = prior.schedule.coefficients(times, x)
        if s >= 0:
            x = prior.schedule.add_noise(x0, (x - a * x0) / sigma, torch.full((2,), s))
    assert torch.allclose(prior.statistics.unscale(x0), cached, atol=1e-4)


def test_sampling_with_a_cache_equals_sampling_without():
    prior, text, negative = own.prior("autoregressive"), own.text(2), own.text(2, seed=1)
    cached = prior.sample(text, negative, 2.0, num_candidates=1, generators=seeded(1, 2))
    generators, codes = seeded(1, 2), torch.zeros(2, 0, dtype=torch.long)
    for i in range(prior.num_codes):
        conditional, unconditional = prior(text, codes)[:, i], prior(negative, codes)[:, i]
        logits = unconditional + 2 * (conditional - unconditional)
        noise = torch.stack([torch.empty(32).exponential_(generator=g) for g in generators])
        codes = torch.cat([codes, (logits - noise.log()).argmax(1, keepdim=True)], 1)
    assert torch.allclose(prior.decode(codes), cached, atol=1e-5)


# --- the decoder ----------------------------------------------------------------------------------------------------


def test_a_new_decoder_predicts_as_the_system_it_starts_from():
    unet, embeds = parts.unet(), own.embeddings(2)
    new, projection = with_embedding(unet, own.DIM), ImageProjection(own.DIM, own.WIDTH, own.LENGTH)
    projection.statistics.fit(own.embeddings(50))
    x, t, states = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.randn(2, own.LENGTH, own.WIDTH)
    labels, context = projection(embeds, states)
    ours = new(x, t, context, class_labels=labels).sample
    assert torch.equal(ours, unet(x, t, states).sample)
    ours.square().mean().backward()
    assert projection.tokens.weight.grad.abs().max() > 0  # and both ways of the embedding receive a gradient
    assert new.class_embedding.linear_2.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="takes class labels already"):
        with_embedding(new, own.DIM)
    with pytest.raises(ValueError, match=f"between 1 and {own.LENGTH}, not 25"):
        ImageProjection(own.DIM, own.WIDTH, own.LENGTH, 25)


def test_a_dropped_embedding_has_no_effect():
    projection = ImageProjection(own.DIM, own.WIDTH, own.LENGTH)
    torch.nn.init.normal_(projection.tokens.weight)
    dropped = torch.tensor([True, False])
    outputs = [projection(own.embeddings(2, seed), dropped=dropped) for seed in (0, 1)]
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


# --- DDIM inversion -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_ddim_returns_from_the_inverted_latent(schedule):
    unet, states = parts.unet(), torch.randn(1, own.LENGTH, own.WIDTH)
    noise_schedule = NoiseSchedule(beta_schedule=schedule)
    latents, errors = torch.randn(1, 4, 8, 8), {}

    def predict(x, t):
        return unet(x, t, states).sample

    for steps in (20, 250):
        sampler = DDIMScheduler(**noise_schedule.scheduler_config("v_prediction"), clip_sample=False)
        set_timesteps(sampler, steps)
        x = invert(predict, latents, sampler.timesteps, noise_schedule, "v_prediction")
        assert not torch.allclose(x, latents, atol=0.1)
        with torch.no_grad():
            for t in sampler.timesteps:
                x = sampler.step(predict(x, t), t, x).prev_sample
        errors[steps] = (x - latents).abs().max().item()
    assert errors[250] < 1e-3 < errors[20]
    with pytest.raises(FloatingPointError, match="take more steps, or less guidance"):
        invert(lambda x, t: x * torch.inf, latents, sampler.timesteps, noise_schedule, "v_prediction")
