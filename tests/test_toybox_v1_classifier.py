"""The toybox classifier; needs no trained weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from t2i.data.toybox_v1 import ATTRIBUTES, KINDS, RELATIONS, Scene, Thing, Toybox
from t2i.data.toybox_v1.classifier import LAYOUTS, Prediction, ToyboxClassifier, load_classifier, predict, targets
from t2i.eval.evaluators.reconstruction import reconstruct
from t2i.eval.generation.prompts import open_prompts
from t2i.images import to_tensor
from t2i.tokenizers.kl import KLTokenizer
from t2i.training.config import LoopConfig
from t2i.training.recipes.toybox_v1_classifier import (
    ToyboxClassifierRecipe,
    ToyboxClassifierTask,
    classifier_options,
    spoil,
    toybox_v1_classifier,
)
from t2i.weights import digest

NUM = 4
TURNED = {"on top of": "below", "below": "on top of", "left of": "right of", "right of": "left of"}


def stack_targets(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`targets` of several scenes as tensors (B,), (B, 2), (B, 2)."""
    layout, kinds, attributes = zip(*map(targets, scenes), strict=True)
    return torch.tensor(layout), torch.tensor(kinds), torch.tensor(attributes)


def tiny_classifier(seed: int = 0) -> ToyboxClassifier:
    torch.manual_seed(seed)
    return ToyboxClassifier(channels=(16, 32, 48), blocks=(0, 0, 1))


def images_of(scenes: list[Scene]) -> torch.Tensor:
    return to_tensor(torch.from_numpy(np.stack([np.array(s.render(64)) for s in scenes])))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [prompt.scene for prompt in open_prompts("basic", NUM, seed=0)]


@pytest.fixture(scope="module")
def fitted(scenes: list[Scene]) -> tuple[ToyboxClassifier, list[float]]:
    """A classifier overfitted to the images of `scenes`, and its losses in training."""
    classifier, images, truth = tiny_classifier(), images_of(scenes), stack_targets(scenes)
    optimizer, losses = torch.optim.AdamW(classifier.parameters(), 4e-3), []
    for _ in range(80):
        out = classifier.loss(images, *truth)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out["loss"].item())
    return classifier.eval(), losses


# --- predictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_and_its_inverse_have_one_prediction(relation: str):
    cat, car = Thing("cat", "red"), Thing("car", "blue")
    assert Prediction.of(Scene((cat, car), relation)) == Prediction.of(Scene((car, cat), TURNED[relation]))
    assert Prediction.of(Scene((cat, car), relation)) != Prediction.of(Scene((car, cat), relation))


def test_the_upper_and_the_left_thing_come_first():
    cat, car = Thing("cat", "red"), Thing("car", "blue")
    first = (("cat", "red"), ("car", "blue"))
    assert Prediction.of(Scene((cat, car), "on top of")) == Prediction("stacked", first)
    assert Prediction.of(Scene((car, cat), "right of")) == Prediction("side by side", first)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_several_of_a_kind_are_represented_as_one_thing_twice(count: int):
    truth = Prediction.of(Scene((Thing("apple", "green", count),)))
    assert truth == Prediction(LAYOUTS[count - 1], (("apple", "green"),) * 2)
    assert str(truth) == f"{LAYOUTS[count - 1]}: green apple"


def test_targets_are_the_indices_of_the_true_prediction():
    data, kinds = Toybox("all", seed=5, num=300), list(KINDS)
    seen = set()
    for i in range(len(data)):
        scene, _ = data.scene(i)
        layout, ks, attributes = targets(scene)
        named = tuple((kinds[k], ATTRIBUTES[a]) for k, a in zip(ks, attributes, strict=True))
        assert Prediction(LAYOUTS[layout], named) == Prediction.of(scene)
        seen.add(layout)
    assert seen == set(range(len(LAYOUTS)))


# --- the network ----------------------------------------------------------------------------------------------------


def test_the_classifier_can_be_overfitted(fitted):
    _, losses = fitted
    assert all(np.isfinite(losses)) and losses[-1] < 0.1 * losses[0]


