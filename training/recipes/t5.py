"""T5 on toybox captions: a text encoder that has never seen a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from t2i.data.fingerprint import of_texts
from t2i.data.sources import Source, open_source
from t2i.data.toybox import Toybox
from t2i.text.captions import LOOKED_AT, warn_of_long_captions
from t2i.text.t5 import (
    IGNORED,
    corrupt_spans,
    denoising_loss,
    make_t5,
    predict,
    sentinel_ids,
    train_t5_tokenizer,
)
from t2i.training.config import DataConfig, LoopConfig, check_image_size
from t2i.training.task import Evaluation, Task
from t2i.weights import tokenizer_digest

BPE_CAPTIONS = 50_000  # how many captions the vocabulary is learned from
NEW_SEED = 2**20  # captions of the scores come from another world than the run's, which is seeded from 0 up
SCORED = 1024  # captions


@dataclass(frozen=True)
class T5ModelConfig:
    vocab_size: int = 896
    """Tokens at most; learned from the captions, sentinels and the end token among them."""
    text_length: int = 32
    """Tokens of a text, the end among them; longer captions are cut."""
    width: int = 160
    hidden: int = 384
    """Width of the feed-forward layers."""
    layers: int = 4
    decoder_layers: int = 1
    """The decoder is there for training only; a small one leaves the understanding to the encoder."""
    heads: int = 5
    corruption_rate: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.corruption_rate <= 0.5:
            raise ValueError(f"corruption_rate must lie in (0, 0.5], not {self.corruption_rate}")
        if not self.mean_span >= 1:
            raise ValueError(f"mean_span must be at least 1, not {self.mean_span}")


@dataclass(frozen=True)
class T5Recipe:
    data: DataConfig = field(default_factory=DataConfig)
    model: T5ModelConfig = field(default_factory=T5ModelConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_image_size(self.data.image_size)

    def stage(self) -> T5Stage:
        return T5Stage(self)


def t5_toybox(preset: str = "base") -> T5Recipe:
    """A T5 encoder of 1.3 M parameters, trained to fill gaps in captions.

    base: `t2i train t5-toybox --mixed-precision bf16`, 10 minutes on one core
    tiny: `t2i train t5-toybox --preset tiny`, half a minute on one core
    """
    if preset == "tiny":
        run = "runs/tiny-t5"
        model = T5ModelConfig(512, 32, width=64, hidden=128, layers=2, heads=2)
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
        return T5Recipe(model=model, loop=LoopConfig(run, train_batch_size=64, optimizer="muon", **steps))
    run = "runs/t5-toybox"
    loop = LoopConfig(
        run,
        max_train_steps=1_500,
        train_batch_size=128,
        checkpointing_steps=250,
        optimizer="muon",
        learning_rate=4e-3,
        lr_warmup_steps=100,
    )
    return T5Recipe(loop=loop)


class T5Stage(Task):
    """Captions with gaps, and what was in them."""

    SHOWN = 24
    next_command = "t2i train ldm-toybox --text-encoder {run}/latest, with the same --data"

    def __init__(self, recipe: T5Recipe):
        data, model = recipe.data, recipe.model
        self.recipe = recipe
        source = open_source(data.data, data.image_size, data.image_column, data.caption_column, recipe.loop.seed)
        self.source, self.held_out = captions_of(source)
        self.tokenizer = train_t5_tokenizer(source.captions(BPE_CAPTIONS), model.vocab_size, model.text_length)
        warn_of_long_captions(source.captions(LOOKED_AT), self.tokenizer, model.text_length - 1)
        self.sentinels = sentinel_ids(self.tokenizer)
        self.prepare = PrepareGaps(self.tokenizer, self.sentinels, model.corruption_rate, model.mean_span)
        self.fingerprint = {"text_tokenizer_sha256": tokenizer_digest(self.tokenizer)}
        torch.manual_seed(recipe.loop.seed)  # the same start on every process
        self.model = make_t5(self.tokenizer, model.width, model.hidden, model.layers, model.decoder_layers, model.heads)
        self.model.enable_gradient_checkpointing = self.model.gradient_checkpointing_enable  # the loop's name for it

    def loss(self, ids: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return denoising_loss(self.model, ids, targets, self.sentinels)

    def preview(self) -> Image.Image:
        """New captions with their gaps, what the model says was in them, and what was."""
        batch = self._held_out(self.SHOWN)
        said = predict(self.model, **batch).argmax(-1)
        lines = []
        for ids, answer, truth in zip(batch["ids"], said, batch["targets"], strict=True):
            real = truth != IGNORED
            texts = [self.tokenizer.decode(x).replace("<pad>", "") for x in (ids, answer[real], truth[real])]
            lines.append("   |   ".join(texts))
        return lines_picture(lines)

    def save(self, folder: Path) -> None:
        """The encoder alone, as T5EncoderModel and AutoTokenizer open it."""
        encoder = T5EncoderModel(self.model.config)
        encoder.load_state_dict({name: self.model.state_dict()[name] for name in encoder.state_dict()})
        encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        losses = self.loss(**self._held_out(SCORED))
        return Evaluation({"held_out": {name: x.item() for name, x in losses.items()}})

    @torch.no_grad()
    def _held_out(self, num: int) -> dict[str, Tensor]:
        """ids and targets of captions that no run has seen, always with the same gaps."""
        texts = self.held_out[:num]
        rows = [self.prepare({"text": text}, np.random.default_rng(i)) for i, text in enumerate(texts)]
        return {name: torch.stack([row[name] for row in rows]).to(self.model.device) for name in rows[0]}


@dataclass(frozen=True)
class PrepareGaps:
    """A caption with gaps."""

    tokenizer: PreTrainedTokenizerFast
    sentinels: list[int]
    rate: float
    mean_span: float

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> ids (T,), padded with 0; targets (T,), padded with -100"""
        length, end = self.tokenizer.model_max_length, self.tokenizer.eos_token_id
        tokens = self.tokenizer(item["text"], add_special_tokens=False, verbose=False)["input_ids"][: length - 1]
        left, out = corrupt_spans(tokens, rng, self.sentinels, end, self.rate, self.mean_span)
        ids, targets = torch.zeros(length, dtype=torch.long), torch.full((length,), IGNORED)
        ids[: len(left)], targets[: len(out)] = torch.tensor(left), torch.tensor(out)
        return {"ids": ids, "targets": targets}


