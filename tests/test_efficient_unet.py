"""The pixel U-Net of Imagen, and noise conditioning augmentation."""

from __future__ import annotations

import imagen_parts as parts
import pytest
import torch
from diffusion_parts import TEXT_WIDTH
from torch import Tensor

from t2i.diffusion.efficient_unet import EfficientUNet
from t2i.diffusion.noise_augmentation import augment, condition_on, upsample
from t2i.diffusion.objective import DiffusionObjective

L = 6


def inputs(n: int = 2, size: int = parts.BASE, channels: int = 3) -> dict[str, Tensor]:
    mask = torch.ones(n, L, dtype=torch.bool)
    mask[0, 3:] = False
    return {
        "sample": torch.randn(n, channels, size, size),
        "timestep": torch.arange(n) * 300 + 50,
        "encoder_hidden_states": torch.randn(n, L, TEXT_WIDTH),
        "encoder_attention_mask": mask,
    }


def large_inputs(n: int = 2) -> dict[str, Tensor]:
    return inputs(n, parts.LARGE, 6) | {"augmentation_level": torch.linspace(0, 0.9, n)}


def large() -> EfficientUNet:
    return parts.unet(parts.BASE, parts.LARGE)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_the_output_has_the_shape_of_an_image(stride):
    model = EfficientUNet(8, TEXT_WIDTH, **parts.SIZES, first_stride=stride).eval()
    assert model(**inputs()).sample.shape == (2, 3, 8, 8)
    assert model(**inputs(size=16), return_dict=False)[0].shape == (2, 3, 16, 16)
    assert large()(**large_inputs()).sample.shape == (2, 3, 16, 16)


@torch.no_grad()
def test_a_new_model_predicts_zero():
    model = EfficientUNet(8, TEXT_WIDTH, **parts.SIZES)
    assert not model(**inputs()).sample.any()


@torch.no_grad()
def test_every_input_has_an_effect():
    model, given = large(), large_inputs()
    out = model(**given).sample
    changes = {
        "sample": torch.cat([given["sample"][:, :3], given["sample"][:, 3:] + 1], 1),  # the low-resolution image
        "timestep": given["timestep"] + 100,
        "encoder_hidden_states": given["encoder_hidden_states"].flip(1),  # the same words elsewhere in the mask
        "augmentation_level": given["augmentation_level"] + 0.1,
    }
    for name, changed in changes.items():
        assert (model(**(given | {name: changed})).sample - out).abs().max() > 1e-4, name


@torch.no_grad()
def test_text_comes_by_its_pooled_state_and_by_attention():
    """Without cross-attention only the pooled state counts: it knows the words, not which pixel attends to which."""
    sizes = parts.SIZES | {"cross_attention": (False, False)}
    model = EfficientUNet(8, TEXT_WIDTH, **sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    given = inputs() | {"encoder_attention_mask": None}
    out, text = model(**given).sample, given["encoder_hidden_states"]
    assert torch.allclose(model(**(given | {"encoder_hidden_states": text.flip(1)})).sample, out, atol=1e-5)
    assert (model(**(given | {"encoder_hidden_states": text.flip(0)})).sample - out).abs().max() > 1e-3
    by_attention = parts.unet()
    for layer in by_attention.pooled:
        for parameter in layer.parameters():
            parameter.zero_()
    out = by_attention(**given).sample
    assert (by_attention(**(given | {"encoder_hidden_states": text.flip(0)})).sample - out).abs().max() > 1e-4


@torch.no_grad()
def test_text_padding_does_not_matter():
    """Neither what stands there nor how much there is of it."""
    model, given = parts.unet(), inputs()
    out, text, mask = model(**given).sample, given["encoder_hidden_states"], given["encoder_attention_mask"]
    other = torch.where(mask[..., None], text, 7.0)
    assert torch.allclose(model(**(given | {"encoder_hidden_states": other})).sample, out, atol=1e-5)
    longer = {
        "encoder_hidden_states": torch.cat([text, torch.randn(2, 4, TEXT_WIDTH)], 1),
        "encoder_attention_mask": torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], 1),
    }
    assert torch.allclose(model(**(given | longer)).sample, out, atol=1e-5)


