"""Stage 2 of DALL·E: the transformer over text and image tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from t2i.checks import check_fraction, check_whole
from t2i.images import to_tensor
from t2i.notes import with_article
from t2i.pipelines.codes import CodePipeline
from t2i.pipelines.dalle import DallePipeline
from t2i.pipelines.loading.auto import AutoPipeline
from t2i.prior.masked import MaskedTransformer
from t2i.prior.transformer import TextImageTransformer
from t2i.processes import this_process
from t2i.text.bpe import encode, train_bpe
from t2i.tokenizers.auto import REMEDY, open_image_tokenizer
from t2i.tokenizers.base import ImageTokenizer
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.generative import GenerativeTask
from t2i.training.held_out import BATCH, bins, check_held_out, loaded, printed, scores_of, split_held_out, swap_test
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes.encodings import Encoding, cached_encodings
from t2i.training.recipes.text.base import learn_tokenizer
from t2i.training.recipes.toybox import TOYBOX, TOYBOX_PROMPTS
from t2i.training.task import Evaluation
from t2i.weights import copy_weights, digest, tokenizer_digest

ROWS = 4  # bins of the held-out loss
TEXT_LENGTH = 40  # the longest of 1,500 captions of toybox has 33 tokens

prior_options = partial(model_options, TextImageTransformer, exclude=("grid_size", "attention_backend"))


@dataclass(frozen=True)
class PriorRecipe:
    """Options of `t2i train prior-toybox`."""

    tokenizer: str = "runs/vqvae-toybox/latest"
    """The trained image tokenizer (stage 1): its folder, a pipeline's folder, or the name of embedded weights."""
    caption_dropout: float = 0.1
    """Fraction of samples trained without caption, for classifier-free guidance."""
    init_from: str | None = None
    """Pipeline over the same tokens to initialise the transformer from, such as another run's `latest`; by default it
    is initialised at random. Muse can start from DALL·E's."""
    held_out_images: int = 128
    """Number of held-out images for the loss and the swap test at each checkpoint, at most a twentieth of the data; 0:
    none."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the images generated at each checkpoint; without any, the first captions of the data."""
    cache: str | None = "none"
    """Cache folder of the image tokens, which are then computed once; created if it does not exist. None names one
    after the data; 'none' encodes the images of each batch."""
    cached_images: int = 65_536
    """Number of images to encode for the cache; the run repeats them."""
    data: DataConfig = field(default_factory=DataConfig)
    text_vocab_size: int = 1024
    """Maximum size of the text vocabulary, which is learned from the captions."""
    model: ModelOptions = field(default_factory=prior_options)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fraction("caption_dropout", self.caption_dropout)
        check_whole("cached_images", self.cached_images)
        check_held_out(self.held_out_images)

    def task(self) -> PriorTask:
        return PriorTask(self)


def prior_toybox(preset: str = "base") -> PriorRecipe:
    """A transformer with 3.8 M parameters over 40 text tokens and the 256 image tokens of a 128×128 image.

    base: `t2i train prior-toybox --tokenizer toybox/vqgan --mixed-precision bf16`
    tiny: `t2i train prior-toybox --preset tiny`, a minute on two cores, after the tiny vqvae-toybox
    """
    if preset == "tiny":
        model, loop = prior_options(width=128, layers=3, heads=4), prior_loop("prior", tiny=True)
        return PriorRecipe("runs/tiny-vqvae/latest", text_vocab_size=768, model=model, loop=loop)
    model = prior_options(width=208, heads=4, text_length=TEXT_LENGTH)
    return PriorRecipe(data=TOYBOX, model=model, loop=prior_loop("prior"), validation_prompts=TOYBOX_PROMPTS)


