"""`t2i convert FILE … --out FOLDER`: published checkpoints of image tokenizers as folders that t2i opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor
from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError, check_distinct, check_whole
from t2i.files import check_writable, replaced, writing
from t2i.manifest import write_manifest
from t2i.notes import count, note, some, with_article
from t2i.tokenizers import openai_dvae, taming
from t2i.tokenizers.base import ImageTokenizer
from t2i.tokenizers.published import read_tensors


@dataclass(frozen=True)
class Convert:
    """Options of `t2i convert`. Raises UsageError for values out of range."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE …")] = ()
    """OpenAI's encoder.pkl and decoder.pkl, or a VQGAN of taming-transformers or latent diffusion (.ckpt); or state
    dicts of the same names (.pt, .safetensors)."""
    out: str = ""
    """Output folder; it must not exist."""
    config: str | None = None
    """The .yaml file that was published with a VQGAN; by default its architecture is inferred from the weights."""
    image_size: int | None = None
    """Side of the images it is for, in pixels: any multiple of its stride. By default that of the images it was trained
    on, by the config, or 256."""

    def __post_init__(self) -> None:
        check_distinct("the file", self.files)
        if self.image_size is not None:
            check_whole("--image-size", self.image_size)


def main(args: Sequence[str]) -> None:
    """Convert the files named by `args`; raises UsageError for invalid arguments."""
    description = "Convert a published image tokenizer to a folder that t2i opens; no code of the files is run."
    options = parse(Convert(), args, prog="t2i convert", description=description)
    if not options.files:
        raise UsageError("give the files to convert: t2i convert encoder.pkl decoder.pkl --out FOLDER")
    if not options.out:
        raise UsageError("give the output folder: --out FOLDER")
    out = Path(options.out)
    _check_free(out)
    check_writable(options.out, out.parent)
    model = convert(options.files, options.config, options.image_size)
    save(model, out)
    size = f"{model.image_size}×{model.image_size}"
    print(
        f"{out}: {with_article(type(model).__name__)} of {model.num_parameters() / 1e6:.1f} M parameters, "
        f"{model.codebook_size:,} codes, {model.grid_size}×{model.grid_size} of them for an image of {size}"
    )


def convert(
    files: Sequence[str | Path], config: str | Path | None = None, image_size: int | None = None
) -> ImageTokenizer:
    """The tokenizer in published files, in eval mode; `Convert` describes the arguments.

    Raises FileNotFoundError or ValueError, naming the file, if they hold anything else.
    """
    contents = {str(file): read_tensors(file) for file in files}
    names = " and ".join(contents)
    try:
        if all(openai_dvae.is_published(tensors) for tensors in contents.values()):
            if config is not None:
                raise ValueError("--config is for a VQGAN, and has no effect here: leave it out")
            together = {f"{file}:{key}": t for file, tensors in contents.items() for key, t in tensors.items()}
            return openai_dvae.from_published(together, image_size)
        if all(taming.is_published(tensors) for tensors in contents.values()):
            if len(contents) > 1:
                raise ValueError("each is a whole VQGAN: convert one at a time")
            return _from_taming(next(iter(contents.values())), config, image_size)
    except ValueError as error:
        raise ValueError(f"{names}: {error}") from error
    file = next(file for file, t in contents.items() if not (openai_dvae.is_published(t) or taming.is_published(t)))
    if any(".down_blocks." in key for key in contents[file]):
        raise ValueError(f"{file} is in diffusers' layout already: its folder, with its config.json, opens as it is")
    raise ValueError(
        f"{file} holds {count(contents[file], 'tensor')} ({some(list(contents[file]))}), in no layout that is known: "
        "give OpenAI's encoder.pkl and decoder.pkl, or a VQGAN of taming-transformers or latent diffusion"
    )


def save(model: ImageTokenizer, out: Path) -> None:
    """Write the model to a new folder, under a temporary name first. Raises UsageError if `out` exists."""
    _check_free(out)
    with writing(out), replaced(out) as part:
        model.save_pretrained(part)
        write_manifest(part)
        _check_free(out)  # `replaced` would overwrite what another process wrote meanwhile


def _from_taming(tensors: dict[str, Tensor], config: str | Path | None, image_size: int | None) -> ImageTokenizer:
    model, left_out = taming.from_published(tensors, config, image_size)
    if left_out:
        parts = ", ".join(f"{name} ({number})" for name, number in sorted(left_out.items()))
        note(f"left out, as encoding and decoding do without: {parts}, with the number of tensors")
    if config is None and image_size is None:
        note(f"the weights do not say which images they were trained on: assumed are {taming.IMAGE_SIZE} pixels a side")
    return model


def _check_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out} exists already: give another name")
