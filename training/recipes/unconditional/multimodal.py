"""A joint VAE of images and captions, and its accuracy at predicting one from the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from t2i.contact_sheet import contact_sheet
from t2i.data.levels import PreparePixels
from t2i.data.sources import Source
from t2i.data.splits import open_splits
from t2i.data.toybox.attributes import ATTRIBUTES
from t2i.data.toybox_v1 import COLOURS, Scene, Thing
from t2i.data.toybox_v1.kinds import KINDS
from t2i.images import to_pil
from t2i.models.base import from_levels
from t2i.models.latent_variable.multimodal_vae import MultimodalVAE
from t2i.text.bpe import encode, train_bpe
from t2i.training.config import OF_CAPTIONS, OF_IMAGES, DataConfig, LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.task import Evaluation, Task
from t2i.weights import tokenizer_digest

BPE_CAPTIONS = 5_000  # number of captions to learn the vocabulary from
SCORED = 512  # held-out pairs
MANY = 16  # importance samples of the reported bound


@dataclass(frozen=True)
class MultimodalRecipe:
    """Options of `t2i train multimodal-vae`."""

    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=32))
    text_vocab_size: int = 512
    """Maximum size of the text vocabulary, which is learned from the captions."""
    model: ModelOptions = field(default_factory=lambda: model_options(MultimodalVAE))
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> MultimodalTask:
        return MultimodalTask(self)


def multimodal_vae(preset: str = "base") -> MultimodalRecipe:
    """Joint variational autoencoder of images and captions: generates either from the other, or both unconditionally.

    base: `t2i train multimodal-vae`, toybox images of one thing, 32×32
    tiny: `t2i train multimodal-vae --preset tiny`, 8×8 digits and their names, half a minute on one core
    """
    if preset == "tiny":
        sizes = {"shared_dim": 8, "image_dim": 4, "text_dim": 2, "text_width": 64}
        model = model_options(MultimodalVAE, text_length=8, widths=(16, 32), **sizes, text_weight=10.0)
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
        loop = LoopConfig("runs/tiny-multimodal-vae", learning_rate=5e-3, train_batch_size=32, **steps)
        return MultimodalRecipe(DataConfig("digits", image_size=8), 320, model, loop)
    return MultimodalRecipe(loop=LoopConfig("runs/multimodal-vae", max_train_steps=10_000, checkpointing_steps=500))


class MultimodalTask(Task):
    """Trains on images and captions: toybox's canonical captions, other data's as they are."""

    SHOWN = 16
    next_command = 'in Python, t2i.models.latent_variable.multimodal_vae.MultimodalVAE.from_pretrained("{run}/latest")'
    BATCH = 128  # pairs per batch when scoring

    def __init__(self, recipe: MultimodalRecipe):
        data = recipe.data
        columns = {"image_column": data.image_column, "caption_column": data.caption_column}
        data.refuse((*OF_IMAGES, *OF_CAPTIONS), "this recipe trains on all images, cropped in the centre")
        options = {"captions": True, "max_unreadable": data.max_unreadable, **columns}
        splits = open_splits(data.data, data.image_size, recipe.loop.seed, **options)
        self.source = splits.train
        self.tokenizer = train_bpe(_captions(splits.train), recipe.text_vocab_size)
        pixels = PreparePixels(splits.levels, splits.channels)
        self.prepare = PreparePair(self.tokenizer, recipe.model.text_length, pixels)
        self.fingerprint = {"text_tokenizer_sha256": tokenizer_digest(self.tokenizer)}
        count = min(SCORED, len(splits.test))
        items = [splits.test[i] for i in range(count)]
        self.captions = [_caption(item).lower() for item in items]  # the text tokenizer has no capital letters
        pairs = [self.prepare(item, np.random.default_rng((0, i))) for i, item in enumerate(items)]
        self.held_out = torch.stack([torch.from_numpy(d["k"]) for d in pairs]), torch.stack([d["text"] for d in pairs])
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = recipe.model.build(
            len(self.tokenizer), image_size=data.image_size, channels=splits.channels, levels=splits.levels
        )

    def loss(self, k: Tensor, text: Tensor) -> dict[str, Tensor]:
        """k: levels, uint8 (B, C, S, S); text: ids (B, T)"""
        return self.model.loss(from_levels(k, self.model.levels), text)

    def preview(self) -> Image.Image:
        """Rows: images generated from captions, held-out images above their generated captions, and new pairs."""
        n, (images, text) = self.SHOWN, self._batch(slice(self.SHOWN))
        generator = torch.Generator().manual_seed(0)
        generated = self.model.image_given_text(text, generator)
        captions = self.model.text_given_image(images, generator)
        new_images, new_captions = self.model.sample_both(n, generator)
        shown = torch.cat([generated, images, new_images]).float().cpu().expand(-1, 3, -1, -1)
        labels = [
            *(f"“{words}”" for words in self._words(text)),
            *(f"seen: {words}" for words in self._words(captions)),
            *(f"both: {words}" for words in self._words(new_captions)),
        ]
        return contact_sheet(to_pil(shown), labels, columns=8, cell=96, max_lines=3)

    def save(self, folder: Path) -> None:
        """Save the model and its tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def evaluate(self) -> Evaluation:
        return Evaluation(self.score())

    @torch.no_grad()
    def score(self) -> dict[str, float | None]:
        """Scores on held-out pairs: `nats` of image and caption; `captions_right`, the accuracy of captions generated
        from images; on toybox also their `kinds` and `attributes` (wrong if the text is no caption), and `colours`, the
        accuracy of colours in images generated from captions, with `colours_of_real`, the same for the real images.
        """
        generator = torch.Generator().manual_seed(0)  # separate from the run's random state
        nats, captions, generated = [], [], []
        for i in range(0, len(self.held_out[0]), self.BATCH):
            images, text = self._batch(slice(i, i + self.BATCH))
            nats.append(-self.model.elbo(images, text, generator, MANY))
            captions += self._words(self.model.text_given_image(images, generator))
            generated.append(self.model.image_given_text(text, generator).float().cpu())
        right = float(np.mean([a == b for a, b in zip(captions, self.captions, strict=True)]))
        scores = {"pairs": len(captions), "nats": torch.cat(nats).mean().item(), "captions_right": right}
        things = things_named(self.captions)
        if None not in things and self.model.shape[0] == 3:
            attributes = [attribute for _, attribute in things]
            named = [thing or ("", "") for thing in things_named(captions)]
            equal = np.equal(np.array(named), np.array(things))
            scores["kinds"], scores["attributes"] = np.mean(equal, axis=0).tolist()
            scores["colours"] = colours_right(torch.cat(generated), attributes)
            scores["colours_of_real"] = colours_right(from_levels(self.held_out[0], self.model.levels), attributes)
        return scores

    def _batch(self, part: slice) -> tuple[Tensor, Tensor]:
        k, text = (x[part].to(self.model.device) for x in self.held_out)
        return from_levels(k, self.model.levels), text

    def _words(self, text: Tensor) -> list[str]:
        return [words.strip() for words in self.tokenizer.batch_decode(text.cpu(), skip_special_tokens=True)]