def prior_loop(name: str, tiny: bool = False) -> LoopConfig:
    """How a transformer over image tokens is trained."""
    if tiny:
        run, steps = f"runs/tiny-{name}", {"max_train_steps": 200, "checkpointing_steps": 100, "lr_warmup_steps": 20}
    else:
        run, steps = f"runs/{name}-toybox", {"max_train_steps": 8_000, "checkpointing_steps": 400}
    return LoopConfig(run, train_batch_size=32, optimizer="muon", learning_rate=4e-3, **steps)


class PriorTask(GenerativeTask):
    """Models text and image tokens as one sequence; the frozen image tokenizer encodes each batch of images."""

    def __init__(self, recipe: PriorRecipe):
        model, seed = recipe.model, recipe.loop.seed
        self.validation_prompts = recipe.validation_prompts
        self.image_tokenizer = load_image_tokenizer(recipe.tokenizer, recipe.data.image_size)
        self.source, self.held_out = split_held_out(recipe.data.open(seed), recipe.held_out_images)
        train = partial(train_bpe, vocab_size=recipe.text_vocab_size)
        self.tokenizer = learn_tokenizer(self.source, train, room=model.text_length)
        self.prepare = PreparePair(self.tokenizer, model.text_length, recipe.caption_dropout)
        self.fingerprint = {
            "image_tokenizer_sha256": digest(self.image_tokenizer),
            "text_tokenizer_sha256": tokenizer_digest(self.tokenizer),
        }
        if recipe.cache != "none":
            self.image_tokenizer.to(this_process().device)
            about = (recipe.data, seed, recipe.cached_images, recipe.loop.dataloader_num_workers)
            parent = Path(recipe.loop.output_dir).parent
            self.source = cached_encodings(self._encoding(), recipe.cache, self.source, *about, parent)
        torch.manual_seed(seed)  # the same initial weights on every process
        self.model = model.build(
            text_vocab_size=len(self.tokenizer),  # the captions may need fewer than `text_vocab_size`
            image_vocab_size=self.image_tokenizer.codebook_size,
            grid_size=self.image_tokenizer.grid_size,
        )
        if recipe.init_from:
            self.fingerprint["init_from_sha256"] = self._initialise(recipe.init_from)

    def _initialise(self, name: str) -> str:
        """Copy the transformer of a pipeline over the same tokens; returns its digest. Raises ValueError for others."""
        pipe = AutoPipeline.from_pretrained(name)
        if not isinstance(pipe, CodePipeline):
            raise ValueError(
                f"{name} holds {with_article(type(pipe).__name__)}, which has no transformer over image tokens"
            )
        tokens = digest(pipe.image_tokenizer), tokenizer_digest(pipe.tokenizer)
        if tokens != (self.fingerprint["image_tokenizer_sha256"], self.fingerprint["text_tokenizer_sha256"]):
            raise ValueError(
                f"{name} has another image tokenizer, or another text vocabulary, than this run: give the --tokenizer "
                "and the --data that it was trained with, or leave out --init-from"
            )
        return self.copy_weights(pipe.prior, name)

    def copy_weights(self, prior: TextImageTransformer | MaskedTransformer, name: str) -> str:
        """Copy the weights of a pipeline's transformer; returns their digest. Raises ValueError if sizes differ."""
        return copy_weights(prior, self.model, name)

    def loss(self, text: Tensor, images: Tensor | None = None, codes: Tensor | None = None) -> dict[str, Tensor]:
        """Takes the output of PreparePair."""
        return self.model.loss(text, self.codes_of(images, codes))

    def codes_of(self, images: Tensor | None, codes: Tensor | None) -> Tensor:
        """The cached codes (B, N), or those of the images."""
        return self.encode(images) if codes is None else codes

    def _encoding(self) -> Encoding:
        def encode(images: Tensor) -> Tensor:
            return self.encode(images.to(self.image_tokenizer.device))[:, None]  # (B, 1, N)

        key = {"image_tokenizer_sha256": self.fingerprint["image_tokenizer_sha256"]}
        dtype = np.uint16 if self.image_tokenizer.codebook_size <= 2**16 else np.int32
        return Encoding("codes", ("codes",), encode, dtype, key)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> codes (B, N)"""
        if self.image_tokenizer.device != images.device:
            self.image_tokenizer.to(images.device)
        # Full precision: some tokens would differ from those that the pipeline decodes.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.image_tokenizer.encode(to_tensor(images)).flatten(1)

    @cached_property
    def held_out_tokens(self) -> tuple[Tensor, Tensor]:
        """Text (N, T) and codes (N, M)."""
        device = next(self.model.parameters()).device
        images, captions = loaded(self.held_out)
        text = encode(self.tokenizer, captions, self.model.config.text_length).ids.to(device)
        return text, torch.cat([self.encode(batch.to(device)) for batch in images.split(BATCH)])

    @torch.no_grad()
    def evaluate(self) -> Evaluation | None:
        """Held-out loss in nats/token, with the right captions and with those of other images; printed as a table."""
        if not len(self.held_out):
            return None
        text, codes = self.held_out_tokens
        starts, by, errors = self.errors(codes)
        tables = swap_test(lambda given: errors(**given), {"text": text}, {"captions of other images": ("text",)})
        scores = scores_of(tables, starts, by)
        if isinstance(self.model, TextImageTransformer):
            pairs = zip(text.split(BATCH), codes.split(BATCH), strict=True)
            log_text = torch.cat([self.model.log_likelihoods(*pair)[0] for pair in pairs])
            scores["captions"] = -log_text.mean().item() / text.shape[1]
            tqdm.write(f"captions: {scores['captions']:.4f} nats/token")
        return printed(scores, by)

    def errors(self, codes: Tensor) -> tuple[list[int], str, Callable[[Tensor], Tensor]]:
        """Codes (N, M) -> starts of K bins, what is binned, and a function: text (N, T) -> nats/token (K, N)."""
        starts = bins(self.image_tokenizer.grid_size, ROWS)
        return starts, "row", partial(errors_by_row, self.model, codes, starts)

    def pipeline(self) -> DallePipeline:
        return DallePipeline(self.tokenizer, self.model, self.image_tokenizer)


def errors_by_row(model: TextImageTransformer, codes: Tensor, starts: Sequence[int], text: Tensor) -> Tensor:
    """Codes (N, M) of images given texts (N, T) -> mean nats/token in bins of rows, (K, N).

    Args:
        starts: the first row of each bin.
    """
    rows = []
    for some_text, some_codes in zip(text.split(BATCH), codes.split(BATCH), strict=True):
        logits = model(some_text, some_codes)[1].transpose(1, 2).float()
        rows.append(F.cross_entropy(logits, some_codes, reduction="none").unflatten(1, (-1, model.config.grid_size)))
    parts = torch.cat(rows).cpu().tensor_split(list(starts[1:]), dim=1)
    return torch.stack([part.mean((1, 2)) for part in parts])


@dataclass(frozen=True)
class PreparePair:
    """Prepares an image and its caption; the caption is dropped with probability `dropout`."""

    tokenizer: PreTrainedTokenizerFast
    length: int
    dropout: float

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        """-> text, ids (T,); codes (N,), or, if not cached, images, uint8 (S, S, 3)"""
        text = "" if rng.random() < self.dropout else item["text"]
        image = {"codes": item["codes"].astype(np.int64)} if "codes" in item else {"images": item["image"]}
        return image | {"text": encode(self.tokenizer, [text], self.length).ids[0]}


def load_image_tokenizer(folder: str, image_size: int) -> ImageTokenizer:
    """The frozen stage 1. Raises FileNotFoundError or ValueError, with the command that trains it."""
    tokenizer = open_image_tokenizer(folder)
    if tokenizer.image_size != image_size:
        size = tokenizer.image_size
        raise ValueError(f"{folder} was trained on {size}×{size} images; give --image-size {size}, or {REMEDY}")
    return tokenizer
