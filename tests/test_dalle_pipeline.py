"""The DALL·E pipeline."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from t2i.pipelines import AutoPipeline, DallePipeline
from t2i.pipelines.loading.auto import open_pipeline

PROMPTS = ["a red cat", "a blue car on top of a tree"]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def tokens(pipe, prompt=PROMPTS, **how) -> torch.Tensor:
    return pipe(prompt, output_type="latent", **how).tokens


def test_output_has_images_tokens_and_scores(pipe):
    out = pipe(PROMPTS, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3))
    assert len(out.images) == 4
    assert out.images[0].size == (16, 16)
    assert out.tokens.shape == (4, 4, 4)
    assert out.scores.shape == (4,)


def test_output_types_hold_the_same_image(pipe):
    how = {"generator": seeded(5), "prompt": "a red cat"}
    pil = np.array(pipe(**how).images[0]) / 255
    array = pipe(**{**how, "generator": seeded(5)}, output_type="np").images[0]
    tensor = pipe(**{**how, "generator": seeded(5)}, output_type="pt").images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(array, tensor)
    assert np.abs(array - pil).max() <= 0.5 / 255 + 1e-6
    assert 0 <= array.min() <= array.max() <= 1


def test_an_image_depends_on_its_generator_only(pipe):
    together = tokens(pipe, num_images_per_prompt=3, generator=seeded(0, 1, 2, 3, 4, 5))
    for i in range(6):
        alone = tokens(pipe, PROMPTS[i // 3], generator=seeded(i))
        assert torch.equal(alone[0], together[i])


def test_one_generator_seeds_one_for_each_image(pipe):
    four = tokens(pipe, "a red cat", num_images_per_prompt=4, generator=torch.Generator().manual_seed(3))
    two = tokens(pipe, "a red cat", num_images_per_prompt=2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(four[:2], two)
    assert not torch.equal(four[0], four[1])


def test_many_images_are_made_in_batches_that_fit(pipe):
    whole = tokens(pipe, num_images_per_prompt=3, generator=seeded(*range(6)))
    pipe.max_batch_bytes = 1  # so little that every image is a separate batch
    assert torch.equal(tokens(pipe, num_images_per_prompt=3, generator=seeded(*range(6))), whole)


def test_guidance_at_one_is_no_guidance(pipe):
    """At scale 1 nothing is subtracted, so the negative prompt has no effect; at 3 it has."""
    plain, other = (
        [tokens(pipe, guidance_scale=s, negative_prompt=n, generator=seeded(0, 1)) for n in (None, "a tree")]
        for s in (1.0, 3.0)
    )
    assert torch.equal(*plain)
    assert not torch.equal(*other)


def test_guidance_agrees_with_the_two_models_by_hand(pipe):
    """The logits in the loop are u + s (c − u) of the uncached model."""
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(tensors["logits"].clone())
        return tensors

    out = pipe(
        "a red cat",
        guidance_scale=2.0,
        top_k=None,
        generator=seeded(0),
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["logits"],
    )
    codes, text, none = out.tokens.flatten(1), pipe._encode(["a red cat"]), pipe._encode([""])
    with torch.no_grad():
        c, u = pipe.prior(text, codes)[1], pipe.prior(none, codes)[1]
    assert (torch.stack(seen, 1) - (u + 2.0 * (c - u))).abs().max() < 1e-3


def test_candidates_are_ranked_by_score(pipe):
    chosen = pipe("a red cat", num_candidates=8, generator=seeded(7))
    seeds = torch.randint(2**63 - 1, (8,), generator=torch.Generator().manual_seed(7)).tolist()
    alone = pipe("a red cat", num_images_per_prompt=8, generator=seeded(*seeds))
    assert torch.isclose(chosen.scores[0], alone.scores.max())
    assert torch.equal(chosen.tokens[0], alone.tokens[alone.scores.argmax()])


def test_scores_are_the_log_likelihood_ratio_of_the_prompt(pipe):
    """log p(tokens | prompt) − log p(tokens | no prompt), independent of the negative prompt."""
    out = pipe("a red cat", negative_prompt="a tree", generator=seeded(3))
    codes, text, none = out.tokens.flatten(1), pipe._encode(["a red cat"]), pipe._encode([""])
    expected = pipe.prior.log_likelihood(text, codes) - pipe.prior.log_likelihood(none, codes)
    assert torch.allclose(out.scores, expected, atol=1e-4)


def test_top_k_1_is_deterministic(pipe):
    assert torch.equal(tokens(pipe, top_k=1, generator=seeded(0, 1)), tokens(pipe, top_k=1, generator=seeded(8, 9)))


def test_callback_sees_every_code_and_may_change_it(pipe):
    steps = []

    def force(pipe, step, timestep, tensors):
        steps.append(step)
        tensors["codes"][:, step] = 3
        return tensors

    out = pipe("a red cat", callback_on_step_end=force)
    assert steps == list(range(16))
    assert (out.tokens == 3).all()


def test_interrupt_stops_and_returns(pipe):
    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 4
        return tensors

    out = pipe("a red cat", callback_on_step_end=stop, generator=seeded(1))
    assert (out.tokens.flatten()[5:] == 0).all()
    assert len(out.images) == 1
    assert (tokens(pipe, "a red cat", generator=seeded(1)).flatten()[5:] != 0).any()  # and the next call works normally


def test_unknown_words_and_dropped_ends_are_named_in_a_line(pipe, caplog):
    with caplog.at_level(logging.WARNING):
        pipe("a red flurb on top of a blue car to the left of a gronk")
    unknown, dropped = [r.getMessage() for r in caplog.records]
    prompt = "a red flurb on top of a blue car to the left of a gronk"
    assert unknown == f"the prompt {prompt!r} has words never seen in training: flurb, gronk"
    assert "gronk" in dropped.split("dropped:")[1]


def test_save_and_load_give_the_same_images(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    assert not [p for p in (tmp_path / "saved").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    for again in (AutoPipeline.from_pretrained(tmp_path / "saved"), DallePipeline.from_pretrained(tmp_path / "saved")):
        again.set_progress_bar_config(disable=True)
        assert torch.equal(tokens(again, generator=seeded(0, 1)), tokens(pipe, generator=seeded(0, 1)))
        assert isinstance(again, DiffusionPipeline)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": []}, "non-empty"),
        ({"prompt": 3}, "string"),
        ({"height": 32}, "16×16"),
        ({"output_type": "jpg"}, "unknown output_type"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature"),
        ({"negative_prompt": ["a", "b"]}, "negative prompts"),
        ({"generator": [torch.Generator()] * 3}, "generators"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "latents"),
    ],
)
def test_bad_input_raises(pipe, wrong, says):
    with pytest.raises((ValueError, TypeError), match=says):
        pipe(**{"prompt": "a red cat", **wrong})


def test_components_that_do_not_belong_together_raise(pipe, text_tokenizer, vqvae):
    from t2i.prior.transformer import TextImageTransformer

    other = TextImageTransformer(len(text_tokenizer), 64, text_length=8, grid_size=4, width=32, layers=1, heads=4)
    with pytest.raises(ValueError, match=r"64 image tokens.*not trained together"):
        DallePipeline(text_tokenizer, other, vqvae)
    other = TextImageTransformer(len(text_tokenizer) + 1, 32, text_length=8, grid_size=4, width=32, layers=1, heads=4)
    with pytest.raises(ValueError, match=r"text tokens.*not trained together"):
        DallePipeline(text_tokenizer, other, vqvae)


def test_a_wrong_name_lists_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pipeline 'toybox/dale'\. Did you mean 'toybox/dalle'"):
        AutoPipeline.from_pretrained("toybox/dale")
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json"):
        AutoPipeline.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no pipeline"):
        AutoPipeline.from_pretrained("./nowhere")


def test_weights_of_8_bits_are_used_where_asked_for(pipe, tmp_path, capsys):
    how = {"num_images_per_prompt": 3, "output_type": "latent"}
    exact = pipe(PROMPTS, generator=seeded(*range(6)), **how).tokens
    pipe.use_int8()
    assert pipe.uses_int8
    rounded = pipe(PROMPTS, generator=seeded(*range(6)), **how).tokens
    alone = pipe(PROMPTS[1], generator=seeded(5), output_type="latent").tokens
    assert torch.equal(rounded[5], alone[0])
    pipe.save_pretrained(tmp_path)
    pipe.use_int8(False)
    assert torch.equal(pipe(PROMPTS, generator=seeded(*range(6)), **how).tokens, exact)
    again = open_pipeline(str(tmp_path), "cpu", dtype="int8")
    assert again.uses_int8 and again.dtype == torch.float32
    assert torch.equal(again(PROMPTS, generator=seeded(*range(6)), **how).tokens, rounded)
    with pytest.raises(ValueError, match="toybox/ldm has no prior over image tokens, which int8 is for"):
        open_pipeline("toybox/ldm", "cpu", dtype="int8")
