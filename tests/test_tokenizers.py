"""The discrete image tokenizers: what all of them do, and what each quantizer and loss is."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from t2i.data.toybox.classifier import FactClassifier
from t2i.files import read_json
from t2i.nn.discriminator import PatchDiscriminator
from t2i.tokenizers import perceptual
from t2i.tokenizers.adversarial import Adversary
from t2i.tokenizers.auto import CLASSES, open_image_tokenizer
from t2i.tokenizers.dvae import DiscreteVAE, GumbelQuantizer
from t2i.tokenizers.fsq import FSQVAE, FSQuantizer
from t2i.tokenizers.losses import EPSILON, logit_laplace_image, logit_laplace_loss, to_unit_interval
from t2i.tokenizers.perceptual import ClassifierFeatures, PerceptualLoss, VGGFeatures, open_perceptual_loss
from t2i.tokenizers.vqgan import VQGANObjective
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.cli import run
from t2i.training.recipes import RECIPES

SMALL = {"image_size": 16, "channels": (16, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}
MAKE = {
    "VQVAE": lambda **more: VQVAE(**SMALL | {"codebook_size": 32, "code_width": 8} | more),
    "FSQVAE": lambda **more: FSQVAE(**SMALL | {"levels": (4, 3, 3)} | more),
    "DiscreteVAE": lambda **more: DiscreteVAE(**SMALL | {"codebook_size": 32, "code_width": 8} | more),
    "DiscreteVAE, L2": lambda **more: DiscreteVAE(
        **SMALL | {"codebook_size": 32, "code_width": 8, "likelihood": "l2"} | more
    ),
}
RECIPE_NAMES = ("vqvae-toybox", "fsq-toybox", "dvae-toybox", "vqgan-toybox")


def images(n: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size) * 2 - 1


@pytest.fixture(params=MAKE)
def tokenizer(request):
    torch.manual_seed(0)
    return MAKE[request.param]().eval()


# --- the interface ----------------------------------------------------------------------------------------------------


def test_codes_and_images_have_the_shapes_and_ranges_that_the_attributes_say(tokenizer):
    codes = tokenizer.encode(images(3))
    assert codes.shape == (3, tokenizer.grid_size, tokenizer.grid_size) == (3, 16 // tokenizer.stride, 4)
    assert 0 <= codes.min() <= codes.max() < tokenizer.codebook_size
    decoded = tokenizer.decode(codes)
    assert decoded.shape == (3, 3, 16, 16) and decoded.abs().max() <= 1
    assert torch.equal(tokenizer.reconstruct(images(3) * 0), tokenizer.decode(tokenizer.encode(images(3) * 0)))
    with pytest.raises(ValueError, match="codes must lie in"):
        tokenizer.decode(torch.full((1, 4, 4), tokenizer.codebook_size))
    with pytest.raises(ValueError, match="not divisible by 4"):
        tokenizer.encode(torch.zeros(1, 3, 18, 16))


def test_an_image_is_encoded_alone_as_in_a_batch(tokenizer):
    batch = images(4)
    assert torch.equal(tokenizer.encode(batch)[2:3], tokenizer.encode(batch[2:3]))


def test_evaluation_is_deterministic_and_changes_nothing(tokenizer):
    before = {name: x.clone() for name, x in tokenizer.state_dict().items()}
    batch = images()
    first, second = tokenizer.loss(batch), tokenizer.loss(batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(x, before[name]) for name, x in tokenizer.state_dict().items())


def test_the_forward_pass_in_evaluation_is_decoding_of_the_codes(tokenizer):
    batch = images()
    decoded, codes, _ = tokenizer(batch)
    assert torch.equal(codes, tokenizer.encode(batch))
    image = tokenizer._image(decoded) if isinstance(tokenizer, DiscreteVAE) else decoded
    torch.testing.assert_close(image.clamp(-1, 1), tokenizer.decode(codes))


def test_every_parameter_receives_a_gradient(tokenizer):
    for parameter in tokenizer.parameters():  # the blocks' last convolutions start at zero and hide earlier layers
        torch.nn.init.normal_(parameter, std=0.2)
    tokenizer.train().loss(images(4))["loss"].backward()
    assert [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_training_lowers_the_loss(tokenizer):
    tokenizer.train()
    batch = images(8) * 0.1 + torch.linspace(-0.8, 0.8, 8)[:, None, None, None]
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = tokenizer.loss(batch)["mse"], tokenizer.loss(batch)["loss"]
        optimizer.zero_grad()
        loss[1].backward()
        optimizer.step()
        losses.append(loss[0].item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_a_saved_tokenizer_opens_by_its_class_bit_for_bit(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = open_image_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in tokenizer.state_dict().items())
    assert not any(p.requires_grad for p in again.parameters())
    assert torch.equal(again.encode(images() * 0), tokenizer.encode(images() * 0))


def test_every_class_is_tested_here_or_where_it_is_converted():
    converted = {"OpenAIDiscreteVAE", "VQModel", "GumbelVQModel"}  # test_tokenizer_conversion.py
    assert {name.split(",")[0] for name in MAKE} | converted == CLASSES.keys()


@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.parametrize("name", MAKE)
def test_the_stride_is_the_product_of_all_levels(name, patch):
    model = MAKE[name](patch=patch).eval()
    assert model.stride == 2 * patch
    assert model.encode(images(1, 32)).shape == (1, 32 // model.stride, 32 // model.stride)
    assert model.reconstruct(images(1, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="patch must be an even number"):
        MAKE[name](patch=3)


# --- finite scalar quantization ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7,), (4, 4, 4)])
def test_every_code_of_fsq_is_reached_and_found_again(levels):
    quantizer = FSQuantizer(levels).eval()
    codes = torch.arange(quantizer.size)
    vectors = quantizer.lookup(codes)
    assert vectors.unique(dim=0).shape == (math.prod(levels), len(levels))
    assert vectors.abs().max() <= 1
    quantized, found, commitment = quantizer(torch.randn(20_000, len(levels)) * 3)
    assert torch.equal(quantizer.lookup(found), quantized.detach())
    assert commitment == 0
    assert set(found.tolist()) <= set(codes.tolist())
    if quantizer.size < 100:
        assert set(found.tolist()) == set(codes.tolist())


def test_the_gradient_of_fsq_passes_straight_through_the_rounding():
    quantizer = FSQuantizer((8, 5)).eval()
    z = torch.randn(50, 2, requires_grad=True)
    quantizer(z)[0].sum().backward()
    smooth = torch.nn.Parameter(z.detach().clone())
    quantizer._scaled(quantizer._bounded(smooth)).sum().backward()
    assert torch.equal(z.grad, smooth.grad) and (z.grad > 0).all()


def test_usage_counts_the_codes_of_training():
    quantizer = FSQuantizer((3, 3), usage_window=10).train()
    for _ in range(40):
        quantizer(torch.zeros(5, 2))
    assert quantizer.share_used() == pytest.approx(1 / 9)
    assert quantizer.perplexity() == pytest.approx(1, abs=1e-3)
    for _ in range(100):
        quantizer(torch.randn(500, 2) * 2)
    assert quantizer.share_used() == 1 and quantizer.perplexity() > 5


# --- the discrete VAE -------------------------------------------------------------------------------------------------


def test_hard_codes_are_the_most_probable_as_the_temperature_falls_to_zero():
    """The relaxed sample tends to the vector of argmax(logits + noise), and over many samples to softmax(logits)."""
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(6, 3, temperature=1e-4).train()
    logits = torch.randn(1, 6).expand(20_000, 6)
    quantizer.calls += 1
    relaxed, codes, _ = quantizer(logits)
    nearest = torch.cdist(relaxed, quantizer.codebook).min(1)
    assert nearest.values.quantile(0.99) < 1e-3  # one code each
    shares = torch.bincount(nearest.indices, minlength=6) / 20_000
    assert torch.allclose(shares, logits[0].softmax(-1), atol=0.015)
    assert torch.equal(codes, logits.argmax(-1))
    sharp = logits * 1e6  # without doubt the noise does nothing
    assert torch.allclose(quantizer(sharp)[0], quantizer.lookup(sharp.argmax(-1)), atol=1e-5)


def test_the_temperature_and_the_kl_weight_are_annealed():
    model = MAKE["DiscreteVAE"](temperature=0.1, annealed_batches=10, kl_weight=4.0, kl_batches=4).train()
    temperatures = []
    for _ in range(12):
        temperatures.append(model.quantizer.temperature)
        parts = model.loss(images())
    assert temperatures[0] == 1 and temperatures[5] == pytest.approx(0.55) and temperatures[10] == pytest.approx(0.1)
    assert sorted(temperatures, reverse=True) == temperatures
    whole = parts["reconstruction"] + 4.0 * parts["kl"] / (3 * model.stride**2)
    torch.testing.assert_close(parts["loss"].detach(), whole)


def test_the_kl_divergence_is_zero_for_uniform_and_log_k_for_certain_codes():
    quantizer = GumbelQuantizer(8, 2).eval()
    assert quantizer(torch.zeros(5, 8))[2] == pytest.approx(0, abs=1e-6)
    assert quantizer(1e4 * torch.eye(8))[2] == pytest.approx(math.log(8), abs=1e-5)


@pytest.mark.parametrize("mu, log_b", [(0.0, -1.0), (1.5, -2.0), (-2.0, 0.5)])
def test_the_logit_laplace_density_integrates_to_one(mu, log_b):
    """Over the whole unit interval: the images are mapped to [ε, 1 − ε] of it."""
    t = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000  # substitution x = sigmoid(40 (t − ½))
    x = (40 * (t - 0.5)).sigmoid()
    pixels = (2 * (x - EPSILON) / (1 - 2 * EPSILON) - 1).float().double()
    distance = (x.logit() - mu).abs() * math.exp(-log_b)
    density = torch.exp(-(distance + log_b + math.log(2) + (x * (1 - x)).log()))
    assert (density * x * (1 - x)).mean() * 40 == pytest.approx(1, abs=1e-3)
    inside = (x > 0.05) & (x < 0.95)
    parameters = torch.tensor([mu] * 3 + [log_b] * 3).view(1, 6, 1, 1).expand(int(inside.sum()), 6, 1, 1)
    one = logit_laplace_loss(parameters[:1], pixels[inside][:1].float().view(1, 1, 1, 1).expand(1, 3, 1, 1))
    assert one == pytest.approx(-density[inside][0].log().item(), rel=1e-3)


def test_the_image_of_logit_laplace_is_the_inverse_of_its_mapping():
    batch = images()
    parameters = torch.cat([to_unit_interval(batch).logit(), torch.zeros_like(batch)], 1)
    torch.testing.assert_close(logit_laplace_image(parameters), batch, atol=1e-5, rtol=0)


# --- perceptual and adversarial losses --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features() -> ClassifierFeatures:
    torch.manual_seed(0)
    return ClassifierFeatures(FactClassifier(channels=(16, 32, 48), blocks=(0, 0, 1)))


def test_the_perceptual_distance_is_zero_for_equal_images_and_else_positive(features):
    loss, batch = PerceptualLoss(features), images(2, 128)
    assert loss(batch, batch) == 0
    assert loss(batch, batch.flip(-1)) > 0
    assert [f.shape[1:] for f in features(batch)] == [(16, 64, 64), (32, 32, 32), (48, 16, 16)]
    weighted = PerceptualLoss(features, [torch.full((c,), 1 / c) for c in (16, 32, 48)])
    torch.testing.assert_close(weighted(batch, batch.flip(-1)), loss(batch, batch.flip(-1)))
    assert not loss.train().features.training


@pytest.mark.parametrize("size", [64, 128])
def test_the_perceptual_loss_is_computed_in_bfloat16_at_any_size(size, features):
    loss, batch = PerceptualLoss(features), images(2, size)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(batch.flip(-1).bfloat16(), batch)
    assert found == pytest.approx(loss(batch.flip(-1), batch).item(), rel=0.1)


def test_the_perceptual_loss_trains_the_reconstruction_only(features):
    loss = PerceptualLoss(features)
    recon = images(1, 32).requires_grad_()
    loss(recon, images(1, 32)).backward()
    assert recon.grad.any() and all(p.grad is None for p in features.parameters())


def test_features_of_vgg_come_from_a_file_of_its_weights(tmp_path):
    torch.manual_seed(0)
    network = VGGFeatures()
    torch.save({f"features.{n}": p for n, p in network.layers.state_dict().items()}, tmp_path / "vgg16.pth")
    loss, batch = open_perceptual_loss(str(tmp_path / "vgg16.pth")), images(1, 32)
    expected = PerceptualLoss(network)(batch, batch.flip(-1))
    torch.testing.assert_close(loss(batch, batch.flip(-1)), expected)
    assert [f.shape[1] for f in network(batch)] == [64, 128, 256, 512, 512]
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold the weights"):
        open_perceptual_loss(str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"there is no nothing\.pth"):
        open_perceptual_loss("nothing.pth")


def objective(start: int = 0, **more) -> VQGANObjective:
    torch.manual_seed(0)
    model = MAKE["VQVAE"]().train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return VQGANObjective(model, adversary=Adversary(PatchDiscriminator((8, 8)), 0.5, start), **more).train()


def test_the_adversarial_loss_is_absent_before_its_start():
    """Until then the tokenizer gets the gradient of its own loss."""
    batch = images(4)
    early, late, alone = objective(start=1), objective(start=0), objective(start=1)
    alone.adversary = None
    gradients = []
    for model in (early, late, alone):
        model.loss(batch)["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in model.tokenizer.named_parameters()})
    first, second, without = gradients
    assert all(torch.allclose(first[n], without[n], atol=1e-6) for n in without)
    assert any(not torch.allclose(second[n], without[n], atol=1e-6) for n in without)


def test_the_perceptual_term_is_weighted(features):
    batch = images(2, 32)
    loss = PerceptualLoss(features)
    found = []
    for weight in (0.0, 2.0):
        model = objective(perceptual=loss, perceptual_weight=weight)
        model.adversary = None
        found.append(model.loss(batch))
    torch.testing.assert_close(found[1]["loss"] - found[0]["loss"], 2 * found[1]["perceptual"], atol=1e-4, rtol=1e-4)


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_the_tiny_recipe_trains_and_resumes_as_if_never_stopped(name, tmp_path, features, monkeypatch):
    classifier = FactClassifier(channels=(16, 32, 48), blocks=(0, 0, 1))
    monkeypatch.setattr(perceptual, "load_classifier", lambda folder=None: classifier)
    recipe = RECIPES[name]("tiny")
    quick = {"train_batch_size": 4, "checkpointing_steps": 2, "report_to": "none", "dataloader_num_workers": 0}

    def train(folder: str, steps: int, **more):
        loop = dataclasses.replace(
            recipe.loop, output_dir=str(tmp_path / folder), max_train_steps=steps, **quick, **more
        )
        return run(dataclasses.replace(recipe, loop=loop))

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4, resume="latest")
    a, b = open_image_tokenizer(whole), open_image_tokenizer(parts)
    assert all(torch.equal(x, b.state_dict()[n]) for n, x in a.state_dict().items())
    assert a.image_size == recipe.data.image_size
    if name == "vqgan-toybox":
        assert read_json(tmp_path / "whole" / "recipe.json").keys() >= {"perceptual", "perceptual_weight"}
        monkeypatch.setattr(perceptual, "load_classifier", lambda folder=None: FactClassifier(channels=(16, 32, 64)))
        with pytest.raises(ValueError, match="perceptual_sha256"):
            train("parts", 6, resume="latest")


def test_a_run_initialised_from_another_has_all_of_its_weights(tmp_path):
    recipe = RECIPES["fsq-toybox"]("tiny")
    given = recipe.model.build(image_size=recipe.data.image_size)
    given.save_pretrained(tmp_path / "given")
    task = dataclasses.replace(recipe, init_from=str(tmp_path / "given")).task()
    assert all(torch.equal(x, given.state_dict()[n]) for n, x in task.model.state_dict().items())
    assert task.fingerprint["init_from_sha256"]
    with pytest.raises(ValueError, match="other sizes"):
        dataclasses.replace(RECIPES["vqvae-toybox"]("tiny"), init_from=str(tmp_path / "given")).task()


def test_the_perceptual_network_is_no_part_of_what_is_trained_and_saved(features):
    model = objective(perceptual=PerceptualLoss(features))
    assert not any("perceptual" in name for name in model.state_dict())
