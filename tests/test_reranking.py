"""Reranking of candidates, in all systems: by likelihood, by CLIP, by a function."""

from __future__ import annotations

import json
import math
from itertools import islice

import numpy as np
import pytest
import torch
from diffusion_parts import SIDE, pipeline, save_clip
from peak_memory import PeakBytes
from PIL import Image

from t2i.checks import UsageError
from t2i.cli import main
from t2i.eval.config import SweepConfig
from t2i.eval.features import open_extractor
from t2i.pipelines import LatentDiffusionImg2ImgPipeline, LatentDiffusionInpaintPipeline
from t2i.pipelines.reranking import candidate_generators, keep_best, open_reranker, score_images

PROMPTS = ["a red cat", "a blue car"]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def seeds_of(seed: int, num: int) -> list[int]:
    """The seeds of an image's candidates."""
    return torch.randint(2**63 - 1, (num,), generator=torch.Generator().manual_seed(seed)).tolist()


def redness(prompts: list[str], images: list[Image.Image]) -> list[float]:
    """A score that reads both: redder images are better for the cat, and worse for the car."""
    signs = [1 if "red" in prompt else -1 for prompt in prompts]
    return [sign * float(np.asarray(image)[..., 0].mean()) for sign, image in zip(signs, images, strict=True)]


def to_repaint(size: int):
    """An image, a mask of its upper half, a reranker that notes which images it saw, and those."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))
    mask = Image.fromarray(np.pad(np.full((size // 2, size), 255, np.uint8), ((0, size // 2), (0, 0))))
    seen: list[np.ndarray] = []

    def score(prompts: list[str], images: list[Image.Image]) -> list[float]:
        seen.extend(np.asarray(image) for image in images)
        return redness(prompts, images)

    return image, mask, score, seen


def same_below(image: Image.Image, candidate: Image.Image | np.ndarray) -> bool:
    """Whether the lower half is the image's, bit for bit."""
    half = image.height // 2
    return np.array_equal(np.asarray(image)[half:], np.asarray(candidate)[half:])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def ldm():
    return pipeline()


def test_dalle_keeps_the_best_of_all_candidates(pipe, clip_folder):
    for reranker in (redness, clip_folder, f"clip:{clip_folder}", "likelihood"):
        out = pipe(PROMPTS, num_candidates=6, generator=seeded(3, 4), reranker=reranker)
        for i, prompt in enumerate(PROMPTS):
            generator = seeded(*seeds_of(3 + i, 6))
            alone = pipe(prompt, num_images_per_prompt=6, generator=generator, reranker=reranker)
            assert len(alone.scores.unique()) > 1
            assert torch.isclose(out.scores[i], alone.scores.max(), atol=1e-4)
            assert torch.equal(out.tokens[i], alone.tokens[alone.scores.argmax()])


def test_muse_keeps_the_best_of_all_candidates(muse, clip_folder):
    for reranker in (redness, clip_folder):
        how = {"reranker": reranker, "num_inference_steps": 3, "output_type": "latent"}
        out = muse(PROMPTS, num_candidates=5, generator=seeded(3, 4), **how)
        for i, prompt in enumerate(PROMPTS):
            alone = muse(prompt, num_images_per_prompt=5, generator=seeded(*seeds_of(3 + i, 5)), **how)
            assert len(alone.scores.unique()) > 1
            assert torch.isclose(out.scores[i], alone.scores.max(), atol=1e-4)
            assert torch.equal(out.tokens[i], alone.tokens[alone.scores.argmax()])
        muse.max_batch_bytes = 1  # so little that every candidate is a separate batch
        assert torch.equal(muse(PROMPTS, num_candidates=5, generator=seeded(3, 4), **how).tokens, out.tokens)


def test_latent_diffusion_keeps_the_best_of_all_candidates(ldm, clip_folder):
    how = {"num_inference_steps": 2, "output_type": "latent"}
    for reranker in (redness, clip_folder):
        out = ldm(PROMPTS, num_candidates=5, generator=seeded(3, 4), reranker=reranker, **how)
        for i, prompt in enumerate(PROMPTS):
            generator = seeded(*seeds_of(3 + i, 5))
            alone = ldm(prompt, num_images_per_prompt=5, generator=generator, reranker=reranker, **how)
            assert torch.isclose(out.scores[i], alone.scores.max(), atol=1e-4)
            assert torch.allclose(out.images[i], alone.images[alone.scores.argmax()], atol=1e-4)