@dataclass(frozen=True)
class PreparePair:
    """Maps an image to levels and its caption to tokens."""

    tokenizer: PreTrainedTokenizerFast
    length: int
    pixels: PreparePixels

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> k, uint8 (C, S, S); text, ids (T,)"""
        return {"k": self.pixels(item, rng)["k"], "text": encode(self.tokenizer, [_caption(item)], self.length).ids[0]}


def _caption(item: dict) -> str:
    return item["scene"].caption() if "scene" in item else item["text"]


def _captions(source: Source) -> list[str]:
    if hasattr(source, "scene"):  # toybox
        return [source.scene(i)[0].caption() for i in range(BPE_CAPTIONS)]
    return list(source.captions(BPE_CAPTIONS))


def things_named(captions: list[str]) -> list[tuple[str, str] | None]:
    """(kind, attribute) of each canonical caption of one toybox thing; None for any other text."""
    names = {Scene((Thing(k, a),)).caption(): (k, a) for k in KINDS for a in ATTRIBUTES if k != a}
    return [names.get(caption) for caption in captions]


def colours_right(images: Tensor, attributes: list[str]) -> float | None:
    """Accuracy of the colours in images whose captions name a colour; None if none does.

    Images (N, 3, S, S) in [-1, 1]. The colour of an image is the one nearest to most of its foreground pixels. The
    background is constant within each row and is read off the left and right edges.
    """
    ground = (images[..., :1] + images[..., -1:]) / 2
    thing = (images - ground).square().sum(1).sqrt() > 0.3  # (N, S, S)
    inks = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    nearest = torch.cdist(images.permute(0, 2, 3, 1).flatten(1, 2), inks).argmin(2)  # (N, S·S)
    votes = F.one_hot(nearest, len(inks)) * thing.flatten(1)[..., None]
    predicted = votes.sum(1).argmax(1).tolist()
    right = [list(COLOURS)[n] == a for n, a in zip(predicted, attributes, strict=True) if a in COLOURS]
    return float(np.mean(right)) if right else None
