"""Opening of any image tokenizer for evaluation: a model's folder, a training run, or the tokenizer of a pipeline.

Shapes: B batch · S image side · s = S / stride grid side · C latent channels · K codes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from t2i.checks import UsageError, nearest
from t2i.devices import Dtype
from t2i.files import read_json
from t2i.folders import embedded_folder, may_be_on_hub, newest_in_run
from t2i.manifest import verify
from t2i.notes import with_article
from t2i.pipelines.loading.auto import embedded
from t2i.pipelines.loading.verify import INDEX, read_index
from t2i.runs import RECIPE_FILE
from t2i.tokenizers.auto import CLASSES
from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.kl import KLTokenizer, make_fast, posterior, stride_of
from t2i.weights import digest, load_model

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}  # of diffusers
COMPONENTS = ("image_tokenizer", "vae")  # names of a pipeline's image tokenizer
TARGETS = "a folder of an image tokenizer, of its run, or of a pipeline"


@dataclass(frozen=True, eq=False)
class OpenedTokenizer:
    """An image tokenizer, in eval mode, with what its table states.

    Attributes:
        name: the target, as given.
        kind: name of its class.
        image_size: side of the images it was trained on; None if its config does not say.
        stride: pixels per code or latent, in each direction.
        codebook_size: K; None for continuous latents.
        channels: C; None for codes.
        sha256: of the weights.
        trained_on: the data and the seed of its run; None if unknown.
    """

    name: str
    kind: str
    model: ImageTokenizer | KLTokenizer
    image_size: int | None
    stride: int
    codebook_size: int | None
    channels: int | None
    sha256: str
    trained_on: tuple[str, int] | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters, with those of a codebook that is learned by moving averages."""
        learned = [p.numel() for p in self.model.parameters()]
        return sum(learned + [b.numel() for name, b in self.model.named_buffers() if name.endswith(".codebook")])

    def grid(self, size: int) -> tuple[int, ...]:
        """Shape of the codes (s, s) or latents (C, s, s) of an image of side `size`."""
        side = size // self.stride
        return (side, side) if self.channels is None else (self.channels, side, side)

    def bits(self, size: int) -> float:
        """Bits of the codes or latents of an image of side `size`: log2 K per code, or those of the numbers."""
        if self.codebook_size is not None:
            return math.log2(self.codebook_size) * math.prod(self.grid(size))
        return float(math.prod(self.grid(size)) * self.bits_per_number)

    @property
    def bits_per_number(self) -> int:
        """Bits of a latent at the decoder's precision."""
        return 8 * next(self.model.parameters()).element_size()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) in [-1, 1] -> what `decode` takes: codes (B, s, s), or the mean latents (B, C, s, s); and the
        KL divergence of the posterior from the standard normal in bits (B,), None without a posterior.
        """
        if self.kind != "AutoencoderKL":
            return self.model.encode(images), None
        q = posterior(self.model.autoencoder, images)
        return q.mode() * self.model.config.scaling_factor, q.kl() / math.log(2)

    def decode(self, encoded: Tensor) -> Tensor:
        """Codes (B, s, s) or latents (B, C, s, s) -> float32 (B, 3, S, S) in [-1, 1]"""
        return self.model.decode(encoded).float()


def is_tokenizer(target: str) -> bool:
    """Whether `target` is the folder of an image tokenizer alone, or of its run."""
    config = newest_in_run(target, CONFIG) / CONFIG
    return config.is_file() and read_json(config).get("_class_name") in (*CLASSES, *AUTOENCODERS)


def open_tokenizer(target: str, device: str = "cpu", dtype: Dtype = "float32") -> OpenedTokenizer:
    """The image tokenizer of a target, frozen.

    Args:
        target: a folder of a class in `t2i.tokenizers.auto.CLASSES`, of diffusers' AutoencoderKL or AutoencoderTiny, a
            run of `t2i train` (its newest checkpoint), a pipeline (its `image_tokenizer` or `vae`), an embedded system,
            or a model on the Hub, of which only the tokenizer is downloaded.
        dtype: of the weights in memory and the computation.

    Raises UsageError, FileNotFoundError or ValueError, naming the target, if it is none of these or damaged.
    """
    folder = _folder_of(target)
    verify(newest_in_run(folder, CONFIG))
    config = newest_in_run(folder, CONFIG) / CONFIG
    if not config.is_file():
        raise FileNotFoundError(f"there is no image tokenizer in {target}: give {TARGETS}")
    kind = str(read_json(config).get("_class_name"))
    precision = getattr(torch, dtype)
    if kind in CLASSES:
        model = load_model(resolve_name(CLASSES[kind]), config.parent, dtype=precision)
        of = {"image_size": model.image_size, "stride": model.stride, "codebook_size": model.codebook_size}
        of["channels"] = None
    elif kind in AUTOENCODERS:
        autoencoder = load_model(AUTOENCODERS[kind], config.parent, strict=False, dtype=precision)
        if autoencoder.config.in_channels != 3:
            raise UsageError(f"{target} encodes images of {autoencoder.config.in_channels} channels, not of 3")
        model = KLTokenizer(make_fast(autoencoder)).eval()
        size = getattr(autoencoder.config, "sample_size", None)
        of = {"image_size": size if isinstance(size, int) else None, "stride": stride_of(autoencoder)}
        of |= {"codebook_size": None, "channels": autoencoder.config.latent_channels}
    else:
        raise UsageError(f"{target} holds {with_article(kind)}, which is no image tokenizer: give {TARGETS}")
    model = model.requires_grad_(False).to(device)
    return OpenedTokenizer(target, kind, model, **of, sha256=digest(model), trained_on=_trained_on(config.parent))


def _folder_of(target: str) -> Path:
    """The folder with the tokenizer's config.json, or of a run with such folders."""
    path = embedded_folder(target)
    if not path.exists():
        path = _from_hub(target)
    if not path.is_dir():
        raise UsageError(f"{target} is a file: give {TARGETS}")
    pipeline = newest_in_run(path, INDEX)
    if not (pipeline / INDEX).is_file():
        return path
    verify(pipeline)
    index = read_index(pipeline)
    found = next((name for name in COMPONENTS if isinstance(index.get(name), list) and index[name][0]), None)
    if found is None:
        raise UsageError(
            f"{target} is {with_article(index['_class_name'])}, which has no image tokenizer: give {TARGETS}"
        )
    return pipeline / found


