"""A character-level language model: `t2i train characters [--data toybox-v1|FILE.txt]`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2i.data.base import caption_lists
from t2i.data.sources import open_source
from t2i.data.tables import read_lines
from t2i.data.toybox.dataset import SceneDataset
from t2i.models.autoregressive.characters import CharacterModel, alphabet_of, counted, encode
from t2i.training.config import LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.previews import text_lines
from t2i.training.recipes.text.base import Captions, split_captions
from t2i.training.task import Evaluation, Task

ALPHABET_CAPTIONS = 20_000  # number of toybox captions to collect the alphabet from; toybox is infinite


@dataclass(frozen=True)
class TextConfig:
    """Texts to train on."""

    data: str = "toybox-v1"
    """'toybox' or 'toybox-v1', a text file with one text per line, an image folder with metadata.jsonl, or a dataset on
    the Hub."""
    image_column: str = "image"
    """Name of the image column; the images are not used."""
    caption_column: str = "text"
    """Name of the caption column."""


@dataclass(frozen=True)
class CharactersRecipe:
    """Options of `t2i train characters`."""

    data: TextConfig = field(default_factory=TextConfig)
    model: ModelOptions = field(default_factory=lambda: model_options(CharacterModel))
    loop: LoopConfig = field(default_factory=LoopConfig)

    def task(self) -> CharactersTask:
        return CharactersTask(self)


def characters(preset: str = "base") -> CharactersRecipe:
    """Character-level language model of captions: causal dilated convolutions over characters.

    base: `t2i train characters`, on toybox's captions
    tiny: `t2i train characters --preset tiny`, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(CharacterModel, length=64, width=32, blocks=6, cycle=3)
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20, "learning_rate": 5e-3}
        return CharactersRecipe(model=model, loop=LoopConfig("runs/tiny-characters", train_batch_size=32, **steps))
    loop = LoopConfig("runs/characters", max_train_steps=3_000, learning_rate=2e-3, checkpointing_steps=500)
    return CharactersRecipe(loop=loop)


class CharactersTask(Task):
    """Trains on texts and scores held-out ones in bits per character, including end-of-text symbols."""

    SHOWN = 24
    next_command = 'in Python, t2i.models.autoregressive.characters.CharacterModel.from_pretrained("{run}/latest")'
    BATCH = 128  # texts per batch when scoring

    def __init__(self, recipe: CharactersRecipe):
        data, self.recipe = recipe.data, recipe
        file = Path(data.data)
        if file.is_file():
            source = Captions([line for _, line in read_lines(file)])
        else:
            source = open_source(data.data, 64, data.image_column, data.caption_column, recipe.loop.seed)
        self.source, self.held_out = split_captions(source)
        count = ALPHABET_CAPTIONS if isinstance(source, SceneDataset) else len(source)
        alphabet = alphabet_of([*chain.from_iterable(caption_lists(source, count)), *self.held_out])
        self.fingerprint = {"alphabet": alphabet}
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = recipe.model.build(alphabet)
        self.prepare = PrepareCharacters(alphabet, recipe.model.length)

    def loss(self, ids: Tensor) -> dict[str, Tensor]:
        return self.model.loss(ids)

    def preview(self) -> Image.Image:
        """Texts sampled from the model, each with its own generator."""
        generators = [torch.Generator().manual_seed(i) for i in range(self.SHOWN)]
        return text_lines(self.model.sample(self.SHOWN, generators))

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def evaluate(self) -> Evaluation:
        return Evaluation({"held_out": self.score()})

    @torch.no_grad()
    def score(self) -> dict:
        """Bits per character of held-out texts, each truncated to T."""
        ids = self.model.encode(self.held_out).to(self.model.device)
        nats = sum(-self.model.log_prob(part).cpu().double().sum().item() for part in ids.split(self.BATCH))
        numbers = int(counted(ids).sum())
        bits = nats / (numbers * math.log(2))
        return {"texts": len(ids), "characters": numbers, "bits_per_character": bits}


@dataclass(frozen=True)
class PrepareCharacters:
    """Maps a text to ids; holds only the alphabet, so that the model is not sent to the data workers."""

    alphabet: str
    length: int

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> ids (T,), 0 after the end of the text"""
        return {"ids": encode([item["text"]], self.alphabet, self.length)[0]}