@pytest.mark.parametrize("make", [parts.unet, large])
def test_gradient_reaches_every_parameter_and_checkpointing_does_not_change_it(make):
    model = make().train()
    given = inputs() if model.level is None else large_inputs()
    target = torch.randn_like(given["sample"][:, :3])
    (model(**given).sample - target).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert [name for name, grad in plain.items() if not grad.any()] == []
    model.zero_grad()
    model.enable_gradient_checkpointing()
    (model(**given).sample - target).square().mean().backward()
    assert all(torch.allclose(p.grad, plain[name], atol=1e-6) for name, p in model.named_parameters())


@torch.no_grad()
def test_a_batch_is_its_samples():
    model, given = large(), large_inputs(3)
    out = model(**given).sample
    for i in range(3):
        one = {name: x[i : i + 1] for name, x in given.items()}
        assert torch.allclose(model(**one).sample, out[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_save_and_load_keep_weights_and_sizes(tmp_path):
    model, given = large(), large_inputs()
    model.save_pretrained(tmp_path)
    again = EfficientUNet.from_pretrained(tmp_path)
    assert again.config.low_resolution == parts.BASE
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in again.state_dict().items())
    assert torch.allclose(again(**given).sample, model(**given).sample, atol=1e-5)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_the_objective_trains_super_resolution(kind):
    """`loss` is the mean of `errors`, and the conditions reach the model."""
    objective, model = DiffusionObjective(parts.COSINE, kind), large()
    given = large_inputs()
    images, grid = given.pop("sample").chunk(2, 1)
    call = [images, torch.randn_like(images), *given.values()]
    batch = dict(zip(("latents", "noise", "timesteps", "states", "mask", "augmentation_level"), call, strict=True))
    errors = objective.errors(model, **batch, grid=grid)
    assert errors.shape == (2,)
    assert torch.allclose(objective.loss(model, **batch, grid=grid)["loss"], errors.mean())
    other = batch | {"augmentation_level": batch["augmentation_level"] + 0.1}
    assert not torch.allclose(objective.errors(model, **other, grid=grid), errors)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layers_per_block": (1,)}, "2 levels and layers_per_block 1"),
        ({"layers_per_block": (0, 1)}, "at least one block"),
        ({"first_stride": 3}, "first_stride of 1 or 2"),
        ({"head_width": 5}, "divisible by head_width 5"),
        ({"sample_size": 6}, "6 pixels are not divisible by 4"),
        ({"low_resolution": 8}, "from 8 to 8 pixels"),
        ({"low_resolution": 3}, "from 3 to 8 pixels is not by a whole factor"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        EfficientUNet(**({"sample_size": 8, "cross_attention_dim": TEXT_WIDTH} | parts.SIZES | wrong))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sample": torch.zeros(2, 6, 8, 8)}, "takes 3 channels, not 6"),
        ({"sample": torch.zeros(2, 3, 8, 10)}, "image of 10×8 is not divisible by 4"),
        ({"augmentation_level": torch.zeros(2)}, "base model takes no augmentation_level"),
        ({"class_labels": torch.zeros(2)}, "takes no class_labels"),
    ],
)
def test_inputs_of_another_model_are_refused(changed, says):
    with pytest.raises(ValueError, match=says):
        parts.unet()(**(inputs() | changed))


def test_super_resolution_needs_a_level():
    given = large_inputs()
    del given["augmentation_level"]
    with pytest.raises(ValueError, match="needs augmentation_level"):
        large()(**given)


# --- noise conditioning augmentation --------------------------------------------------------------------------------


def test_level_0_is_the_image_and_level_1_the_noise():
    images, noise = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    out = augment(images, noise, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(out[0], images[0])
    assert torch.allclose(out[1], (images[1] + noise[1]) / 2**0.5, atol=1e-6)
    assert torch.allclose(out[2], noise[2], atol=1e-6)


def test_the_condition_of_level_0_is_the_upsampled_image():
    images, noise = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(condition_on(images, noise, torch.zeros(2), 12), upsample(images, 12))
    assert upsample(images, 4) is images
    assert torch.allclose(upsample(images, 12)[:, :, 1::3, 1::3], images)  # pixel centres stay where they are
