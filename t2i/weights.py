"""Loading of models with verification of their weights, and hashes of models and tokenizers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from t2i.configs import check_config, what_is_wrong
from t2i.notes import with_article

logger = logging.getLogger(__name__)

# Raised by the libraries for damaged or foreign files, with no information but the message.
UNUSABLE = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)


def load_model(cls: type, folder: str | Path, strict: bool = True, needed: Sequence[str] = (), **options) -> nn.Module:
    """`cls.from_pretrained(folder)` in eval mode, for a class of diffusers, transformers or t2i, checking that the
    weights contain exactly the model's parameters, in their shapes.

    The libraries initialise missing weights randomly, and ignore unexpected ones.

    Args:
        strict: whether unexpected weights are an error, as for models saved by t2i; otherwise they are logged as a
            warning, since public checkpoints may contain more than needed.
        needed: required keys of config.json.
        options: options of `from_pretrained`.

    Raises FileNotFoundError if there is no model, and ValueError, naming the file, if the weights or the config are
    damaged or do not match.
    """
    folder = Path(folder)
    check_config(cls, folder / "config.json", strict, *needed)
    files = check_safetensors(folder)
    where = files[0] if len(files) == 1 else folder
    if not files and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"there are no weights in {folder} (*.safetensors): copy or train it again")
    if issubclass(cls, PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # else the library prints a table, and its error does not name them
    try:
        with quiet():  # the libraries' warnings are errors here
            model, info = cls.from_pretrained(str(folder), output_loading_info=True, local_files_only=True, **options)
    except UNUSABLE as error:
        raise ValueError(_why_not(cls, folder, where, error)) from error
    missing = sorted(info["missing_keys"])
    extra = sorted(key for key in info["unexpected_keys"] if not key.endswith("position_ids"))  # in older CLIPs
    described = _unfit(cls, folder, where)
    for key, found, wanted in sorted(info["mismatched_keys"]):
        raise ValueError(f"{described}: {key} is {tuple(found)}, not {tuple(wanted)}")
    if missing:
        raise ValueError(f"{described}: it lacks {_some(missing)}")
    if extra and strict:
        raise ValueError(f"{described}, which has no parameter {_some(extra)}")
    if extra:
        logger.warning("%s, which has no parameter %s: it is left out", described, _some(extra))
    return model.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of diffusers and transformers."""
    levels = [(library, library.get_verbosity()) for library in (diffusers_logging, transformers_logging)]
    for library, _ in levels:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)


def check_safetensors(folder: Path) -> list[Path]:
    """The folder's .safetensors files. Raises ValueError for a truncated or invalid one."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or incomplete ({error}): copy or train it again") from None
    return files


def _unfit(cls: type, folder: Path, where: Path) -> str:
    return f"{where} does not fit the {cls.__name__} that {folder / 'config.json'} describes"


def _why_not(cls: type, folder: Path, where: Path, error: BaseException) -> str:
    """The reason why a model could not be loaded: its config, its weights, or a mismatch of the two."""
    kind = with_article(cls.__name__)
    if wrong := what_is_wrong(cls, folder / "config.json"):
        return f"{folder / 'config.json'} cannot be loaded as {kind} ({wrong}): copy or train it again"
    reason = short(error)
    if shapes := re.search(r"because (\S+ expected shape \(.*?\), but got \(.*?\))", reason):
        return f"{_unfit(cls, folder, where)}: {shapes[1]}"
    return f"{where} cannot be loaded as {kind}: {reason}"


def short(error: BaseException) -> str:
    """The first sentence of a library's error message, without torch.Size."""
    text = re.sub(r"torch\.Size\(\[([\d, ]*)\]\)", r"(\1)", " ".join(str(error).split()) or type(error).__name__)
    return re.split(r"(?<=[a-z)\]])\. (?=[A-Z])", text)[0][:300]


def _some(keys: Collection[str]) -> str:
    first = next(iter(keys))
    return first if len(keys) == 1 else f"{len(keys)} tensors, the first of them {first}"


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers as float32, sorted by name."""
    state, found = model.state_dict(), hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of everything that determines how a tokenizer of transformers encodes texts.

    The truncation and padding lengths are not included: a tokenizer stores them, and they change with its use.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: content[name] for name in ("normalizer", "pre_tokenizer", "model", "post_processor")}
    kept["added"] = sorted((token["content"], token["id"]) for token in content["added_tokens"])
    return hashlib.sha256(json.dumps([kept, tokenizer.pad_token_id], sort_keys=True).encode()).hexdigest()


def copy_weights(source: nn.Module, model: nn.Module, name: str) -> str:
    """Copy all weights of `source` into a model; return their digest. `name` is what was opened, for messages.

    Raises ValueError if sizes differ.
    """
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"{name} has other sizes or tokens than this recipe; give one that it trained") from error
    return digest(source)
