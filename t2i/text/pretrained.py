"""Loading of pretrained models and tokenizers by name or folder, through transformers or open_clip."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2i.checks import shortened
from t2i.files import read_json
from t2i.folders import may_be_on_hub, newest_in_run
from t2i.manifest import verify
from t2i.weights import load_model

logger = logging.getLogger(__name__)
CONFIG = "tokenizer_config.json"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")  # file names


def load(cls, source: str | Path, *kinds: str, dtype: torch.dtype = torch.float32):
    """`cls.from_pretrained`, without requests to the Hub for a local folder.

    Args:
        source: a folder written by save_pretrained, or a name on the Hub.
        kinds: accepted model types; none for tokenizers and image processors.
        dtype: dtype of a model's weights.

    Raises FileNotFoundError if there is none, ValueError for a model of another type or a damaged checkpoint.
    """
    folder, source = newest_in_run(source, "config.json"), str(source)
    local = folder.is_dir()
    if not local and not may_be_on_hub(source, bare=True):
        raise FileNotFoundError(f"there is no folder {source}; give one that save_pretrained wrote, or a Hub name")
    verify(folder)
    name = str(folder) if local else source
    try:
        if not kinds:
            return cls.from_pretrained(name, local_files_only=local)
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"transformers finds no {cls.__name__} in {name}: {reason}") from error
    if config.model_type not in kinds:
        found = config.model_type
        raise ValueError(f"{name} holds a model of type {found}, not {' or '.join(kinds)}; give another one")
    if local:
        return load_model(cls, folder, strict=False, dtype=dtype)  # one tower of a whole model is accepted
    try:
        return cls.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"transformers finds no {cls.__name__} in {name}: {reason}") from error


def load_tokenizer(cls: type, folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer of transformers from its folder.

    Raises FileNotFoundError if the folder has no vocabulary (transformers would create an empty tokenizer), and
    ValueError for one that is damaged or of another class.
    """
    files = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} has no vocabulary ({VOCABULARIES[0]}): copy or train the tokenizer again")
    try:
        tokenizer = cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more specific
        for file in sorted(folder.glob("*.json")):
            read_json(file)  # raises if this file is at fault
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{files[0]} is damaged, or not the vocabulary of a {cls.__name__} ({reason})") from error
    longest = tokenizer.model_max_length
    if not isinstance(longest, (int, float)) or longest < 1:
        raise ValueError(
            f"{folder / CONFIG} says model_max_length {shortened(longest)}, which must be a whole number from 1 on: "
            "correct it"
        )
    declared = read_json(folder / CONFIG).get("tokenizer_class") if (folder / CONFIG).is_file() else None
    if declared is not None and not hasattr(transformers, str(declared)):
        logger.warning("%s is of class %s, and is read as one of %s", folder / CONFIG, declared, cls.__name__)
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, where: str | Path, strict: bool = True
) -> None:
    """Raise ValueError, naming the tokenizer's source `where`, unless it fits the text encoder.

    The vocabulary of a T5 may be larger than its tokenizer's, but not by more than 4 times; a CLIP's config states the
    id of the end token.

    Args:
        strict: whether CLIP's vocabulary must not be larger. In public checkpoints it may be; this is logged as a
            warning.
    """
    size, tokens, config = encoder.config.vocab_size, len(tokenizer), encoder.config
    remedy = "they do not belong together: copy or train the pipeline again"
    clip = config.model_type in ("clip", "clip_text_model")
    few = clip and tokens < 0.95 * size
    if tokens > size or tokens < 0.25 * size or (few and strict):
        raise ValueError(f"{where} has {tokens} tokens, the text encoder a vocabulary of {size}: {remedy}")
    if few:
        logger.warning("%s has %d tokens only, the text encoder a vocabulary of %d", where, tokens, size)
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ValueError(f"{where} finds no tokens in a text: {remedy}")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if (token := getattr(tokenizer, name)) is not None and not 0 <= token < size:
            raise ValueError(f"{where} has the {name} {token}, the text encoder a vocabulary of {size}: {remedy}")
    known = getattr(config, "eos_token_id", None)
    if clip and known not in (None, 2, tokenizer.eos_token_id):  # 2 is in the config of the first CLIPs
        raise ValueError(
            f"{where} ends texts with token {tokenizer.eos_token_id}, the text encoder with {known}: {remedy}"
        )


def open_open_clip(source: str):
    """Open a CLIP model of open_clip (Ilharco et al. 2021, doi 10.5281/zenodo.5143773) in float32.

    Args:
        source: "ARCH/PRETRAINED" with one of open_clip's tags ("ViT-B-32/openai"), "ARCH//path/to/file", or
            "hf-hub:OWNER/NAME".

    Returns:
        The model, its image preprocessing, and open_clip's name of its tokenizer.

    Raises ValueError for names unknown to open_clip, FileNotFoundError if the file is missing.
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