def _from_hub(target: str) -> Path:
    """The local copy of a model on the Hub, without anything but its tokenizer; raises FileNotFoundError."""
    if not may_be_on_hub(target):
        parent = Path(target).parent
        there = [str(parent / p.name) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        near = nearest(target, [*embedded(), *there])
        hint = f"did you mean {near}? " if near else ""
        raise FileNotFoundError(f"there is no folder {target}: {hint}give {TARGETS}, or one of {', '.join(embedded())}")
    from huggingface_hub import snapshot_download  # slow to import, and not needed for folders

    files = [f"{folder}{name}" for folder in ("", *(f"{c}/" for c in COMPONENTS)) for name in (CONFIG, WEIGHTS)]
    try:
        return Path(snapshot_download(target, allow_patterns=[INDEX, *files]))
    except Exception as error:  # raised by the HTTP library, which differs between versions
        reason = " ".join(str(error).split())[:100]
        raise FileNotFoundError(f"there is no folder {target}, and the Hub says: {reason}; give {TARGETS}") from error


def _trained_on(folder: Path) -> tuple[str, int] | None:
    """The data and the seed in the recipe.json of a checkpoint's run."""
    folder = folder.resolve()  # `latest` is a link
    for run in (folder, folder.parent):
        if (run / RECIPE_FILE).is_file():
            recipe = read_json(run / RECIPE_FILE)
            return (str(recipe["data"]), int(recipe["seed"])) if {"data", "seed"} <= recipe.keys() else None
    return None