class Captions:
    """Captions without their pictures, as items {"text": str}: `texts` or those of toybox, which are made as asked."""

    def __init__(self, texts: list[str] | Toybox):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict:
        return {"text": self.texts.scene(index)[1] if isinstance(self.texts, Toybox) else self.texts[index]}

    def fingerprint(self) -> str:
        return self.texts.fingerprint() if isinstance(self.texts, Toybox) else of_texts(self.texts)


def captions_of(source: Source) -> tuple[Captions, list[str]]:
    """What to train on, and captions apart from it: toybox's of another world, else the last twentieth of the data."""
    if isinstance(source, Toybox):
        return Captions(source), list(Toybox("train", source.size, NEW_SEED, SCORED).captions(SCORED))
    texts = list(source.captions(len(source)))
    apart = max(1, min(SCORED, len(texts) // 20))
    if len(texts) <= apart:
        raise ValueError(f"{len(texts)} captions are too few: one is kept apart for the score, and some must be left")
    return Captions(texts[:-apart]), texts[-apart:]


def lines_picture(lines: list[str]) -> Image.Image:
    """Lines of text, black on white."""
    font = ImageFont.load_default(14)
    width = int(max(font.getlength(line) for line in lines))
    image = Image.new("RGB", (width + 24, 22 * len(lines) + 16), "white")
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((12, 8 + 22 * i), line, fill=(52, 50, 58), font=font)
    return image
