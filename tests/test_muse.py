"""Muse: the masked transformer, parallel decoding, its pipeline, recipe and commands."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import TINY_PRIOR, losses, recipe, vqvae_recipe

from t2i.cli import main
from t2i.files import read_json
from t2i.images import to_tensor
from t2i.pipelines import AutoPipeline, MusePipeline
from t2i.prior.masked import MaskedTransformer, mask_ratio, random_mask
from t2i.prior.parallel_decoding import fix_codes, guidance_at, halton_order, num_masked
from t2i.prior.sampling import exponential_noise
from t2i.text.bpe import encode
from t2i.training.cli import run
from t2i.training.held_out import RIGHT, loaded

PROMPTS = ["a red cat", "a blue car on top of a tree"]
N, K = 16, 32


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture
def batch(masked_prior):
    text = torch.randint(1, masked_prior.config.text_vocab_size, (3, 8))
    text[1, 5:] = 0
    return text, torch.randint(K, (3, N))


def tokens(pipe, prompt=PROMPTS, **how) -> torch.Tensor:
    return pipe(prompt, output_type="latent", **how).tokens


# --- the transformer ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_code_is_predicted_from_all_others_and_the_text(masked_prior, batch):
    text, codes = batch
    logits = masked_prior(text, codes)
    assert logits.shape == (3, N, K)
    for changed in (0, N - 1):
        other = codes.clone()
        other[:, changed] = (other[:, changed] + 1) % K
        assert ((masked_prior(text, other) - logits).abs().amax(-1) > 1e-6).all()
    other = text.clone()
    other[:, 0] = other[:, 0] % 400 + 1
    assert ((masked_prior(other, codes) - logits).abs().amax(-1) > 1e-6).all()


def test_the_loss_ignores_unmasked_codes(masked_prior, batch):
    """It is the cross-entropy at masked positions, and does not see the codes that stand there."""
    text, codes = batch
    masked = torch.rand(3, N) < 0.5
    hidden = torch.where(masked, K, codes)
    logits = masked_prior(text, hidden)
    expected = torch.nn.functional.cross_entropy(logits[masked], codes[masked])
    found = masked_prior.loss(text, codes, masked)
    assert torch.allclose(found["masked"], expected, atol=1e-5)
    assert torch.allclose(found["loss"], expected * masked.sum() / (codes.numel() * 2 / math.pi), atol=1e-5)
    masked_prior.loss(text, codes, torch.zeros_like(masked))["loss"].backward()
    assert not any(p.grad.any() for p in masked_prior.parameters() if p.grad is not None)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts(masked_prior, batch):
    masked = torch.rand(3, N) < torch.tensor([[0.1], [0.5], [0.9]])
    parts = [masked_prior.loss(*(x[i, None] for x in (*batch, masked)))["loss"] for i in range(3)]
    assert torch.allclose(masked_prior.loss(*batch, masked)["loss"], torch.stack(parts).mean(), atol=1e-5)


def test_gradient_reaches_every_parameter(masked_prior, batch):
    masked_prior.loss(*batch, torch.rand(3, N) < 0.5)["loss"].backward()
    assert [n for n, p in masked_prior.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradient_checkpointing_changes_no_gradient(masked_prior, batch):
    masked = torch.rand(3, N) < 0.5
    masked_prior.train().loss(*batch, masked)["loss"].backward()
    plain = {n: p.grad.clone() for n, p in masked_prior.named_parameters()}
    masked_prior.zero_grad()
    masked_prior.enable_gradient_checkpointing()
    masked_prior.loss(*batch, masked)["loss"].backward()
    assert all(torch.allclose(p.grad, plain[n], atol=1e-6) for n, p in masked_prior.named_parameters())


def test_save_and_load_are_bit_equal(masked_prior, batch, tmp_path):
    masked_prior.save_pretrained(tmp_path)
    again = MaskedTransformer.from_pretrained(tmp_path)
    assert torch.equal(masked_prior(*batch), again(*batch))


def test_shapes_of_another_model_are_refused(masked_prior, batch):
    with pytest.raises(ValueError, match=r"shapes \(B, 8\) and \(B, 16\)"):
        masked_prior(batch[0], batch[1][:, 1:])


def test_training_masks_follow_the_cosine_schedule():
    """The mean of cos(π r / 2) over uniform r is 2/π, and its CDF is 1 − 2/π arccos; at least one code is masked."""
    rng = np.random.default_rng(0)
    ratios = torch.stack([random_mask(256, rng) for _ in range(2000)]).float().mean(1)
    assert ratios.min() > 0
    assert ratios.mean() == pytest.approx(2 / math.pi, abs=0.02)
    assert (ratios < 0.5).float().mean() == pytest.approx(1 - 2 / math.pi * math.acos(0.5), abs=0.03)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_the_cosine_schedule_falls_from_1_to_0():
    assert [mask_ratio(r) for r in (0, 1 / 3, 2 / 3, 1)] == pytest.approx([1, math.sqrt(3) / 2, 0.5, 0], abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 8, 12, 16, 255, 256, 300])
def test_masked_codes_fall_to_0_by_at_least_one_a_step(steps):
    start = torch.tensor([256, 100, 5, 0])
    numbers = torch.stack([start] + [num_masked(t, steps, start) for t in range(steps)])
    assert (numbers[-1] == 0).all()
    assert ((numbers[1:] < numbers[:-1]) | (numbers[1:] == 0)).all()
    if steps == 256:
        assert numbers[:, 0].tolist() == list(range(256, -1, -1))
    if steps == 8:  # ⌊256 cos(π t / 16)⌋
        assert numbers[:, 0].tolist() == [256, 251, 236, 212, 181, 142, 97, 49, 0]


def test_linear_guidance_rises_from_none_to_its_scale():
    assert [guidance_at(t, 5, 3.0, "linear") for t in range(5)] == [1, 1.5, 2, 2.5, 3]
    assert {guidance_at(t, 5, 3.0, "constant") for t in range(5)} == {3.0}
    assert guidance_at(0, 1, 3.0, "linear") == 3.0


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16, 32])
def test_the_halton_order_has_every_position_once(side):
    assert sorted(halton_order(side)) == list(range(side**2))


def test_the_halton_order_is_known():
    """Base 2: 1/2, 1/4, 3/4, 1/8 …; base 3: 1/3, 2/3, 1/9, 4/9 …"""
    assert halton_order(8)[:4] == (4 * 8 + 2, 2 * 8 + 5, 6 * 8 + 0, 1 * 8 + 3)


@pytest.mark.parametrize("length", [8, 16, 32, 64, 128])
def test_beginnings_of_the_halton_order_are_spread(length):
    """The star discrepancy is far below that of raster order, and below that of most random orders."""
    side, rng = 16, np.random.default_rng(0)
    halton = discrepancy(halton_order(side)[:length], side)
    assert halton < 0.4 * discrepancy(range(length), side)
    others = [discrepancy(rng.permutation(side**2)[:length], side) for _ in range(50)]
    assert halton < np.quantile(others, 0.2)


def discrepancy(positions, side: int) -> float:
    """The largest difference between the fraction of positions in a box [0, a) × [0, b) and its area."""
    grid = np.zeros((side, side))
    grid.flat[list(positions)] = 1
    inside = grid.cumsum(0).cumsum(1) / grid.sum()
    edges = np.arange(1, side + 1) / side
    return float(np.abs(inside - np.outer(edges, edges)).max())


# --- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, halton_order(4)])
def test_a_fixed_code_never_changes(order):
    codes = torch.randint(K, (3, N)).masked_fill(torch.rand(3, N) < 0.7, K)
    start = (codes == K).sum(1)
    for step in range(8):
        before = codes
        left = num_masked(step, 8, start)
        order_ = None if order is None else torch.tensor(order)
        codes = fix_codes(torch.randn(3, N, K), codes, left, order=order_, choice_temperature=4.5)
        fixed = before < K
        assert torch.equal(codes[fixed], before[fixed])
        assert torch.equal((codes == K).sum(1), left)
    assert (codes < K).all()


def test_without_noise_the_most_certain_codes_are_kept():
    logits = torch.zeros(1, 4, K)
    logits[0, :, 7] = torch.tensor([5.0, 40.0, 10.0, 30.0])
    codes = fix_codes(logits, torch.full((1, 4), K), torch.tensor([2]), top_k=1)
    assert codes.tolist() == [[K, 7, K, 7]]


@pytest.mark.parametrize("order", ["raster", "halton", "random"])
@torch.no_grad()
def test_one_code_a_step_is_ancestral_sampling(order, masked_prior, batch):
    """A brute-force loop over the model's conditionals with the same noise: Exp(1) for each position and code."""
    text = batch[0][:1]
    positions = {"raster": range(N), "halton": halton_order(4), "random": torch.randperm(N).tolist()}[order]
    how = {"order": torch.tensor(list(positions)), "temperature": 0.7, "generators": seeded(5)}
    codes, start = torch.full((1, N), K), torch.tensor([N])
    for step in range(N):
        codes = fix_codes(masked_prior(text, codes), codes, num_masked(step, N, start), **how)

    expected, [generator] = torch.full((1, N), K), seeded(5)
    for position in positions:
        probabilities = (masked_prior(text, expected)[0, position] / 0.7).softmax(-1)
        noise = torch.empty(N, K).exponential_(generator=generator)[position]
        expected[0, position] = (probabilities / noise).argmax()
    assert torch.equal(codes, expected)