def test_predictions_do_not_depend_on_the_batch(fitted, scenes):
    images = images_of(scenes)
    assert [fitted[0].predict(image[None])[0] for image in images] == fitted[0].predict(images)


def test_every_parameter_has_a_gradient(scenes):
    classifier = tiny_classifier()
    with torch.no_grad():  # zero initialisation blocks gradients by design
        for p in classifier.parameters():
            p.add_(0.02 * torch.randn_like(p))
    classifier.loss(images_of(scenes), *stack_targets(scenes))["loss"].backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_base_classifier_is_small_and_predicts_the_same_from_half_precision(tmp_path, scenes):
    model = toybox_v1_classifier().model
    classifier = ToyboxClassifier(model.channels, model.blocks).eval()
    assert sum(p.numel() for p in classifier.parameters()) <= 1_400_000
    classifier.half().save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3_000_000
    again = load_classifier(tmp_path)
    assert again.dtype == torch.float32
    assert again.predict(images_of(scenes[:2])) == classifier.float().predict(images_of(scenes[:2]))
    assert digest(again) == digest(classifier) != digest(tiny_classifier())


def test_wrong_shapes_and_other_vocabularies_raise():
    with pytest.raises(ValueError, match="64, 64"):
        tiny_classifier().predict(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="t2i train toybox-v1-classifier"):
        ToyboxClassifier(kinds=("cat",))


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_recipe_trains_through_the_loop(tmp_path):
    from t2i.training.cli import run

    loop = LoopConfig(str(tmp_path / "run"), 2, 8, checkpointing_steps=2, report_to="none", dataloader_num_workers=0)
    folder = run(ToyboxClassifierRecipe(model=classifier_options(channels=(16, 32, 48), blocks=(0, 0, 1)), loop=loop))
    assert len(load_classifier(folder).predict(torch.zeros(3, 3, 64, 64))) == 3
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1


def test_the_augmentation_is_mild_and_depends_on_the_sample_only():
    stage = ToyboxClassifierTask(toybox_v1_classifier("tiny"))
    item = stage.source[3]
    before = item["image"].copy()
    one, same, other = (stage.prepare(item, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (item["image"] == before).all() and (one["images"] == same["images"]).all()
    assert (one["images"] != other["images"]).any()
    changes = [
        np.abs(spoil(before, np.random.default_rng(i), 0.9, 0.04, 0.08) - before.astype(float)) for i in range(50)
    ]
    assert np.mean(changes) < 12
    assert (spoil(before, np.random.default_rng(0), 0, 0, 0) == before).all()


def test_the_classifier_also_trains_on_held_out_pairs():
    source = ToyboxClassifierTask(toybox_v1_classifier("tiny")).source
    assert any(thing.held_out for i in range(500) for thing in source.scene(i)[0].things)


# --- its folder -----------------------------------------------------------------------------------------------------


def test_a_folder_without_a_classifier_raises(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "VQVAE"}')
    with pytest.raises(ValueError, match=r"not a ToyboxClassifier.*t2i train toybox-v1-classifier"):
        load_classifier(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no toybox classifier in .*t2i train toybox-v1-classifier"):
        load_classifier(tmp_path / "nowhere")


def test_predictions_of_images_of_any_size_do_not_depend_on_the_batch(fitted, scenes):
    images = [scene.render(64) for scene in scenes]
    assert predict(fitted[0], images, batch_size=3) == [predict(fitted[0], [image])[0] for image in images]
    wide = Image.new("RGB", (128, 64))
    wide.paste(images[0], (32, 0))
    assert predict(fitted[0], [wide]) == predict(fitted[0], images[:1])


# --- round trips ----------------------------------------------------------------------------------------------------


def test_reconstructions_are_computed_in_the_dtype_of_the_tokenizer():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    tokenizer = KLTokenizer(AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks))
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    whole, half = (reconstruct(tokenizer.to(d), images) for d in (torch.float32, torch.bfloat16))
    assert whole.dtype == half.dtype == torch.float32
    assert whole.shape == (2, 3, 16, 16)
    assert 0 < (whole - half).abs().mean() < 0.05
