"""T5 on toybox captions: a text encoder trained without images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from t2i.checks import check_real
from t2i.text.t5 import IGNORED, corrupt_spans, denoising_loss, make_t5, predict, sentinel_ids, train_t5_tokenizer
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.previews import text_lines
from t2i.training.recipes.text.base import TextTask, split_captions
from t2i.training.task import Evaluation


@dataclass(frozen=True)
class T5Recipe:
    """Options of `t2i train t5-toybox`."""

    data: DataConfig = field(default_factory=DataConfig)
    vocab_size: int = 896
    """Maximum vocabulary size, learned from the captions; includes sentinels and the end token."""
    text_length: int = 32
    """Length of a text in tokens, including the end token; longer captions are truncated."""
    model: ModelOptions = field(default_factory=lambda: model_options(make_t5))
    corruption_rate: float = 0.15
    """Fraction of a caption's tokens to mask."""
    mean_span: float = 3.0
    """Mean length of a masked span, in tokens."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_real("corruption_rate", self.corruption_rate, above=True, most=0.5)
        check_real("mean_span", self.mean_span, least=1)

    def task(self) -> T5Task:
        return T5Task(self)


def t5_toybox(preset: str = "base") -> T5Recipe:
    """A T5 encoder with 1.3 M parameters, trained to fill in masked spans of captions.

    base: `t2i train t5-toybox --mixed-precision bf16`, 10 minutes on one core
    tiny: `t2i train t5-toybox --preset tiny`, half a minute on one core
    """
    if preset == "tiny":
        model = model_options(make_t5, width=64, hidden=128, layers=2, heads=2)
        steps = {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
        loop = LoopConfig("runs/tiny-t5", train_batch_size=64, optimizer="muon", **steps)
        return T5Recipe(vocab_size=512, model=model, loop=loop)
    steps = {"max_train_steps": 1_500, "checkpointing_steps": 250, "lr_warmup_steps": 100}
    return T5Recipe(
        loop=LoopConfig("runs/t5-toybox", train_batch_size=128, optimizer="muon", learning_rate=4e-3, **steps)
    )


class T5Task(TextTask):
    """Trains on captions with masked spans; the targets are the tokens of the spans."""

    SHOWN = 24
    next_command = "t2i train ldm-toybox --text-encoder {run}/latest, with the same --data"

    def __init__(self, recipe: T5Recipe):
        data = recipe.data.open(recipe.loop.seed, images=False)
        train = partial(train_t5_tokenizer, vocab_size=recipe.vocab_size, length=recipe.text_length)
        super().__init__(data, train, room=recipe.text_length - 1)
        self.source, self.held_out = split_captions(data)
        self.sentinels = sentinel_ids(self.tokenizer)
        self.prepare = PrepareSpans(self.tokenizer, self.sentinels, recipe.corruption_rate, recipe.mean_span)
        torch.manual_seed(recipe.loop.seed)  # the same initial weights on every process
        self.model = recipe.model.build(self.tokenizer)

    def loss(self, ids: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return denoising_loss(self.model, ids, targets, self.sentinels)

    def preview(self) -> Image.Image:
        """Held-out captions with masked spans, the predicted spans, and the true spans."""
        batch = self._batch(self.held_out[: self.SHOWN])
        predictions = predict(self.model, **batch).argmax(-1)
        lines = []
        for ids, predicted, truth in zip(batch["ids"], predictions, batch["targets"], strict=True):
            real = truth != IGNORED
            texts = [self.tokenizer.decode(x).replace("<pad>", "") for x in (ids, predicted[real], truth[real])]
            lines.append("   |   ".join(texts))
        return text_lines(lines)

    def save(self, folder: Path) -> None:
        """Save the encoder only, for T5EncoderModel and AutoTokenizer."""
        encoder = T5EncoderModel(self.model.config)
        encoder.load_state_dict({name: self.model.state_dict()[name] for name in encoder.state_dict()})
        encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        losses = self.loss(**self._batch(self.held_out))
        return Evaluation({"held_out": {name: x.item() for name, x in losses.items()}})

    def _batch(self, texts: list[str]) -> dict[str, Tensor]:
        """ids and targets with spans masked deterministically."""
        rows = [self.prepare({"text": text}, np.random.default_rng(i)) for i, text in enumerate(texts)]
        return {name: torch.stack([row[name] for row in rows]).to(self.model.device) for name in rows[0]}


@dataclass(frozen=True)
class PrepareSpans:
    """Prepares a caption with masked spans."""

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
