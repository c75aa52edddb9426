"""UnCLIPPipeline, its commands, and Kandinsky 2.2, on tiny real components."""

from __future__ import annotations

import diffusion_parts as parts
import numpy as np
import pytest
import torch
import unclip_parts as own
from diffusers import (
    DDPMScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from t2i.cli import main
from t2i.data.toybox_v1 import Scene, Thing
from t2i.eval.generation.images import generate
from t2i.eval.generation.prompt import Prompt
from t2i.pipelines import AutoPipeline, UnCLIPPipeline

CAT, CAR = (Scene((Thing(kind, "red"),), jitter_seed=3).render(64) for kind in ("cat", "car"))
BOTH = pytest.mark.parametrize("kind", ["diffusion", "autoregressive"])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pipe() -> UnCLIPPipeline:
    return own.pipeline()


def latents(pipe, *args, seeds=(0,), **how) -> torch.Tensor:
    options = {"num_inference_steps": 4, "output_type": "latent", "generator": seeded(*seeds)} | how
    return pipe(*args, **options).images


@BOTH
def test_an_image_depends_on_its_prompt_and_generator_only(kind):
    pipe = own.pipeline(kind)
    prompts = ["a red cat", "a blue car on top of a tree"]
    together = latents(pipe, prompts, seeds=(1, 2))
    for i, prompt in enumerate(prompts):
        assert torch.allclose(latents(pipe, prompt, seeds=(i + 1,)), together[i : i + 1], atol=1e-4)
    pipe.max_batch_bytes = 1  # one row per batch
    assert torch.allclose(latents(pipe, prompts, seeds=(1, 2)), together, atol=1e-4)
    assert not torch.allclose(latents(pipe, prompts[0], seeds=(2,)), together[:1], atol=1e-2)
    assert not torch.allclose(latents(pipe, prompts[1], seeds=(1,)), together[:1], atol=1e-3)


def test_guidance_of_one_is_the_conditional_model_at_half_the_cost(pipe):
    rows = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    embeds = own.embeddings(2)
    one = latents(pipe, image_embeds=embeds, guidance_scale=1.0, seeds=(1, 2))
    assert set(rows) == {2}
    strong = latents(pipe, image_embeds=embeds, guidance_scale=4.0, seeds=(1, 2))
    hook.remove()
    assert set(rows) == {2, 4} and not torch.allclose(one, strong, atol=1e-2)


def test_given_embeddings_replace_the_prior(pipe):
    out = pipe("a red cat", generator=seeded(5), num_inference_steps=2, output_type="latent")
    assert torch.allclose(out.image_embeds.norm(dim=1), torch.ones(1))
    noise = torch.randn(1, 4, 8, 8)
    how = {"latents": noise, "num_inference_steps": 2, "output_type": "latent"}
    images = [pipe(image_embeds=scale * out.image_embeds, **how).images for scale in (1, 7)]  # of any length
    assert torch.allclose(images[0], images[1], atol=1e-4)
    assert torch.allclose(images[0], pipe("a red cat", generator=seeded(5), **how).images, atol=1e-4)
    two = pipe(image_embeds=own.embeddings(2), num_images_per_prompt=2, num_inference_steps=1)
    assert len(two.images) == 4 and two.images[0].size == (64, 64)
    assert torch.equal(two.image_embeds[0], two.image_embeds[1])


def test_callbacks_change_latents_and_interrupt(pipe):
    seen = []

    def stop(pipe, i, t, tensors):
        seen.append(tensors["image_embeds"].shape)
        pipe._interrupt = i == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ("latents", "image_embeds")
    found = latents(pipe, ["a", "a"], seeds=(1, 2), callback_on_step_end=stop, callback_on_step_end_tensor_inputs=names)
    assert seen == [(2, own.DIM)] * 2 and not found.any()
    images, embeds = pipe("a cat", num_inference_steps=1, output_type="np", return_dict=False)
    assert images.shape == (1, 64, 64, 3) and embeds.shape == (1, own.DIM)


def test_a_saved_folder_opens_as_what_it_was(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = AutoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again) is UnCLIPPipeline
    assert torch.allclose(latents(again, "a red cat"), latents(pipe, "a red cat"), atol=1e-5)
    assert torch.allclose(again.encode_image(CAT), pipe.encode_image(CAT), atol=1e-6)


def test_a_decoder_alone_varies_images_and_names_the_command_that_trains_a_prior(tmp_path):
    own.pipeline(None).save_pretrained(tmp_path)
    alone = AutoPipeline.from_pretrained(tmp_path)
    alone.set_progress_bar_config(disable=True)
    assert len(alone.variations(CAT, n=2, num_inference_steps=2)) == 2
    with pytest.raises(ValueError, match="train one with `t2i train unclip-prior --clip CLIP --decoder DECODER`"):
        alone("a red cat")


def test_captions_reach_a_decoder_with_a_caption_encoder():
    pipe, embeds = own.pipeline(captions=True), own.embeddings(2)
    two = latents(pipe, ["a red cat", "a blue car"], image_embeds=embeds, seeds=(1, 1))
    other = latents(pipe, ["a red cat", "a tree"], image_embeds=embeds, seeds=(1, 1))
    assert torch.allclose(two[0], other[0], atol=1e-5) and not torch.allclose(two[1], other[1], atol=1e-3)
    assert not torch.allclose(latents(pipe, image_embeds=embeds, seeds=(1, 1)), two, atol=1e-3)
    with pytest.raises(ValueError, match="there are 1 for 2"):
        pipe("a red cat", image_embeds=embeds)


# --- images as embeddings -------------------------------------------------------------------------------------------


def test_variations_without_noise_reconstruct_the_image_and_with_noise_differ(pipe):
    how = {"num_inference_steps": 250, "output_type": "latent"}
    same = pipe.variations(CAT, n=1, eta=0.0, **how)
    assert (same - encoded(pipe, CAT)).abs().max() < 0.01
    how["num_inference_steps"] = 10
    two = pipe.variations(CAT, n=2, eta=1.0, seed=7, **how)
    assert not torch.allclose(two[0], two[1], atol=1e-3) and not torch.allclose(two[0], same[0], atol=1e-3)
    assert torch.allclose(pipe.variations(CAT, n=1, eta=1.0, seed=8, **how)[0], two[1], atol=1e-4)


def encoded(pipe, image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor


def test_an_interpolation_begins_and_ends_with_its_images(pipe):
    how = {"num_inference_steps": 20, "output_type": "pt"}
    way = pipe.interpolate([CAT, CAR], 3, **how)
    for end, image in ((0, CAT), (-1, CAR)):
        assert torch.allclose(way[end], pipe.variations(image, n=1, eta=0.0, **how)[0], atol=1e-3)
    assert (way[1] - way[0]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="takes two images, not 1"):
        pipe.interpolate([CAT])


def test_a_text_diff_of_strength_zero_is_the_image(pipe):
    how = {"num_inference_steps": 20, "output_type": "pt"}
    images = pipe.text_diff(CAT, "a cat", "a zebra cat", [0.0, 0.5], **how)
    assert torch.allclose(images[:1], pipe.variations(CAT, n=1, eta=0.0, **how), atol=1e-3)
    assert not torch.allclose(images[1], images[0], atol=1e-4)
    same = pipe.text_diff(CAT, "a cat", "a zebra cat", 0.5, **how)
    assert torch.allclose(same[0], images[1], atol=1e-3)


def test_all_components_reconstruct_an_embedding(pipe):
    how = {"num_inference_steps": 3, "output_type": "latent"}
    images = pipe.reconstruct(CAT, [0, 4, own.DIM], **how)
    whole = pipe(image_embeds=pipe.encode_image(CAT), generator=seeded(0), **how).images
    assert torch.allclose(images[2:], whole, atol=1e-3)
    assert not torch.allclose(images[0], images[1], atol=1e-4)
    mean = normalize(pipe.projection.statistics.mean, dim=0)[None]
    assert torch.allclose(images[:1], pipe(image_embeds=mean, generator=seeded(0), **how).images, atol=1e-3)


def test_bad_input_is_refused(pipe):
    embeds = own.embeddings(1)
    wrong = [
        ({}, "give either prompt or image_embeds"),
        ({"prompt": "a cat", "image_embeds": embeds}, "prompt has no effect beside image_embeds"),
        ({"image_embeds": embeds, "negative_prompt": "a"}, "negative_prompt has no effect beside image_embeds"),
        ({"image_embeds": embeds[:, 1:]}, r"must be \(n, 16\), finite and not zero, not \(1, 15\)"),
        ({"image_embeds": embeds * 0}, "finite and not zero"),
        ({"prompt": "a cat", "height": 60}, "multiples of 8, not 60×64"),
        ({"prompt": "a cat", "latents": torch.zeros(1, 4, 4, 4)}, r"shape \(1, 4, 8, 8\), not \(1, 4, 4, 4\)"),
        ({"prompt": "a cat", "prior_guidance_scale": -1.0}, "prior_guidance_scale must be at least 0"),
        ({"prompt": "a cat", "num_prior_steps": 0}, "num_prior_steps must be at least 1"),
        ({"prompt": ["a cat", "b"], "negative_prompt": ["a"] * 3}, "2 prompts need as many negative prompts, not 3"),
        ({"prompt": "a cat", "generator": seeded(1, 2)}, "1 images need 1 generators"),
        ({"prompt": "a cat", "output_type": "jpg"}, "unknown output_type"),
        ({"prompt": "a cat", "callback_on_step_end_tensor_inputs": ("x",)}, "no tensor 'x' for callbacks"),
    ]
    for how, says in wrong:
        with pytest.raises(ValueError, match=says):
            pipe(**how)
    with pytest.raises(ValueError, match="must divide 1000, or DDIM cannot be inverted: give 50 or 100, not 30"):
        pipe.variations(CAT, num_inference_steps=30)
    with pytest.raises(ValueError, match="num_components must be at most 16, not 17"):
        pipe.reconstruct(CAT, 17)
    with pytest.raises(ValueError, match="give one image, not 2"):
        pipe.variations([CAT, CAR])
    with pytest.raises(ValueError, match="takes no image embedding: a decoder is trained with `t2i train unclip-dec"):
        UnCLIPPipeline(**pipe.components | {"unet": parts.unet()})
    with pytest.raises(ValueError, match="they were not trained together"):
        UnCLIPPipeline(**pipe.components | {"vae": parts.autoencoder(channels=8)})


# --- the command line and evaluation --------------------------------------------------------------------------------


@pytest.fixture
def folder(pipe, tmp_path, monkeypatch) -> str:
    """A saved system in the current folder, beside two images."""
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("unclip")
    CAT.save("cat.png")
    CAR.save("car.png")
    return "unclip"


def test_the_commands_as_a_user_types_them(pipe, folder):
    steps = ["--pipeline", folder, "--num-inference-steps", "4"]
    main(["generate", "a red cat", *steps, "--num-images", "2", "--prior-guidance-scale", "3", "--out", "o/"])
    want = pipe("a red cat", num_inference_steps=4, prior_guidance_scale=3.0, generator=seeded(1)).images[0]
    assert_same(Image.open("o/a-red-cat-1.png"), want)
    main(["variations", "cat.png", *steps, "--num-images", "2", "--seed", "4", "--eta", "0.5", "--out", "v/"])
    assert_same(Image.open("v/image-5.png"), pipe.variations(CAT, 2, 0.5, 4, num_inference_steps=4)[1])
    main(["interpolate", "cat.png", "car.png", *steps, "--num-images", "3", "--out", "i/"])
    assert_same(Image.open("i/1.png"), pipe.interpolate([CAT, CAR], 3, num_inference_steps=4)[1])
    main(["text-diff", "cat.png", "a cat", "a zebra cat", *steps, "--strengths", "0.3", "--out", "d/"])
    assert_same(Image.open("d/1.png"), pipe.text_diff(CAT, "a cat", "a zebra cat", 0.3, num_inference_steps=4)[0])
    assert Image.open("d/1.png").text["prompt"] == "a cat | a zebra cat"
    main(["reconstruct", "cat.png", *steps, "--num-components", "2", "16", "--seed", "7", "--out", "r/"])
    assert_same(Image.open("r/2.png"), pipe.reconstruct(CAT, [2, 16], 7, num_inference_steps=4)[1])
    main(["text-diff", "cat.png", "a cat", "a zebra cat", *steps, "--out", "strip.png"])
    assert Image.open("strip.png").width > 3 * 64


def assert_same(image: Image.Image, want: Image.Image) -> None:
    assert np.abs(np.asarray(image).astype(int) - np.asarray(want)).max() <= 1


def test_wrong_commands_are_refused_in_one_line(folder):
    parts.pipeline().save_pretrained("ldm")
    steps = ["--pipeline", folder]
    for args, says in (
        (["variations"], "give an image, as in: t2i variations photo.png"),
        (["variations", "cat.png"], "train it with `t2i train unclip-decoder`"),
        (["variations", "cat.png", "--pipeline", "ldm"], "ldm holds a LatentDiffusionPipeline: a decoder of image emb"),
        (["variations", "cat.png", *steps, "--num-inference-steps", "30"], "must divide 1000"),
        (["text-diff", "cat.png", "a cat", *steps], "give two texts in quotes after the image"),
        (["text-diff", "cat.png", "a cat", "a cat", *steps], "is given twice: the image would not change"),
        (["text-diff", "cat.png", "a", "b", *steps, "--strengths", "2"], "--strengths must lie in [0, 1]"),
        (["reconstruct", "cat.png", *steps, "--num-components", "17"], "num_components must be at most 16"),
        (["interpolate", "cat.png", "car.png", "--pipeline", "ldm"], "a decoder of image embeddings"),
        (["interpolate", "cat.png", "car.png", *steps, "--seeds", "1"], "--seeds has no effect between images"),
        (["interpolate", "cat.png", "car.png", *steps, "--scheduler", "ddim"], "takes no --scheduler"),
        (["interpolate", "cat.png", "car.png", *steps, "--negative-prompt", "a"], "takes no --negative-prompt"),
        (["interpolate", "a cat", "a car", *steps], "a latent diffusion pipeline, such as toybox/ldm, is needed"),
        (["edit", "cat.png", "a cat", *steps], "holds an UnCLIPPipeline, which does not edit"),
        (["generate", "a cat", *steps, "--temperature", "1"], "takes no --temperature"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(args)
        assert says in str(exit_.value) and "\n" not in str(exit_.value)


def test_it_is_evaluated_like_any_system(pipe, tmp_path):
    prompts = [Prompt(text, "x", None, text) for text in ("a red cat", "a blue car")]
    made = generate(pipe, prompts, [0, 1], tmp_path, batch_size=3, num_inference_steps=2, prior_guidance_scale=1.0)
    assert len(made["images"]) == 4
    assert {"prior", "unet", "projection", "clip"} <= made["header"]["weights_sha256"].keys()


# --- Kandinsky ------------------------------------------------------------------------------------------------------


def test_kandinsky_folders_open(tmp_path):
    """Prior and decoder of Kandinsky 2.2, another unCLIP, saved by diffusers with random weights."""
    clip, D = own.clip(own.WIDTH), own.WIDTH
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_embeddings": own.LENGTH}
    KandinskyV22PriorPipeline(
        prior=PriorTransformer(embedding_dim=D, **sizes),
        image_encoder=CLIPVisionModelWithProjection(clip.config.vision_config),
        text_encoder=CLIPTextModelWithProjection(clip.config.text_config),
        tokenizer=parts.clip_tokenizer(),
        scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        image_processor=own.image_processor(),
    ).save_pretrained(tmp_path / "prior")
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,  # with variances
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        addition_embed_type="image",
        encoder_hid_dim=D,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=8,
    )
    movq = VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        num_vq_embeddings=12,
        vq_embed_dim=4,
        norm_num_groups=8,
        norm_type="spatial",
    )
    KandinskyV22Pipeline(unet=unet, scheduler=DDPMScheduler(), movq=movq).save_pretrained(tmp_path / "decoder")
    before, after = (AutoPipeline.from_pretrained(tmp_path / name) for name in ("prior", "decoder"))
    assert (type(before), type(after)) == (KandinskyV22PriorPipeline, KandinskyV22Pipeline)
    embeds = before("a red cat", num_inference_steps=2, generator=seeded(0)).image_embeds
    assert embeds.shape == (1, D)
    image = after(embeds, embeds, height=64, width=64, num_inference_steps=2, output_type="np").images
    assert np.isfinite(image).all() and image.shape == (1, 64, 64, 3)