def test_the_result_does_not_depend_on_the_batch_size(pipe, ldm):
    def dalle():
        return pipe(PROMPTS, num_candidates=5, num_images_per_prompt=2, generator=seeded(*range(4)), reranker=redness)

    def latents():
        how = {"num_inference_steps": 2, "output_type": "latent", "scheduler": "ddim", "eta": 1.0}
        return ldm(PROMPTS, num_candidates=5, generator=seeded(0, 1), reranker=redness, **how)

    whole, whole_latents = dalle(), latents()
    pipe.max_batch_bytes = 1  # so little that every candidate is a separate batch
    ldm.max_batch_bytes = 1
    try:
        one, one_latents = dalle(), latents()
    finally:
        ldm.max_batch_bytes = None
    assert torch.equal(one.tokens, whole.tokens)
    assert torch.allclose(one.scores, whole.scores, atol=1e-3)
    assert torch.allclose(one_latents.images, whole_latents.images, atol=1e-4)
    assert not torch.allclose(whole_latents.images[0], whole_latents.images[1], atol=1e-2)


def test_an_image_and_its_candidates_depend_on_its_generator_only(pipe, ldm):
    together = pipe("a red cat", num_candidates=3, num_images_per_prompt=3, generator=seeded(5, 6, 7))
    alone = pipe("a red cat", num_candidates=3, generator=seeded(6))
    assert torch.equal(together.tokens[1], alone.tokens[0])
    how = {"num_candidates": 3, "reranker": redness, "num_inference_steps": 2, "output_type": "latent"}
    together = ldm("a red cat", num_images_per_prompt=2, generator=seeded(5, 6), **how)
    alone = ldm("a red cat", generator=seeded(6), **how)
    assert torch.allclose(together.images[1], alone.images[0], atol=1e-4)
    one = ldm("a red cat", num_images_per_prompt=2, generator=torch.Generator().manual_seed(1), **how).images
    assert torch.equal(one, ldm("a red cat", num_images_per_prompt=2, generator=seeded(1)[0], **how).images)


def test_a_single_candidate_is_the_image_of_the_seed_with_a_score(pipe, ldm):
    plain = pipe(PROMPTS, generator=seeded(0, 1))
    scored = pipe(PROMPTS, generator=seeded(0, 1), reranker=redness)
    assert torch.equal(plain.tokens, scored.tokens)
    assert scored.scores.tolist() == pytest.approx(redness(PROMPTS, plain.images))
    how = {"num_inference_steps": 2}
    plain = ldm(PROMPTS, generator=seeded(0, 1), **how)
    scored = ldm(PROMPTS, generator=seeded(0, 1), reranker=redness, **how)
    assert plain.scores is None
    assert np.array_equal(np.stack(plain.images), np.stack(scored.images))
    assert scored.scores.tolist() == pytest.approx(redness(PROMPTS, plain.images))
    assert len(ldm(PROMPTS, return_dict=False, **how)) == 2
    assert torch.is_tensor(ldm(PROMPTS, reranker=redness, return_dict=False, **how)[2])


def test_memory_does_not_grow_with_the_number_of_candidates(pipe, ldm, muse):
    pipe.max_batch_bytes = ldm.max_batch_bytes = muse.max_batch_bytes = 1

    def peak(call, num: int) -> int:
        with PeakBytes() as memory:
            call(num)
        return memory.peak

    def dalle(num: int) -> None:
        pipe("a red cat", num_candidates=num, generator=seeded(0), reranker=redness)

    def latents(num: int) -> None:
        ldm("a red cat", num_candidates=num, generator=seeded(0), reranker=redness, num_inference_steps=1)

    def parallel(num: int) -> None:
        muse("a red cat", num_candidates=num, generator=seeded(0), reranker=redness, num_inference_steps=1)

    try:
        for call in (dalle, latents, parallel):
            call(1)  # lazily made constants
            few, many = peak(call, 2), peak(call, 24)
            assert few > 10_000
            assert many - few < 24 * 32, call  # less than 32 bytes a candidate, of which each has more as codes
    finally:
        ldm.max_batch_bytes = None
    made = candidate_generators(seeded(0), 10**12)  # as they are needed
    assert [g.initial_seed() for g in islice(made, 3)] == seeds_of(0, 3)


