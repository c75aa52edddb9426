"""What recipes and tasks of denoisers conditioned on text share: options, captions as tokens or cached states, and a
text encoder that is frozen or trained with the denoiser.

Shapes: B batch · L text positions · D width of the text states
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from t2i.checks import check_fraction, check_whole
from t2i.diffusion.conditioning import encoder_of
from t2i.diffusion.objective import DiffusionObjective, Prediction
from t2i.diffusion.schedule import NoiseSchedule
from t2i.folders import embedded_folder, may_be_on_hub
from t2i.processes import this_process
from t2i.text.cache import CachedStates, cached_states
from t2i.text.encoders import TextEncoder, open_text_encoder
from t2i.training.config import DataConfig, LoopConfig
from t2i.training.generative import GenerativeTask
from t2i.training.held_out import check_held_out
from t2i.training.recipes.encodings import CachedEncodings


@dataclass(frozen=True, kw_only=True)
class TextConditionedRecipe:
    """Options of the recipes that train a denoiser conditioned on text."""

    cached_images: int = 100_000
    """Number of images to cache, and hence to train on."""
    caption_dropout: float = 0.1
    """Fraction of samples trained without caption, for classifier-free guidance."""
    prediction_type: Prediction = "v_prediction"
    """Prediction target of the denoiser: the noise, the sample (latent or image), v = √ᾱ·noise − √(1 − ᾱ)·sample, or a
    rectified flow's velocity. diffusers.StableDiffusionPipeline does not open flows."""
    min_snr_gamma: float | None = 5.0
    """γ of min-SNR loss weighting; None weights all timesteps equally."""
    noise_offset: float = 0.0
    """Standard deviation of additional noise that is constant within each channel."""
    held_out_images: int = 128
    """Number of held-out images for the loss by timestep and the swap test at each checkpoint, at most a twentieth of
    the data; 0: none."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the images generated at each checkpoint; without any, the first captions of the data."""
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule(beta_schedule="squaredcos_cap_v2"))
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_fraction("caption_dropout", self.caption_dropout)
        check_whole("cached_images", self.cached_images)
        check_held_out(self.held_out_images)
        self.objective()

    def objective(self) -> DiffusionObjective:
        """The denoiser's loss. Raises ValueError for options that contradict each other."""
        gamma = None if self.prediction_type == "flow" else self.min_snr_gamma
        return DiffusionObjective(self.schedule, self.prediction_type, gamma, self.noise_offset)


@dataclass(frozen=True, kw_only=True)
class TextEncoderOptions:
    """Options of the recipes that choose a text encoder."""

    train_text_encoder: bool = False
    """Train the text encoder jointly with the denoiser, as in Rombach et al. 2022, § 3.3, instead of freezing it, as in
    Imagen."""
    text_length: int | None = None
    """Maximum number of tokens of a caption, special ones included; longer ones are truncated. The size of cached
    states is proportional to it. Default: the encoder's own, at most 128 for a T5 or BERT."""

    def check_text_encoder(self) -> None:
        if self.text_length is not None:
            check_whole("text_length", self.text_length)


class TextConditionedTask(GenerativeTask):
    """Trains a denoiser conditioned on text. Subclasses set `encoder` and `model`.

    Attributes:
        encoder: on any device.
        trains_text_encoder: whether `model` is a DenoiserWithTextEncoder.
    """

    encoder: TextEncoder
    trains_text_encoder: bool = False

    @property
    def denoiser(self) -> nn.Module:
        return self.model.denoiser if isinstance(self.model, DenoiserWithTextEncoder) else self.model

    def text_states(self, mask: Tensor, ids: Tensor | None = None, states: Tensor | None = None) -> Tensor:
        """Cached states (B, L, D) as they are, or those of ids (B, L); mask (B, L) -> (B, L, D)"""
        if states is not None:
            return states
        if self.encoder.device != mask.device:
            self.encoder.model.to(mask.device)
        if self.trains_text_encoder:
            return self.encoder.forward(ids, mask)
        # Full precision, as in the pipeline.
        with torch.no_grad(), torch.autocast(mask.device.type, enabled=False):
            return self.encoder.forward(ids, mask)

    def cached_texts(self, named: str | None) -> CachedStates:
        """The states of the captions of cached images, `self.source`, computed once and stored in a folder next to it.

        Args:
            named: the folder of the images' cache, where it was given.
        """
        if not isinstance(source := self.source, CachedEncodings):
            raise TypeError(f"states are cached next to cached images, not for a {type(source).__name__}")
        self.encoder.model.to(this_process().device)
        suffix = "-text" if named else f"-text-{self.encoder.key()[:12]}"
        return cached_states(self.encoder, source.texts, source.folder.with_name(source.folder.name + suffix))


class DenoiserWithTextEncoder(nn.Module):
    """A denoiser and its jointly trained text encoder."""

    def __init__(self, denoiser: ModelMixin, text_encoder: nn.Module):
        super().__init__()
        self.denoiser, self.text_encoder = denoiser, text_encoder.requires_grad_(True)
        if isinstance(pooler := getattr(text_encoder, "pooler", None), nn.Module):
            pooler.requires_grad_(False)  # of BERT, which the states do not depend on

    def enable_gradient_checkpointing(self) -> None:
        self.denoiser.enable_gradient_checkpointing()


@dataclass(frozen=True)
class Tokens:
    """Tokenizes a text for the text encoder."""

    tokenizer: PreTrainedTokenizerBase
    length: int

    def __call__(self, text: str) -> dict:
        """-> ids (L,), mask (L,)"""
        options = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "np"}
        tokens = self.tokenizer(text, **options)
        return {"ids": tokens["input_ids"][0], "mask": tokens["attention_mask"][0]}


def prepare_text(texts: Tokens | CachedStates, text: str, dropout: float, rng: np.random.Generator) -> dict:
    """-> mask (L,), and ids (L,) or cached states (L, D); the text is dropped with probability `dropout`."""
    text = "" if rng.random() < dropout else text
    if isinstance(texts, Tokens):
        return texts(text)
    encoded = texts.encode([text])
    return {"states": encoded.states[0], "mask": encoded.mask[0].long()}


def load_text_encoder(name: str, length: int | None = None) -> TextEncoder:
    """The frozen text encoder for captions of `length` tokens, which its tokenizer then says too, wherever it is saved.

    Raises FileNotFoundError with the command that trains it, and ValueError for a length that it does not have.
    """
    if not embedded_folder(name).exists() and not may_be_on_hub(name, bare=True):
        kind = "t5" if "t5" in name else "clip"
        raise FileNotFoundError(
            f"there is no text encoder in {name}; make one with: t2i train {kind}-toybox"
            f"{' --preset tiny' if 'tiny' in name else ''}, and give its folder with --text-encoder"
        )
    encoder = open_text_encoder(name, length=length)
    encoder.tokenizer.model_max_length = encoder.length
    if (most := encoder_of(encoder.model, encoder.tokenizer).length) < encoder.length:
        raise ValueError(f"text_length must be at most {most}, as many as a pipeline encodes, not {encoder.length}")
    return encoder
