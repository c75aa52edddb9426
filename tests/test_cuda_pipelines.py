"""Pipelines on other devices than the CPU: same images for the same seeds, batching, half precision, offloading."""

from __future__ import annotations

import copy
import dataclasses

import diffusion_parts as parts
import numpy as np
import pytest
import torch
from PIL import Image
from test_conditioned_latents import given, made
from test_cuda_models import some

from t2i.cli import main
from t2i.diffusion.flow import RectifiedFlow
from t2i.diffusion.schedule import NoiseSchedule
from t2i.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, make_scheduler
from t2i.nn.attention import attend
from t2i.pipelines import (
    AutoPipeline,
    LatentDiffusionImg2ImgPipeline,
    LatentDiffusionInpaintPipeline,
    LatentDiffusionPipeline,
)
from t2i.pipelines.latent_diffusion.batches import batch_bytes
from t2i.prior.decoding import Decoder
from t2i.prior.sampling import sample_tokens, shortlist

PROMPTS = ["a red cat", "a blue car on top of a tree"]
STEPS = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np"}
CUDA = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
CODES = pytest.mark.parametrize("codes", ["pipe", "muse"])  # pipelines that generate image codes: DALL·E and Muse
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def seeded(*seeds: int, device: str = "cpu") -> list[torch.Generator]:
    return [torch.Generator(device).manual_seed(s) for s in seeds]


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def ldm() -> LatentDiffusionPipeline:
    return parts.pipeline()


def images(pipe, prompt=PROMPTS, **how) -> np.ndarray:
    return pipe(prompt, **STEPS | {"generator": seeded(0, 1)} | how).images


# --- DALL·E and Muse ------------------------------------------------------------------------------------------------


def test_cached_logits_are_the_cpus(prior, device):
    text, codes = torch.randint(1, 100, (2, 8)), torch.randint(32, (2, 16))

    def logits(where: str) -> torch.Tensor:
        prior.to(where)
        decoder = Decoder(prior, 2)
        found = [decoder.prefill(text.to(where))]
        found += [decoder.step(codes[:, i].to(where), i) for i in range(15)]
        return torch.stack(found, 1).cpu()

    with torch.no_grad():
        here, there = logits("cpu"), logits(device)
        whole = prior(text.to(device), codes.to(device))[1].cpu()
    assert torch.allclose(here, there, rtol=1e-3, atol=1e-3)
    assert torch.allclose(here, whole, rtol=1e-3, atol=1e-3)


@CODES
def test_codes_of_cpu_generators_are_the_cpus(codes, request, device):
    pipe = request.getfixturevalue(codes)
    how = {"generator": seeded(0, 1), "output_type": "latent"}
    here = pipe(PROMPTS, **how)
    pipe.to(device)
    there = pipe(PROMPTS, **how | {"generator": seeded(0, 1)})
    assert there.tokens.device.type == device
    assert (here.tokens == there.tokens.cpu()).float().mean() > 0.9  # rounding of logits may change single tokens


def test_candidates_are_ranked_on_the_device(pipe, device):
    result = pipe.to(device)(PROMPTS, num_candidates=2, generator=seeded(0, 1), output_type="np")
    assert result.images.shape == (2, 16, 16, 3) and result.scores.isfinite().all()