@torch.no_grad()
def test_codes_follow_the_conditionals(masked_prior, batch):
    """One masked code, sampled many times, has the model's probabilities."""
    text, codes = batch[0][:1].expand(4000, -1), batch[1][:1].clone()
    codes[0, 3] = K
    logits = masked_prior(text[:1], codes)
    sampled = fix_codes(logits.expand(4000, -1, -1), codes.expand(4000, -1), torch.zeros(4000, dtype=torch.long))
    found = torch.bincount(sampled[:, 3], minlength=K) / 4000
    assert (found - logits[0, 3].softmax(-1)).abs().max() < 0.04


def test_noise_of_a_row_is_its_generators_alone():
    both = exponential_noise(torch.empty(2, 3, 4), seeded(0, 1))
    assert torch.equal(both[1], exponential_noise(torch.empty(1, 3, 4), seeded(1))[0])


# --- the pipeline ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "halton"])
def test_an_image_depends_on_its_generator_only(muse, schedule):
    how = {"schedule": schedule, "num_inference_steps": 5}
    together = tokens(muse, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3), **how)
    assert together.shape == (4, 4, 4) and together.max() < K
    for i in range(4):
        assert torch.equal(tokens(muse, PROMPTS[i // 2], generator=seeded(i), **how)[0], together[i])
    muse.max_batch_bytes = 1  # so little that every image is a separate batch
    assert torch.equal(tokens(muse, num_images_per_prompt=2, generator=seeded(0, 1, 2, 3), **how), together)


def test_output_types_hold_the_same_image(muse):
    how = {"prompt": "a red cat", "num_inference_steps": 3}
    pil = np.array(muse(**how, generator=seeded(5)).images[0]) / 255
    array = muse(**how, generator=seeded(5), output_type="np").images[0]
    tensor, _ = muse(**how, generator=seeded(5), output_type="pt", return_dict=False)
    assert np.array_equal(array, tensor[0].permute(1, 2, 0).numpy())
    assert np.abs(array - pil).max() <= 0.5 / 255 + 1e-6


def test_guidance_at_one_is_the_conditional_model_alone(muse, monkeypatch):
    def guided(scale: float, negative: str | None) -> torch.Tensor:
        return tokens(muse, guidance_scale=scale, negative_prompt=negative, generator=seeded(0, 1))

    assert torch.equal(guided(1.0, None), guided(1.0, "a tree"))
    assert not torch.equal(guided(3.0, None), guided(3.0, "a tree"))
    rows, forward = [], muse.prior.forward
    monkeypatch.setattr(muse.prior, "forward", lambda text, codes: rows.append(len(text)) or forward(text, codes))
    tokens(muse, guidance_scale=1.0)
    assert set(rows) == {2}


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_guided_logits_agree_with_the_two_models_by_hand(muse, schedule):
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append({name: tensor.clone() for name, tensor in tensors.items()})
        return {}

    muse(
        "a red cat",
        guidance_scale=3.0,
        guidance_schedule=schedule,
        num_inference_steps=4,
        generator=seeded(0),
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["codes", "logits"],
    )
    text, none = muse._encode(["a red cat"]), muse._encode([""])
    codes = torch.full((1, N), K)
    for step, tensors in enumerate(seen):
        scale = 3.0 if schedule == "constant" else 1 + 2 * step / 3
        with torch.no_grad():
            c, u = muse.prior(text, codes), muse.prior(none, codes)
        assert (tensors["logits"] - (u + scale * (c - u))).abs().max() < 1e-3
        codes = tensors["codes"]
    assert [(tensors["codes"] == K).sum().item() for tensors in seen] == [14, 11, 6, 0]


def test_a_callback_may_change_codes_and_stop(muse):
    def force(pipe, step, timestep, tensors):
        return {"codes": torch.full_like(tensors["codes"], 3)}

    assert (tokens(muse, "a red cat", callback_on_step_end=force) == 3).all()

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 0
        return tensors

    assert (tokens(muse, "a red cat", callback_on_step_end=stop, num_inference_steps=4) == 0).sum() >= 14
    assert (tokens(muse, "a red cat") != 0).any()  # and the next call works normally


def test_a_callback_cannot_change_what_inpainting_keeps(muse):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    mask = Image.fromarray(np.repeat(np.uint8([0, 255]), 8)[:, None].repeat(16, 1))  # the lower half
    plain = muse("a red cat", image=image, mask_image=mask).tokens
    forced = muse(
        "a red cat",
        image=image,
        mask_image=mask,
        callback_on_step_end=lambda pipe, step, timestep, tensors: {"codes": torch.full_like(tensors["codes"], 3)},
    ).tokens
    assert torch.equal(forced[:, :2], plain[:, :2]) and (forced[:, 2:] == 3).all()


def test_inpainting_keeps_codes_and_pixels(muse):
    """Codes that cover no pixel to repaint are the image's; pixels outside the mask are bit-equal."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    mask = np.zeros((16, 16), np.uint8)
    mask[:6, 3:9] = 255
    how = {"image": image, "mask_image": Image.fromarray(mask), "num_images_per_prompt": 2}
    out = muse("a red cat", **how, generator=seeded(0, 1))
    original = muse.image_tokenizer.encode(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1)
    free = torch.zeros(4, 4, dtype=torch.bool)
    free[:2, :3] = True  # of 4×4 pixels each
    for codes, made in zip(out.tokens, out.images, strict=True):
        assert torch.equal(codes[~free], original[0][~free])
        assert np.array_equal(np.asarray(made)[mask == 0], np.asarray(image)[mask == 0])
    assert not torch.equal(out.tokens[0], out.tokens[1])


def test_inpainting_one_image_is_as_in_a_batch_with_other_masks(muse):
    images = torch.rand(2, 3, 16, 16)
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, :, :4, :4] = masks[1, :, :, 4:] = 1  # 1 code, and 12
    both = tokens(muse, image=images, mask_image=masks, generator=seeded(0, 1))
    for i in range(2):
        alone = tokens(muse, PROMPTS[i], image=images[i], mask_image=masks[i], generator=seeded(i))
        assert torch.equal(alone[0], both[i])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": []}, "non-empty"),
        ({"height": 32}, "16×16"),
        ({"output_type": "jpg"}, "unknown output_type"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature"),
        ({"choice_temperature": -1.0}, "choice_temperature"),
        ({"schedule": "linear"}, "choose 'cosine' or 'halton'"),
        ({"guidance_schedule": "cosine"}, "choose 'constant' or 'linear'"),
        ({"image": Image.new("RGB", (16, 16))}, "give both"),
        ({"image": Image.new("RGB", (32, 32)), "mask_image": Image.new("L", (32, 32))}, "16×16, not 32×32"),
        ({"image": torch.rand(3, 3, 16, 16), "mask_image": torch.ones(16, 16)}, "3 for 1"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "latents"),
    ],
)
def test_bad_input_raises(muse, wrong, says):
    with pytest.raises(ValueError, match=says):
        muse(**{"prompt": "a red cat", **wrong})


@pytest.mark.parametrize(
    ("idle", "says"),
    [
        ({"schedule": "halton", "choice_temperature": 2.0}, "choice_temperature has no effect"),
        ({"guidance_scale": 1.0, "negative_prompt": "a tree"}, "negative_prompt has no effect"),
        ({"image": torch.rand(3, 16, 16), "mask_image": torch.zeros(16, 16)}, "nothing is repainted"),
    ],
)
def test_an_option_without_effect_says_so(muse, idle, says, caplog):
    muse("a red cat", **idle)
    assert says in caplog.text


def test_damaged_weights_raise(muse):
    muse.prior.image_bias.data[:] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        muse("a red cat")


def test_components_that_do_not_belong_together_raise(text_tokenizer, vqvae):
    other = MaskedTransformer(len(text_tokenizer), 64, text_length=8, grid_size=4, width=32, layers=1, heads=4)
    with pytest.raises(ValueError, match=r"64 image tokens.*not trained together"):
        MusePipeline(text_tokenizer, other, vqvae)


def test_auto_pipeline_opens_it_with_the_same_images(muse, tmp_path):
    muse.save_pretrained(tmp_path / "saved")
    again = AutoPipeline.from_pretrained(tmp_path / "saved")
    assert isinstance(again, MusePipeline)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(tokens(again, generator=seeded(0, 1)), tokens(muse, generator=seeded(0, 1)))


# --- commands and recipe --------------------------------------------------------------------------------------------


def test_it_generates_and_repaints_on_the_command_line(muse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    muse.save_pretrained("saved")
    how = ["--pipeline", "saved", "--num-images", "2", "--num-inference-steps", "4", "--device", "cpu"]
    main(["generate", "a red cat", *how, "--schedule", "halton", "--guidance-schedule", "linear", "--out", "made/"])
    assert Image.open("made/a-red-cat-0.png").size == (16, 16)
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 8))
    mask.save("mask.png")
    main(["inpaint", "made/a-red-cat-0.png", "mask.png", "a blue car", *how, "--out", "repainted/"])
    before, after = (np.asarray(Image.open(f)) for f in ("made/a-red-cat-0.png", "repainted/a-blue-car-1.png"))
    assert np.array_equal(before[8:], after[8:])
    for args, says in (
        (["edit", "made/a-red-cat-0.png", "x", "--pipeline", "saved"], "does not edit"),
        (["inpaint", "mask.png", "mask.png", "x", "--pipeline", "saved", "--strength", "0.5"], "leave --strength out"),
        (["generate", "x", "--pipeline", "saved", "--num-candidates", "4"], "no likelihood to rank candidates by"),
        (["generate", "x", "--pipeline", "saved", "--scheduler", "ddim"], "takes no --scheduler"),
        (["generate", "x", "--pipeline", "toybox/dalle", "--schedule", "halton"], "takes no --schedule"),
    ):
        with pytest.raises(SystemExit, match=says):
            main(args)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory) -> Path:
    return run(vqvae_recipe(tmp_path_factory.mktemp("runs") / "vqvae", max_train_steps=2, checkpointing_steps=2))


def test_the_tiny_recipe_trains_and_resumed_is_never_stopped(stage1, tmp_path):
    how = {"tokenizer": str(stage1), "max_train_steps": 2, "checkpointing_steps": 1, "validation_prompts": ("a cat",)}

    def made(name: str, **more):
        return recipe("muse-toybox", tmp_path / name, TINY_PRIOR | {"dropout": 0.2}, **how, **more)

    folder = run(made("whole"))
    run(made("parts"))
    (tmp_path / "parts" / "checkpoint-2").rename(tmp_path / "parts" / ".checkpoint-2.part")
    run(made("parts", resume="latest"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [tmp_path / name / "checkpoint-2" / "state" / "model.safetensors" for name in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert AutoPipeline.from_pretrained(folder)("a red cat", num_inference_steps=2).images[0].size == (64, 64)


def test_the_held_out_loss_with_everything_masked_is_that_of_training(stage1, tmp_path):
    how = {"tokenizer": str(stage1), "max_train_steps": 1, "checkpointing_steps": 1, "validation_prompts": ("a cat",)}
    made = recipe("muse-toybox", tmp_path / "muse", TINY_PRIOR, **how, held_out_images=4)
    scores = read_json(run(made) / "scores.json")["held_out"]
    pipe = AutoPipeline.from_pretrained(tmp_path / "muse")
    images, captions = loaded(made.task().held_out)
    codes = pipe.image_tokenizer.encode(to_tensor(images)).flatten(1)
    text = encode(pipe.tokenizer, captions, pipe.prior.config.text_length).ids
    with torch.no_grad():
        expected = pipe.prior.loss(text, codes, torch.ones_like(codes, dtype=torch.bool))["masked"]
    assert scores["mask_ratios"][-1] == 1
    assert scores["loss_by_mask_ratio"][RIGHT][-1] == pytest.approx(expected.item(), abs=1e-4)


def test_a_run_initialised_from_dalles_prior_has_all_of_its_weights(stage1, tmp_path):
    how = {"tokenizer": str(stage1), "max_train_steps": 1, "checkpointing_steps": 1, "validation_prompts": ("a cat",)}
    prior = run(recipe("prior-toybox", tmp_path / "prior", TINY_PRIOR, **how))
    given = AutoPipeline.from_pretrained(prior).prior.state_dict()
    task = recipe("muse-toybox", tmp_path / "muse", TINY_PRIOR, **how, init_from=str(prior)).task()
    for name, weight in task.model.state_dict().items():
        expected = given[name]
        assert torch.equal(weight[: len(expected)], expected), name
    assert len(task.model.image_tokens.weight) == len(given["image_tokens.weight"]) + 1
    for other, model, why in (
        (prior, {**TINY_PRIOR, "width": 16}, "other sizes"),
        (Path("toybox/ldm"), TINY_PRIOR, "no transformer over image tokens"),
        (Path("toybox/dalle"), TINY_PRIOR, "another image tokenizer"),
    ):
        with pytest.raises(ValueError, match=why):
            recipe("muse-toybox", tmp_path / "muse", model, **how, init_from=str(other)).task()