def test_of_equal_scores_the_first_one_counts():
    images, scores = torch.tensor([0, 0, 1, 0, 1]), torch.tensor([1.0, 2.0, 5.0, 2.0, 5.0])
    best, best_scores = torch.zeros(3, 2), torch.full((3,), -torch.inf)
    for part in ([0, 1], [2], [3, 4]):
        keep_best(images[part], torch.arange(10).view(5, 2)[part], scores[part], best, best_scores)
    assert best.tolist() == [[2, 3], [4, 5], [0, 0]]
    assert best_scores.tolist() == [2, 5, -math.inf]


def test_clip_scores_are_the_cosines_of_the_evaluation(clip_folder):
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    prompts = ["a red cat", "a blue car", "a red cat"]
    scores = score_images(open_reranker(clip_folder, torch.device("cpu")), prompts, images)
    extractor = open_extractor(f"clip:{clip_folder}")
    features = extractor(((images + 1) * 127.5).round().to(torch.uint8))
    expected = torch.cosine_similarity(features, extractor.encode_text(prompts))
    assert torch.allclose(scores, expected, atol=1e-5)
    assert scores.shape == (3,)


def test_edited_images_are_ranked_as_they_come_out(ldm):
    """Image to image and inpainting: the kept part is in the candidates, and stays as it is."""
    image, mask, score, seen = to_repaint(8 * SIDE)
    how = {"num_candidates": 4, "reranker": score, "num_inference_steps": 2, "generator": seeded(1)}
    inpaint = LatentDiffusionInpaintPipeline.from_pipe(ldm)
    inpaint.set_progress_bar_config(disable=True)
    out = inpaint("a red cat", image, mask, **how)
    assert all(same_below(image, candidate) for candidate in (*seen, *out.images))
    assert len({candidate.tobytes() for candidate in seen}) == 4
    assert out.scores[0] == pytest.approx(max(redness(["red"] * 4, seen)))
    img2img = LatentDiffusionImg2ImgPipeline.from_pipe(ldm)
    img2img.set_progress_bar_config(disable=True)
    seen.clear()
    out = img2img("a red cat", image, 0.6, **how | {"generator": seeded(1)})
    assert out.scores[0] == pytest.approx(max(redness(["red"] * 4, seen)))


def test_repainted_images_are_ranked_as_they_come_out(muse):
    image, mask, score, seen = to_repaint(muse.image_size)
    out = muse("a red cat", None, image, mask, num_candidates=4, reranker=score, num_inference_steps=2)
    assert all(same_below(image, candidate) for candidate in (*seen, *out.images))
    assert len({candidate.tobytes() for candidate in seen}) > 1
    assert out.scores[0] == pytest.approx(max(redness(["red"] * 4, seen)))


def test_muse_without_a_reranker(muse):
    """Its images have no score, and there is no likelihood to choose among several by."""
    how = {"num_inference_steps": 2, "generator": seeded(0)}
    assert muse("a red cat", **how).scores is None
    assert len(muse("a red cat", return_dict=False, **how)) == 2
    images, _, scores = muse("a red cat", reranker=redness, return_dict=False, **how)
    assert scores.tolist() == pytest.approx(redness(["red"], images))
    for reranker in (None, "likelihood"):
        with pytest.raises(ValueError, match="parallel decoding has no likelihood"):
            muse("a red cat", num_candidates=2, reranker=reranker)


def test_an_interrupted_call_returns_what_it_has(pipe):
    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 15
        return {}

    pipe.max_batch_bytes = 1
    out = pipe(PROMPTS, num_candidates=2, generator=seeded(0, 1), callback_on_step_end=stop)
    assert out.scores.isfinite().tolist() == [True, False]
    assert (out.tokens[1] == 0).all()
    codes = torch.randint(1, 32, (2, 4, 4))
    out = pipe(PROMPTS, image=codes, keep_codes=8, generator=seeded(0, 1), callback_on_step_end=stop)
    assert torch.equal(out.tokens.flatten(1)[:, :8], codes.flatten(1)[:, :8]), "kept, also where it did not come"