def test_completion_creation_and_likelihoods_run_on_the_device(pipe, device):
    codes = torch.randint(32, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    here = pipe.log_likelihood(PROMPTS, codes)
    pipe.to(device)
    there = pipe.log_likelihood(PROMPTS, codes)
    assert torch.allclose(here.text, there.text.cpu(), rtol=1e-3)
    assert torch.allclose(here.image, there.image.cpu(), rtol=1e-3)
    assert pipe.caption_scores(codes, [*PROMPTS, "a tree"]).shape == (2, 3)
    how = {"num_candidates": 3, "reranker": lambda prompts, images: range(len(images)), "generator": seeded(0, 1)}
    out = pipe(PROMPTS, image=codes, keep_codes=7, **how)
    assert torch.equal(out.tokens.cpu().flatten(1)[:, :7], codes.flatten(1)[:, :7])
    assert len(pipe.create(2, generator=seeded(0, 1)).captions) == 2


def test_inpainting_with_codes_keeps_pixels(muse, device):
    image, mask = torch.rand(3, 16, 16), torch.zeros(16, 16)
    mask[:4] = 1
    how = {"image": image, "mask_image": mask, "generator": seeded(0), "output_type": "pt"}
    made = muse.to(device)("a red cat", **how).images[0].cpu()
    assert torch.allclose(made[:, 4:], image[:, 4:], atol=1e-6) and not torch.allclose(made[:, :4], image[:, :4])


@HALVES
@CODES
def test_codes_in_half_precision(codes, request, dtype, device):
    pipe = request.getfixturevalue(codes).to(device, dtype)
    assert pipe(PROMPTS, generator=seeded(0, 1), output_type="pt").images.isfinite().all()


@CODES
def test_sampling_waits_for_the_device_no_more_often_than_it_must(codes, request, device):
    """Each read of a value makes the CPU wait; the loop over 16 tokens, or 12 steps, has none."""
    if device != "emulated":
        pytest.skip("reads are counted on the emulated device")
    from emulated_device import Accelerator

    pipe = request.getfixturevalue(codes).to(device)
    with Accelerator(float64=True) as counter:
        pipe(PROMPTS, generator=seeded(0, 1), output_type="latent")
    assert counter.reads <= 4


def test_tokens_are_sampled_on_the_device_of_the_logits(device):
    logits = torch.randn(3, 50, device=device)
    for how in ({}, {"top_k": 5}, {"top_p": 0.5}):
        assert sample_tokens(*shortlist(logits, **how), seeded(0, 1, 2)).device.type == device
    assert sample_tokens(*shortlist(logits), None).device.type == device


# --- latent diffusion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoiser", [parts.unet, parts.dit], ids=["unet", "dit"])
def test_images_of_cpu_generators_are_the_cpus(denoiser, device):
    pipe = parts.pipeline(denoiser=denoiser())
    for generator in (lambda: seeded(0, 1), lambda: torch.Generator().manual_seed(0)):
        pipe.to("cpu")
        here = images(pipe, generator=generator())
        pipe.to(device)
        assert np.abs(images(pipe, generator=generator()) - here).max() < 0.05


@pytest.mark.parametrize("name", some(SCHEDULERS, ("ddpm", "euler-ancestral")))
def test_every_scheduler(ldm, name, device):
    how = {"guidance_rescale": 0.5, "dynamic_threshold": 3.0}
    here = images(ldm, scheduler=name, **how)
    ldm.to(device)
    there = images(ldm, scheduler=name, **how)
    assert np.abs(here - there).max() < 0.05


@pytest.mark.parametrize("name", some(FLOW_SCHEDULERS, ("euler",)))
def test_every_scheduler_of_a_flow(name, device):
    pipe = parts.pipeline(make_scheduler(name, RectifiedFlow().scheduler_config()))
    here = images(pipe)
    assert np.abs(images(pipe.to(device)) - here).max() < 0.05


@HALVES
def test_latent_diffusion_in_half_precision(ldm, dtype, device):
    here = images(ldm)
    there = images(ldm.to(device, dtype))
    assert np.isfinite(there).all() and np.abs(here - there).mean() < 0.1


def test_edits(ldm, device):
    photo, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 64, 32))
    for cls, extra in ((LatentDiffusionImg2ImgPipeline, {}), (LatentDiffusionInpaintPipeline, {"mask_image": mask})):
        pipe = quiet(cls.from_pipe(ldm))
        found = []
        for where in ("cpu", device):
            pipe.to(where)
            found.append(images(pipe, image=photo, strength=0.5, **extra))
        assert np.abs(found[0] - found[1]).max() < 0.05
        assert extra == {} or np.abs(found[1][:, 40:] - [1, 0, 0]).max() < 1e-3
    pipe = quiet(LatentDiffusionImg2ImgPipeline.from_pipe(ldm))
    assert len(pipe.variations(photo, n=2, num_inference_steps=2)) == 2
    assert len(ldm.to(device).interpolate(PROMPTS, seeds=(0, 1), num=3, num_inference_steps=2)) == 3


@pytest.mark.parametrize("task", ["upscale", "layout"])
def test_images_from_images_and_maps(ldm, task, device):
    pipe = made(ldm, task)
    found = [
        images(pipe.to(where), "a red cat", generator=seeded(0), **{_input(task): given(task)})
        for where in ("cpu", device)
    ]
    assert np.abs(found[0] - found[1]).max() < 0.05


def _input(task: str) -> str:
    return {"upscale": "image", "layout": "layout"}[task]


def test_prompts_as_states_and_callbacks(ldm, device):
    ldm.to(device)
    states, against = ldm.encode_prompt(PROMPTS)
    assert states.device.type == device
    seen = []

    def look(pipe, step, t, tensors):
        seen.append(tensors["latents"].device.type)
        return tensors

    whole = images(ldm)
    by_states = images(
        ldm, None, prompt_embeds=states.cpu(), negative_prompt_embeds=against.cpu(), callback_on_step_end=look
    )
    assert np.abs(whole - by_states).max() < 1e-3 and set(seen) == {device}


def test_t5_masks_its_padding(device):
    tokenizer = parts.clip_tokenizer()
    schedule = NoiseSchedule().scheduler_config("v_prediction")
    pipe = LatentDiffusionPipeline(
        parts.autoencoder(), parts.t5(tokenizer), tokenizer, parts.unet(), make_scheduler("ddim", schedule)
    )
    here = images(quiet(pipe))
    assert np.abs(images(pipe.to(device)) - here).max() < 0.05


@pytest.mark.slow
def test_the_autoencoder_in_slices_and_tiles(ldm, device):
    whole = images(ldm.to(device))
    ldm.vae.enable_slicing()
    assert np.abs(images(ldm) - whole).max() < 1e-3
    ldm.vae.enable_tiling()
    assert images(ldm, height=128, width=128).shape == (2, 128, 128, 3)


