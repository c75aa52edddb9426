"""Text inputs of a latent diffusion pipeline: embeddings in place of prompts, callbacks, nested calls."""

from __future__ import annotations

import threading

import diffusion_parts as parts
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from t2i.pipelines import LatentDiffusionPipeline

PROMPTS = ["a red cat", "a blue car on top of a tree"]
HOW = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")


@pytest.fixture(scope="module", params=["clip", "t5"])
def any_pipe(request) -> LatentDiffusionPipeline:
    pipe = parts.pipeline()
    if request.param == "t5":
        pipe = LatentDiffusionPipeline(**(pipe.components | {"text_encoder": parts.t5(pipe.tokenizer)}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> LatentDiffusionPipeline:
    made = parts.pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, prompt=PROMPTS, **how) -> torch.Tensor:
    n = len(prompt) if isinstance(prompt, list) else 1
    return pipe(prompt, generator=[torch.Generator().manual_seed(s) for s in range(n)], **(HOW | how)).images


@pytest.mark.parametrize("negative", [None, "a tree", ["a tree", "a house on the beach"]])
def test_encoded_prompts_draw_what_the_prompts_draw(any_pipe, negative):
    found = any_pipe.encode_prompt(PROMPTS, negative_prompt=negative)
    assert len(found) == (2 if any_pipe.text_encoder.config.model_type == "clip_text_model" else 4)
    embeds = dict(zip(EMBEDS, found, strict=False))
    generators = [torch.Generator().manual_seed(s) for s in range(2)]
    out = any_pipe(**embeds, generator=generators, **HOW).images
    assert torch.equal(out, draw(any_pipe, negative_prompt=negative))


def test_without_guidance_nothing_negative_is_encoded(any_pipe):
    states, against, *masks = any_pipe.encode_prompt("a cat", do_classifier_free_guidance=False)
    assert against is None and states.shape[0] == 1
    assert [mask is None for mask in masks] in ([], [False, True])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_up_to_a_scale_of_1_there_is_no_guidance(pipe, scale):
    assert torch.equal(draw(pipe, guidance_scale=scale), draw(pipe, guidance_scale=1.0, negative_prompt="a tree"))
    assert not torch.equal(draw(pipe, guidance_scale=scale), draw(pipe))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt_embeds": torch.zeros(1, 5, 3)}, r"prompt_embeds must have the shape \(prompts, L, 32\)"),
        ({"prompt_embeds": torch.zeros(5, 32)}, r"prompt_embeds must have the shape \(prompts, L, 32\)"),
        (
            {"prompt_embeds": torch.zeros(1, 5, 32), "prompt_attention_mask": torch.ones(1, 4)},
            r"prompt_attention_mask must have the shape \(1, 5\)",
        ),
        ({"prompt": "a cat", "prompt_attention_mask": torch.ones(1, 4)}, "belongs to prompt_embeds"),
        ({"prompt": "a cat", "negative_prompt_attention_mask": torch.ones(1, 4)}, "belongs to negative_prompt_embeds"),
        ({"prompt": "a cat", "negative_prompt": 3}, "negative_prompt must be a string"),
        ({"prompt": "a cat", "negative_prompt": [3]}, "negative_prompt must be a string"),
        ({"prompt": "a cat", "height": 0}, r"multiples of 8, not 0×64"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(pipe, wrong, says):
    with pytest.raises(ValueError, match=says):
        pipe(**wrong, **HOW)


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_a_callback_may_change_the_text(pipe):
    other = torch.cat(pipe.encode_prompt("a blue house")[::-1])  # unconditional, then conditional

    def change(pipe, step, timestep, tensors):
        return {"prompt_embeds": other}

    how = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    changed, first = draw(pipe, "a cat", **how), draw(pipe, "a cat", num_inference_steps=1)
    assert not torch.equal(changed, draw(pipe, "a cat"))
    # After the first step, which used the cat's states, the house is generated.
    assert torch.equal(draw(pipe, "a cat", num_inference_steps=1, **how), first)


def test_diffusers_own_callback_ends_guidance(pipe):
    seen = []

    class Cutoff(SDCFGCutoffCallback):
        def callback_fn(self, pipeline, step, timestep, tensors):
            out = super().callback_fn(pipeline, step, timestep, tensors)
            seen.append((len(out["prompt_embeds"]), pipeline.do_classifier_free_guidance, pipeline.num_timesteps))
            return out

    cut = draw(pipe, "a cat", callback_on_step_end=Cutoff(cutoff_step_ratio=0.5))
    assert seen == [(2, True, 4), (2, True, 4), (1, False, 4), (1, False, 4)]
    assert not torch.equal(cut, draw(pipe, "a cat")) and not torch.equal(cut, draw(pipe, "a cat", guidance_scale=1.0))
    assert torch.equal(draw(pipe, "a cat"), draw(pipe, "a cat"))  # the next call is guided again


def test_each_batch_begins_with_the_guidance_of_the_call(pipe):
    rows = LatentDiffusionPipeline(**pipe.components)
    rows.set_progress_bar_config(disable=True)
    rows.max_batch_bytes = 1  # one row per batch

    def end(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": tensors["prompt_embeds"][-1:]}

    how = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    both, alone = draw(rows, **how), draw(rows, PROMPTS[0], **how)
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_a_callback_that_leaves_other_rows_is_refused(pipe):
    def halve(pipe, step, timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"][:1]}

    with pytest.raises(ValueError, match="left 1 rows of prompt_embeds for 1 latents and a guidance_scale of 3"):
        draw(pipe, "a cat", callback_on_step_end=halve, callback_on_step_end_tensor_inputs=["prompt_embeds"])


# --- nested calls ---------------------------------------------------------------------------------------------------


def test_a_draw_within_a_draw_changes_neither(pipe):
    inner = []
    other = LatentDiffusionPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)

    def draw_too(pipe, step, timestep, tensors):
        inner.append(draw(other, "a blue house"))
        return {}

    assert torch.allclose(draw(pipe, callback_on_step_end=draw_too), draw(pipe), atol=1e-6)
    assert all(torch.allclose(one, draw(pipe, "a blue house"), atol=1e-6) for one in inner) and len(inner) == 4
    assert not any("_conv_forward" in module.__dict__ for module in pipe.unet.modules())


def test_two_threads_share_weights(pipe):
    pipes = [LatentDiffusionPipeline(**pipe.components) for _ in range(2)]
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def work(i: int) -> None:
        pipes[i].set_progress_bar_config(disable=True)
        found[i] = [draw(pipes[i], PROMPTS[i]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, prompt in enumerate(PROMPTS):
        wanted = draw(pipe, prompt)
        assert len(found[i]) == 4 and all(torch.allclose(one, wanted, atol=1e-5) for one in found[i])