def test_the_likelihood_refuses_to_rank_without_a_prompt(pipe):
    """All candidates would have the score 0."""
    with pytest.raises(ValueError, match="cannot rank candidates of an empty prompt"):
        pipe("", num_candidates=2)
    assert pipe("", num_candidates=2, reranker=redness, generator=seeded(0)).scores.isfinite().all()


def test_rerankers_of_a_sweep_have_folders_of_their_own():
    with pytest.raises(UsageError, match="more than punctuation and capitals"):
        SweepConfig(over="num_candidates", values=(1, 2), rerankers=("runs/clip_a", "runs/clip-a"))


@pytest.mark.parametrize(
    ("reranker", "message"),
    [
        (lambda prompts, images: [1.0], "one finite number per image"),
        (lambda prompts, images: [math.nan] * len(images), "one finite number per image"),
        ("toybox/clop", "t2i train clip-toybox"),
        ("open_clip:ViT-B-32", "names no weights"),
        ("", "a reranker is the name of a CLIP"),
        (3, "a reranker is the name of a CLIP"),
    ],
)
def test_unusable_rerankers_are_named(pipe, reranker, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pipe("a red cat", num_candidates=2, reranker=reranker)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "no likelihood to rank candidates by: give a reranker"),
        ({"reranker": "likelihood"}, "no likelihood to rank candidates by"),
        (
            {"reranker": redness, "latents": torch.zeros(1, 4, SIDE, SIDE)},
            "noise of a single candidate",
        ),
        ({"reranker": redness, "num_candidates": 0}, "num_candidates must be at least 1"),
    ],
)
def test_latent_diffusion_says_what_candidates_need(ldm, how, message):
    with pytest.raises(ValueError, match=message):
        ldm("a red cat", **{"num_candidates": 2, **how})


def test_a_reranker_needs_the_prompt(ldm):
    states, negative = ldm.encode_prompt("a red cat")
    with pytest.raises(ValueError, match="give it, not prompt_embeds"):
        ldm(prompt_embeds=states, negative_prompt_embeds=negative, num_candidates=2, reranker=redness)


# --- command line -----------------------------------------------------------------------------------------------------


def test_generate_ranks_candidates_in_both_systems(pipe, ldm, clip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("dalle")
    ldm.save_pretrained("ldm")
    few = ["--num-images", "1", "--num-candidates", "2", "--reranker", clip_folder, "--out", "o/"]
    main(["generate", "a red cat", "--pipeline", "dalle", *few])
    main(["generate", "a blue car", "--pipeline", "ldm", "--num-inference-steps", "2", *few])
    for name in ("a-red-cat-0", "a-blue-car-0"):
        settings = json.loads(Image.open(f"o/{name}.png").text["settings"])
        assert (settings["num_candidates"], settings["reranker"]) == (2, clip_folder)
    with pytest.raises(SystemExit, match="give a reranker"):
        main(["generate", "x", "--pipeline", "ldm", "--num-candidates", "2"])


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "x", "--reranker", "toybox/clip"],
        ["eval", "toybox/dalle", "--reranker", "toybox/clip", "--num-candidates", "1"],
        ["report", "sweep", "toybox/dalle", "--rerankers", "toybox/clip", "--over", "guidance_scale"],
    ],
)
def test_a_reranker_without_candidates_is_an_error(args):
    with pytest.raises(SystemExit, match="among candidates"):
        main(args)


def test_a_sweep_compares_rerankers_over_the_number_of_candidates(pipe, clip_folder, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    args = ["--num-images", "18", "--over", "num_candidates", "--values", "1", "2"]
    out = tmp_path / "sweep"
    main(
        ["report", "sweep", str(tmp_path / "pipe"), *args, "--rerankers", "likelihood", clip_folder, "--out", str(out)]
    )
    report = json.loads((out / "report.json").read_text())
    share, distance = report["curves"]
    for reranker in ("likelihood", clip_folder):
        assert [point[0] for point in share["series"][f"colour, {reranker}"]] == [1, 2]
        assert len(distance["series"][f"FD[toybox-v1], {reranker}"]) == 2
    first = [share["series"][f"colour, {reranker}"][0] for reranker in ("likelihood", clip_folder)]
    assert first[0] == first[1]  # a single candidate is the same image by any
    assert len(list(out.glob("num_candidates-*"))) == 3
    assert report["settings"]["rerankers"] == ["likelihood", clip_folder]
