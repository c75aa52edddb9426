"""The toybox classifier, used to score generated images (`t2i eval --metrics facts`)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from t2i.checks import check_real, check_whole
from t2i.contact_sheet import contact_sheet
from t2i.data.sources import TOYBOX_ITEMS
from t2i.data.toybox.classifier import (
    IMAGE_SIZE,
    FactClassifier,
    Inscriptions,
    Targets,
    load_classifier,
    predict,
    targets,
)
from t2i.data.toybox.dataset import Toybox
from t2i.data.toybox.description import MAX_TEXT
from t2i.data.toybox.facts import Fact, facts
from t2i.data.toybox.inscriptions import inscription
from t2i.data.toybox.prediction import Prediction, facts_right
from t2i.data.toybox.render import inscription_scale
from t2i.data.toybox.scene import Scene
from t2i.data.toybox.styles import LETTER_SCALE, STYLES
from t2i.images import to_tensor
from t2i.training.config import LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.task import Evaluation, Task
from t2i.weights import copy_weights

BATCH = 64  # images per batch when scoring
# Of training: more of what is slow to learn than toybox has.
MIXTURE = {
    "single": 0.10,
    "count": 0.08,
    "place": 0.18,
    "action": 0.14,
    "hybrid": 0.19,
    "inscription": 0.09,
    "several": 0.22,
}
RESTYLED = 0.35  # of training's plain scenes without a text: fraction in another style, each of which is rare in toybox
LONG = 0.5  # fraction of the text head's inscriptions that are as long as can be
SMALLEST = 0.6  # size of their letters, relative to the smallest that toybox has
HELD_OUT_SEED = 2**20  # seed of the scenes of previews and evaluations; runs use seeds from 0 up


classifier_options = partial(model_options, FactClassifier, exclude=("kinds", "looks", "styles"))


@dataclass(frozen=True)
class DamageConfig:
    """Damage to the images, as generated images are never as clean as rendered ones."""

    blur: float = 1.2
    """Maximum blur radius in pixels, applied to a third of the images."""
    noise: float = 0.04
    """Maximum standard deviation of pixel noise, relative to the range from black to white."""
    brightness: float = 0.08
    """Maximum relative change of brightness and contrast; more would turn white into grey."""
    shift: int = 6
    """Maximum shift in pixels, across and down."""
    codec: float = 0.3
    """Fraction of images that are compressed strongly or scaled down and up again."""

    def __post_init__(self) -> None:
        for name in ("blur", "noise", "brightness", "codec"):
            check_real(name, getattr(self, name), most=1 if name == "codec" else 3)
        check_whole("shift", self.shift, least=0)


@dataclass(frozen=True)
class ToyboxClassifierRecipe:
    """Options of `t2i train toybox-classifier`."""

    num_scored: int = 2_000
    """Number of images to score each checkpoint on."""
    init_from: str | None = None
    """Toybox classifier of the same size to initialise from, such as another run's `latest`; by default weights are
    random."""
    damage: DamageConfig = field(default_factory=DamageConfig)
    model: ModelOptions = field(default_factory=classifier_options)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> ToyboxClassifierTask:
        return ToyboxClassifierTask(self)


def toybox_classifier(preset: str = "base") -> ToyboxClassifierRecipe:
    """The classifier of toybox, for `--metrics facts`: predicts the facts of 128×128 images.

    Trained on everything, including what is held out: a classifier that had never seen an avocado armchair would be
    biased against the images whose score matters most. No pipeline is trained on its predictions.

    base: `t2i train toybox-classifier`, hours on two cores; its accuracy on real images is the ceiling
    tiny: `t2i train toybox-classifier --preset tiny`, a minute on two cores, with a low accuracy
    """
    if preset == "tiny":
        model = classifier_options(channels=(16, 32, 64), blocks=(0, 0, 1))
        steps = {"max_train_steps": 60, "checkpointing_steps": 30, "lr_warmup_steps": 20}
        loop = LoopConfig("runs/tiny-toybox-classifier", train_batch_size=32, **steps)
        return ToyboxClassifierRecipe(100, model=model, loop=loop)
    steps = {"max_train_steps": 12_000, "checkpointing_steps": 1_000, "lr_warmup_steps": 300}
    loop = LoopConfig("runs/toybox-classifier", train_batch_size=64, optimizer="muon", learning_rate=4e-3, **steps)
    return ToyboxClassifierRecipe(loop=loop)


class ToyboxClassifierTask(Task):
    """Trains on damaged toybox images and their facts."""

    SHOWN = 32
    next_command = "t2i eval PIPELINE --metrics facts --prompts toybox --classifier {run}/latest"
    find_unused_parameters = True  # a batch without inscriptions does not use the text head

    def __init__(self, recipe: ToyboxClassifierRecipe):
        self.recipe = recipe
        self.source = Toybox("all", IMAGE_SIZE, recipe.loop.seed, TOYBOX_ITEMS, MIXTURE)
        self.prepare = PrepareScene(recipe.damage)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = recipe.model.build()
        if recipe.init_from:
            other = load_classifier(recipe.init_from)
            self.fingerprint = {"init_from_sha256": copy_weights(other, self.model, recipe.init_from)}

    def loss(self, images: Tensor, written: Tensor, **truth: Tensor) -> dict[str, Tensor]:
        labels = {name: truth.pop(f"written_{name}") for name in ("board", "text", "lines")}
        inscriptions = Inscriptions(to_tensor(written), **labels)
        return self.model.loss(to_tensor(images), Targets(**truth), inscriptions)

    def preview(self) -> Image.Image:
        """New, undamaged images with what the prediction has too much (+) and too little (-)."""
        scenes = self.scored[: self.SHOWN]
        images = [scene.render(IMAGE_SIZE) for scene in scenes]
        predictions = self._predictions(images)
        labels = [_difference(p, facts(scene)) or "all right" for p, scene in zip(predictions, scenes, strict=True)]
        return contact_sheet(images, labels, columns=8, max_lines=4)

    def evaluate(self) -> Evaluation:
        """Accuracy of each type of fact, and of everything together, on new, undamaged images."""
        scenes, predictions = self.scored[: self.recipe.num_scored], []
        for start in range(0, len(scenes), BATCH):
            images = [scene.render(IMAGE_SIZE) for scene in scenes[start : start + BATCH]]
            predictions += self._predictions(images)
        answers = list(zip(predictions, map(facts, scenes), strict=True))
        right = facts_right(answers) | {"everything": [p.fulfils(truth) for p, truth in answers]}
        scores = {name: float(np.mean(values)) for name, values in sorted(right.items())}
        return Evaluation(scores, 1 - scores["everything"])

    @cached_property
    def scored(self) -> list[Scene]:
        """Scenes of no run."""
        num = max(self.SHOWN, self.recipe.num_scored)
        data = Toybox("all", IMAGE_SIZE, HELD_OUT_SEED + self.recipe.loop.seed, num)
        return [data.scene(i)[0] for i in range(num)]

    def _predictions(self, images: list[Image.Image]) -> list[Prediction]:
        was_training = self.model.training
        self.model.eval()
        predictions = predict(self.model, images, BATCH)
        self.model.train(was_training)
        return predictions

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def _difference(prediction: Prediction, truth: frozenset[Fact]) -> str:
    missed = [f"- {' '.join(map(str, fact[1:]))}" for fact in sorted(truth, key=str) if not prediction.holds(fact)]
    extra = prediction.kinds - {kind for fact in truth for kind in fact[1:] if fact[0] in ("kind", "head")}
    return " ".join([*missed, *(f"+ {kind}" for kind in sorted(extra))])


@dataclass(frozen=True)
class PrepareScene:
    """Prepares a damaged image with its labels, and another one with an inscription."""

    damage: DamageConfig

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> images and written, uint8 (128, 128, 3), the fields of `Targets`, and with `written_` those of
        `Inscriptions`
        """
        image, truth = self._damaged(*_restyled(item["image"], item["scene"], rng), rng)
        scene = _inscribed(rng)
        written, label = self._damaged(np.array(scene.render(IMAGE_SIZE)), scene, rng)
        more = {f"written_{name}": label[name] for name in ("board", "text", "lines")}
        return {"images": image, **truth, "written": written, **more}

    def _damaged(self, image: np.ndarray, scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
        """A damaged image and its labels."""
        truth = targets(scene)
        image, (dx, dy) = damaged(image, rng, self.damage)
        if truth["lines"] > 0:
            truth["board"] = truth["board"] + np.array([dx, dy, dx, dy], np.float32) / len(image)
        return image, truth


def _inscribed(rng: np.random.Generator) -> Scene:
    """A scene with an inscription; half of the time a long one, also in letters too small for toybox, as prompts may
    ask for.
    """
    scene = Scene.sample(rng, "all", "inscription")
    if rng.random() >= LONG:
        return scene
    text = " ".join([scene.things[0].text, inscription(rng.random), inscription(rng.random)])[:MAX_TEXT].strip()
    longer = replace(scene, things=(replace(scene.things[0], text=text),))
    return longer if inscription_scale(longer) >= SMALLEST * LETTER_SCALE[scene.style] else scene


def _restyled(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, Scene]:
    """The image and its scene; of a plain one without a text, now and then those in another style."""
    if scene.style != "plain" or any(thing.text for thing in scene.things) or rng.random() >= RESTYLED:
        return image, scene
    style = list(STYLES)[1 + int(rng.random() * (len(STYLES) - 1))]
    return np.array(STYLES[style](Image.fromarray(image))), replace(scene, style=style)


def damaged(image: np.ndarray, rng: np.random.Generator, damage: DamageConfig) -> tuple[np.ndarray, tuple[int, int]]:
    """Apply random shift, blur, compression, brightness, contrast and pixel noise.

    uint8 (S, S, 3) -> the same shape, and the shift to the right and down; the input is not modified.
    """
    dx, dy = (int((2 * damage.shift + 1) * rng.random()) - damage.shift for _ in range(2))
    padded = np.pad(image, [(damage.shift, damage.shift)] * 2 + [(0, 0)], mode="edge")
    size, x, y = len(image), damage.shift - dx, damage.shift - dy
    picture = Image.fromarray(padded[y : y + size, x : x + size])
    if rng.random() < 1 / 3:
        picture = picture.filter(ImageFilter.GaussianBlur(damage.blur * rng.random()))
    if rng.random() < damage.codec:
        picture = _compressed(picture, rng)
    contrast, bright = 1 + damage.brightness * (2 * rng.random(2) - 1)
    pixels = (np.asarray(picture).astype(np.float32) - 127.5) * np.float32(contrast) + np.float32(127.5 * bright)
    if rng.random() < 0.5:
        strength = np.float32(255 * damage.noise * rng.random())
        pixels += strength * rng.standard_normal(pixels.shape, dtype=np.float32)
    return pixels.round().clip(0, 255).astype(np.uint8), (dx, dy)


def _compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image after strong JPEG compression, or scaled down and up again."""
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=int(15 + 60 * rng.random()))
        return Image.open(buffer).convert("RGB")
    side = int(image.width * (0.5 + 0.4 * rng.random()))
    return image.resize((side, side), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BICUBIC)
