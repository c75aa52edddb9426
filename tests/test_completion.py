"""DALL·E beyond text to image: completion of images, creation of captions and images, likelihoods by part."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from t2i.cli import main
from t2i.images import to_pil
from t2i.pipelines.dalle.sampling import CodeSampling, sample_codes, sample_text
from t2i.prior.decoding import Decoder
from t2i.prior.transformer import PAD

PROMPTS = ["a red cat", "a blue car on top of a tree"]
N = 16  # codes of the tiny pipeline's images


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture
def image(pipe) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (pipe.image_size, pipe.image_size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(N + 1))
def test_a_completion_keeps_its_prefix_whatever_its_length(pipe, image, n):
    codes = pipe.encode_images(image)
    out = pipe(PROMPTS, image=image, keep_codes=n, num_candidates=2, generator=seeded(0, 1))
    kept = out.tokens.flatten(1)[:, :n]
    assert torch.equal(kept, codes.flatten(1)[:, :n].expand(2, -1))
    if n == N:
        assert torch.equal(out.tokens, codes.expand(2, -1, -1))


def test_an_empty_prefix_is_ordinary_sampling(pipe, image, caplog):
    plain = pipe(PROMPTS, generator=seeded(0, 1))
    assert torch.equal(pipe(PROMPTS, image=image, keep_codes=0, generator=seeded(0, 1)).tokens, plain.tokens)
    assert "no effect at keep_codes 0" in caplog.text


def test_the_likeliest_continuation_of_a_likeliest_image_is_that_image(pipe):
    """Kept codes have the same effect as sampled ones: the cache is the same."""
    whole = pipe("a red cat", top_k=1).tokens
    for n in (1, 5, 11):
        assert torch.equal(pipe("a red cat", image=whole, keep_codes=n, top_k=1).tokens, whole)


@torch.no_grad()
def test_a_prefix_in_one_pass_equals_the_uncached_model(pipe):
    prior, text, codes = pipe.prior, pipe._encode(PROMPTS), torch.randint(32, (2, N))
    _, whole = prior(text, codes)
    for n in range(N):
        decoder = Decoder(prior, 2)
        logits = [decoder.prefill(text, codes[:, :n])]
        logits += [decoder.step(codes[:, i], i) for i in range(n, N - 1)]
        assert (torch.stack(logits, 1) - whole[:, n:]).abs().max() < 1e-4


def test_each_prompt_may_have_its_own_image_or_codes(pipe, image):
    codes = torch.randint(32, (2, 4, 4))
    assert torch.equal(pipe.encode_images(codes), codes)
    out = pipe(PROMPTS, image=codes, keep_codes=6, num_images_per_prompt=2, generator=seeded(*range(4)))
    assert torch.equal(out.tokens.flatten(1)[:, :6], codes.repeat_interleave(2, 0).flatten(1)[:, :6])
    alone = pipe(PROMPTS[1], image=codes[1], keep_codes=6, generator=seeded(2))
    assert torch.equal(out.tokens[2], alone.tokens[0])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    assert torch.equal(pipe.encode_images(pixels), pipe.encode_images([image]))


def test_a_callback_cannot_change_what_is_kept(pipe):
    codes = torch.randint(32, (1, 4, 4))
    steps = []

    def force(pipe, step, timestep, tensors):
        steps.append(step)
        return {"codes": torch.full_like(tensors["codes"], 3)}

    out = pipe("a red cat", image=codes, keep_codes=9, callback_on_step_end=force)
    assert steps == list(range(9, N))
    assert torch.equal(out.tokens.flatten()[:9], codes.flatten()[:9])
    assert (out.tokens.flatten()[9:] == 3).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"keep_codes": 3}, "keep_codes needs an image"),
        ({"image": torch.zeros(1, 4, 4, dtype=torch.long), "keep_codes": 17}, "keep_codes must be at most 16"),
        ({"image": torch.zeros(1, 4, 4, dtype=torch.long), "keep_codes": 0.5}, "keep_codes must be a whole number"),
        ({"image": torch.zeros(1, 3, 3, dtype=torch.long), "keep_codes": 3}, r"codes must have the shape \(m, 4, 4\)"),
        ({"image": torch.full((1, 4, 4), 32), "keep_codes": 3}, r"codes must lie in \[0, 32\)"),
        ({"image": torch.zeros(3, 4, 4, dtype=torch.long), "keep_codes": 3}, "one image, or one for each prompt"),
        ({"image": Image.new("RGB", (32, 32)), "keep_codes": 3}, "images must be 16×16, not 32×32"),
    ],
)
def test_unusable_images_to_complete_are_named(pipe, how, message):
    with pytest.raises(ValueError, match=message):
        pipe("a red cat", **how)


# --- creation ---------------------------------------------------------------------------------------------------------


def test_created_captions_end_and_codes_are_codes(pipe):
    V, T = pipe.prior.config.text_vocab_size, pipe.prior.config.text_length
    with torch.no_grad():
        pipe.prior.text_bias[V:] += 3  # so that captions end
    text = sample_text(pipe.prior, 64, generators=seeded(*range(64)))
    padded = text == PAD
    assert text.shape == (64, T)
    assert 0 <= text.min() <= text.max() < V
    assert not padded[:, 0].any()  # no caption is empty
    assert (padded[:, 1:] | ~padded[:, :-1]).all()  # after padding only padding
    assert 0 < padded.any(1).sum() < 64
    out = pipe.create(3, generator=seeded(0, 1, 2))
    assert out.captions == [pipe.tokenizer.decode(ids[ids != PAD]).strip() for ids in text[:3]]
    assert out.tokens.shape == (3, 4, 4)
    assert 0 <= out.tokens.min() <= out.tokens.max() < 32
    assert [image.size for image in out.images] == [(16, 16)] * 3


def test_a_creation_depends_on_its_generator_only(pipe):
    with torch.no_grad():
        pipe.prior.text_bias[pipe.prior.config.text_vocab_size :] += 3
    together = pipe.create(4, generator=seeded(*range(4)))
    assert len(set(together.captions)) > 1
    pipe.max_batch_bytes = 1  # each in a batch of its own
    again = pipe.create(4, generator=seeded(*range(4)))
    alone = pipe.create(generator=seeded(2))
    assert torch.equal(again.tokens, together.tokens)
    assert torch.equal(alone.tokens[0], together.tokens[2])
    assert alone.captions == together.captions[2:3]
    one = [pipe.create(2, generator=seeded(5)[0], output_type="latent").images for _ in range(2)]
    assert torch.equal(*one)


def test_a_created_image_is_sampled_under_its_caption(pipe):
    [generator] = seeded(7)
    out = pipe.create(generator=seeded(7), top_k=None, temperature=1.0, guidance_scale=3.0)
    text = sample_text(pipe.prior, 1, generators=[generator])
    how = CodeSampling(3.0, 1.0, None, None)
    codes = sample_codes(pipe.prior, text, torch.zeros_like(text), text[:, :0], how, [generator])
    assert torch.equal(out.tokens.flatten(1), codes)


@torch.no_grad()
def test_text_logits_with_a_cache_equal_those_without(pipe):
    prior, text = pipe.prior, pipe._encode(PROMPTS)
    assert (text == PAD).any()
    whole, _ = prior(text, torch.zeros(2, 0, dtype=torch.long))
    decoder = Decoder(prior, 2)
    logits = [decoder.start_text()]
    logits += [decoder.step_text(text[:, t], t) for t in range(text.shape[1] - 1)]
    assert (torch.stack(logits, 1) - whole).abs().max() < 1e-4


def test_the_likeliest_caption_is_that_of_the_uncached_model(pipe):
    prior, T = pipe.prior, pipe.prior.config.text_length
    text = torch.zeros(1, T, dtype=torch.long)
    for t in range(T):
        with torch.no_grad():
            logits = prior(text, text[:, :0])[0][:, t]
        token = int(prior.mask_impossible_text(logits, t).argmax())
        if token >= prior.config.text_vocab_size:
            break
        text[0, t] = token
    assert torch.equal(sample_text(prior, 1, top_k=1), text)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1"),
        ({"text_temperature": 0}, "text_temperature must be above 0"),
        ({"text_top_p": 2.0}, r"text_top_p must lie in \(0, 1\]"),
        ({"output_type": "jpg"}, "unknown output_type 'jpg'"),
        ({"num_images": 3, "generator": seeded(0)}, "3 images need 3 generators"),
    ],
)
def test_unusable_options_of_a_creation_are_named(pipe, how, message):
    with pytest.raises(ValueError, match=message):
        pipe.create(**how)


# --- likelihoods ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_likelihood_of_text_and_image_is_the_sum_over_positions_one_by_one(pipe):
    prior, codes = pipe.prior, torch.randint(32, (2, 4, 4))
    found = pipe.log_likelihood(PROMPTS, codes, batch_size=1)
    text, flat = pipe._encode(PROMPTS), codes.flatten(1)
    target = prior.place_padding(text)
    for row in range(2):
        decoder = Decoder(prior, 1)
        logits, log_text, log_image = decoder.start_text(), 0.0, 0.0
        for t in range(text.shape[1]):
            log_text += float(logits.log_softmax(-1)[0, target[row, t]])
            if t + 1 < text.shape[1]:
                logits = decoder.step_text(text[row : row + 1, t], t)
        decoder = Decoder(prior, 1)
        logits = decoder.prefill(text[row : row + 1])
        for i in range(N):
            log_image += float(logits.log_softmax(-1)[0, flat[row, i]])
            if i + 1 < N:
                logits = decoder.step(flat[row : row + 1, i], i)
        assert float(found.text[row]) == pytest.approx(log_text, abs=1e-3)
        assert float(found.image[row]) == pytest.approx(log_image, abs=1e-3)
    loss = prior.loss(text, flat)
    assert float(found.text.mean()) == pytest.approx(-float(loss["text"]) * text.shape[1], rel=1e-4)
    assert float(found.image.mean()) == pytest.approx(-float(loss["image"]) * N, rel=1e-4)


def test_captions_are_scored_as_prompts_are(pipe):
    out = pipe(PROMPTS, generator=seeded(0, 1))
    scores = pipe.caption_scores(out.tokens, [*PROMPTS, "a tree"], batch_size=2)
    assert scores.shape == (2, 3)
    assert torch.allclose(scores[:, :2].diagonal(), out.scores, atol=1e-3)
    order = pipe.log_likelihood([*PROMPTS, "a tree"], out.tokens[:1].expand(3, -1, -1)).image.argsort()
    assert torch.equal(scores[0].argsort(), order)


def test_pairs_must_be_pairs(pipe):
    with pytest.raises(ValueError, match="one prompt for each image, not 2 for 1"):
        pipe.log_likelihood(PROMPTS, torch.zeros(1, 4, 4, dtype=torch.long))


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(pipe, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("system")
    image.resize((40, 30)).save("photo.png")
    return tmp_path


def test_complete_keeps_the_top_of_an_image(pipe, here, capsys):
    few = ["--pipeline", "system", "--num-images", "2"]
    main(["complete", "photo.png", "a red cat", "--keep", "0.5", *few, "--out", "o/"])
    assert "the image of 40×30 is cropped and scaled to 16×16" in capsys.readouterr().err
    files = sorted((here / "o").glob("*.png"))
    assert [file.name for file in files] == ["a-red-cat-0.png", "a-red-cat-1.png"]
    settings = Image.open(files[0])
    assert json.loads(settings.text["settings"])["keep"] == 0.5
    given = ImageOps.fit(Image.open("photo.png"), (16, 16))
    expected = pipe("a red cat", image=given, keep_codes=8, num_images_per_prompt=2, generator=seeded(0, 1)).images
    assert all(np.array_equal(np.asarray(Image.open(f)), np.asarray(e)) for f, e in zip(files, expected, strict=True))
    main(["complete", "photo.png", *few, "--out", "grid.png"])
    assert Image.open("grid.png").text["image"] == "photo.png"
    main(["complete", "photo.png", "a red cat", *few, "--num-candidates", "2", "--out", "best.png"])
    assert Image.open("best.png").text["image"] == "photo.png"
    with pytest.raises(SystemExit, match="cannot rank candidates of an empty prompt"):
        main(["complete", "photo.png", *few, "--num-candidates", "2", "--out", "none.png"])


def test_create_names_images_after_their_captions(pipe, here):
    main(["create", "--pipeline", "system", "--num-images", "2", "--seed", "4", "--out", "o/"])
    expected = pipe.create(2, generator=seeded(4, 5))
    found = {Image.open(file).text["seed"]: Image.open(file) for file in (here / "o").glob("*.png")}
    for seed, caption, image in zip("45", expected.captions, expected.images, strict=True):
        assert found[seed].text["prompt"] == caption
        assert np.array_equal(np.asarray(found[seed]), np.asarray(image))
    assert np.array_equal(np.asarray(found["5"]), np.asarray(to_pil(pipe.image_tokenizer.decode(expected.tokens))[1]))
    main(["create", "--pipeline", "system", "--text-temperature", "0.5", "--out", "grid.png"])
    assert json.loads(Image.open("grid.png").text["settings"])["text_temperature"] == 0.5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["complete"], "give an image, as in: t2i complete"),
        (["complete", "photo.png", "x", "--keep", "1.5"], r"--keep must lie in \[0, 1\]"),
        (["complete", "photo.png", "x", "--keep", "0.05", "--pipeline", "system"], "keeps 0 of 4 rows"),
        (["complete", "photo.png", "x", "--keep", "1", "--pipeline", "system"], "keeps 4 of 4 rows"),
        (
            ["complete", "photo.png", "x", "--pipeline", "toybox/ldm"],
            "an autoregressive pipeline, such as toybox/dalle",
        ),
        (["complete", "photo.png", "x", "--scheduler", "ddim"], "unexpected argument '--scheduler'"),
        (["complete", "photo.png", "x", "--reranker", "likelihood"], "--reranker chooses among candidates"),
        (["create", "--text-temperature", "0"], "--text-temperature must be above 0"),
        (["create", "--num-candidates", "2"], "unexpected argument '--num-candidates'"),
        (["create", "a red cat"], "unexpected argument 'a red cat'"),
    ],
)
def test_usage_errors_name_the_remedy(here, args, message):
    with pytest.raises(SystemExit, match=message):
        main(args)
