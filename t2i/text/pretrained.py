"""Models by name or folder, through transformers or open_clip: for text encoders and for evaluation."""

from __future__ import annotations

from pathlib import Path

import torch


def load(cls, source: str | Path, *kinds: str, dtype: torch.dtype = torch.float32):
    """`cls.from_pretrained`, from a folder without asking the Hub.

    Args:
        source: a folder that save_pretrained wrote, or a name on the Hub.
        kinds: the model types that will do; none for tokenizers and image processors.
        dtype: of a model's weights.

    Raises FileNotFoundError where there is none, ValueError where there is a model of another type.
    """
    source = str(source)
    folder = Path(source)
    if source.startswith(("/", ".", "~")) and not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {source}; give one that save_pretrained wrote, or a Hub name")
    local = {"local_files_only": folder.is_dir()}
    try:
        if not kinds:
            return cls.from_pretrained(source, **local)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(source, **local)
        if config.model_type in kinds:
            return cls.from_pretrained(source, dtype=dtype, **local)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"transformers finds no {cls.__name__} in {source}: {reason}") from error
    raise ValueError(f"{source} holds a model of type {config.model_type}, not {' or '.join(kinds)}; give another one")


def open_open_clip(source: str):
    """A CLIP of open_clip (Ilharco et al. 2021, doi 10.5281/zenodo.5143773), in float32.

    Args:
        source: "ARCH/PRETRAINED" with one of open_clip's tags ("ViT-B-32/openai"), "ARCH//path/to/file", or
            "hf-hub:OWNER/NAME".

    Returns:
        The model, what prepares a picture for it, and the name by which open_clip knows its tokenizer.

    Raises ValueError for what open_clip does not know, FileNotFoundError where the file is missing.
    """
    import open_clip

    hub = source.startswith("hf-hub:")
    arch, _, pretrained = (source, "", "") if hub else source.partition("/")
    if not pretrained and not hub:
        raise ValueError(f"open_clip:{source} names no weights; give open_clip:ARCH/PRETRAINED or ARCH//path")
    if pretrained.startswith("/") and not Path(pretrained).is_file():
        raise FileNotFoundError(f"there are no weights in {pretrained}; give a file, or one of open_clip's tags")
    try:
        model, transform = open_clip.create_model_from_pretrained(arch, pretrained or None, precision="fp32")
    except (RuntimeError, OSError) as error:
        raise ValueError(f"open_clip cannot open {source}: {str(error).splitlines()[0]}") from error
    return model, transform, arch