@pytest.mark.parametrize("rows", some([1, 2, 5], (5,)))
def test_small_batches_give_the_same_images(ldm, rows, device):
    ldm.to(device)
    how = {"num_images_per_prompt": 3, "scheduler": "euler-ancestral"}
    whole = images(ldm, generator=seeded(*range(6)), **how)
    ldm.max_batch_bytes = rows * 64 * 16 * 64 * 4 * 2
    assert np.abs(images(ldm, generator=seeded(*range(6)), **how) - whole).max() < 1e-2


# --- GPU only -------------------------------------------------------------------------------------------------------


@CUDA
def test_generators_of_the_device_are_taken(pipe, ldm, device):
    for each in (pipe.to(device), ldm.to(device)):
        how = {"output_type": "np"} if each is pipe else STEPS
        for make in (lambda: seeded(0, 1, device=device), lambda: torch.Generator(device).manual_seed(0)):
            first, again = (each(PROMPTS, **how, generator=make()).images for _ in range(2))
            assert np.array_equal(first, again)


@CUDA
def test_batches_follow_the_memory_that_is_free(ldm, device):
    ldm.to(device)
    free = torch.cuda.mem_get_info()[0]
    assert 0.3 * free < batch_bytes(torch.device(device), ldm.max_batch_bytes) <= free
    assert images(ldm, num_images_per_prompt=64, generator=seeded(*range(128))).shape[0] == 128


@pytest.mark.parametrize("how", ["model", pytest.param("sequential", marks=pytest.mark.cuda)])
def test_offloading_gives_the_same_images(ldm, how, device):
    if how == "sequential" and device != "cuda":
        pytest.skip("its hooks know no emulated device")
    expected = images(ldm.to(device))
    getattr(ldm.to("cpu"), f"enable_{how}_cpu_offload")(device=device)
    for _ in range(2):
        assert np.abs(images(ldm) - expected).max() < 1e-2
        assert {p.device.type for p in ldm.unet.parameters()} <= {"cpu", "meta"}
    edited = images(quiet(LatentDiffusionImg2ImgPipeline.from_pipe(ldm)), image=Image.new("RGB", (64, 64), "red"))
    assert np.isfinite(edited).all()


@pytest.mark.parametrize("how", ["model", "sequential"])
@CODES
def test_what_generates_codes_stays_on_the_device_when_it_is_to_be_offloaded(codes, request, how, device):
    pipe = request.getfixturevalue(codes)
    expected = pipe.to(device)(PROMPTS, generator=seeded(0, 1), output_type="latent").tokens
    getattr(pipe.to("cpu"), f"enable_{how}_cpu_offload")(device=device)
    assert pipe.device.type == device
    assert torch.equal(pipe(PROMPTS, generator=seeded(0, 1), output_type="latent").tokens, expected)


@CUDA
def test_xformers_attends_as_torch_does(device):
    pytest.importorskip("xformers", reason="xformers is not installed")
    q, k, v = torch.randn(3, 2, 4, 16, 32, device=device, dtype=torch.float16)
    for causal in (False, True):
        both = [attend(q, k, v, causal=causal, backend=backend) for backend in ("sdpa", "xformers")]
        assert torch.allclose(*both, atol=1e-2)


@CUDA
def test_every_attention_kernel_of_torch(device):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = torch.randn(3, 2, 4, 64, 32, device=device, dtype=torch.bfloat16)
    found = []
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        with sdpa_kernel(backend):
            found.append(attend(q, k, v, causal=True).float())
    assert all(torch.allclose(found[0], other, atol=3e-2) for other in found[1:])


@CUDA
def test_a_compiled_denoiser_gives_the_same_images(ldm, device):
    expected = images(ldm.to(device))
    plain = ldm.unet
    ldm.unet = torch.compile(copy.deepcopy(plain))
    assert np.abs(images(ldm) - expected).max() < 1e-2


@CUDA
def test_a_compiled_prior_gives_the_same_codes(pipe, device):
    how = {"output_type": "latent"}
    expected = pipe.to(device)(PROMPTS, generator=seeded(0, 1), **how).tokens
    pipe.prior.compile()
    assert torch.equal(pipe(PROMPTS, generator=seeded(0, 1), **how).tokens, expected)


@CUDA
@pytest.mark.parametrize("name", ["toybox/dalle", "toybox/ldm"])
def test_the_embedded_systems_on_the_command_line(name, tmp_path, device):
    for where in ("cpu", device):
        out = str(tmp_path / f"{where}.png")
        main(["generate", "an avocado armchair", "--pipeline", name, "--device", where, "--out", out])
    both = [np.asarray(Image.open(tmp_path / f"{where}.png"), float) for where in ("cpu", device)]
    assert np.abs(both[0] - both[1]).mean() < 8  # of 255; single tokens may change


def test_auto_pipeline_moves_all_its_parts(device):
    pipe = AutoPipeline.from_pretrained("toybox/ldm").to(device)
    kinds = {p.device.type for name in ("unet", "vae", "text_encoder") for p in getattr(pipe, name).parameters()}
    assert kinds == {device}
    assert dataclasses.is_dataclass(quiet(pipe)("a red cat", num_inference_steps=2, generator=seeded(0)))
