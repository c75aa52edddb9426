"""Input validation, before any work is done; each check raises ValueError naming the fault, or its subclass UsageError
for a command-line option ("--seed").
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

MAX_SEED = 2**64 - 1  # maximum seed of a torch.Generator
MAX_SIDE = 2**14  # maximum side of a generated image in pixels: larger ones take gigabytes each


class UsageError(ValueError):
    """An invalid command line."""


def _error(name: str) -> type[ValueError]:
    return UsageError if name.startswith("--") else ValueError


def check_whole(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raise ValueError unless `value` is an integer (Python's or NumPy's) from `least` to `most`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _error(name)(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise _error(name)(f"{name} must be at least {least}, not {value}")
    if most is not None and value > most:
        raise _error(name)(f"{name} must be at most {most}, not {value}")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless a value lies in [0, 1)."""
    if not 0 <= value < 1:
        raise _error(name)(f"{name} must lie in [0, 1), not {value}")


def check_real(name: str, value: object, least: float = 0.0, most: float | None = None, above: bool = False) -> None:
    """Raise ValueError unless `value` is a finite number from `least` (or, if `above`, greater than it) to `most`."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if number and (value > least if above else value >= least) and (most is None or value <= most):
        return
    if most is not None:
        raise _error(name)(f"{name} must lie in {'(' if above else '['}{least:g}, {most:g}], not {value!r}")
    if math.isinf(least):
        raise _error(name)(f"{name} must be a finite number, not {value!r}")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise _error(name)(f"{name} must be a number, not {value!r}")
    raise _error(name)(f"{name} must be {'above' if above else 'at least'} {least:g} and finite, not {value!r}")


def check_seeds(name: str, first: object, count: int = 1) -> None:
    """Raise ValueError unless the seeds `first`, `first` + 1, … (`count` of them) lie in [0, 2**64)."""
    if not isinstance(first, Integral) or isinstance(first, bool):
        raise _error(name)(f"{name} must be a whole number, not {first!r}")
    if first < 0:
        raise _error(name)(f"{name} must be at least 0, not {first}")
    if first + count - 1 > MAX_SEED:
        last = f" and the last of {count} seeds is {first + count - 1}" if count > 1 else ""
        raise _error(name)(f"{name} must be less than 2**64 = {2**64}, not {first}{last}; give a smaller seed")


def check_options(options: Mapping[str, Any], flags: bool = False) -> None:
    """Raise ValueError for a sampling option of a pipeline that is out of range; None is the pipeline's default.

    Args:
        options: options by argument name of a pipeline's `__call__`. Unknown names are ignored.
        flags: whether messages name command-line options ("--top-k") or arguments ("top_k").
    """
    for name, value in options.items():
        if value is None or name not in _OPTIONS:
            continue
        check, limits = _OPTIONS[name]
        check(f"--{name.replace('_', '-')}" if flags else name, value, **limits)


def check_distinct(name: str, values: Sequence[object], remedy: str = "give each once") -> None:
    """Raise ValueError, naming the first duplicate in `values`, which would have no effect.

    Args:
        name: name of the option that has these values, or what each of them is ("the prompt").
    """
    for i, value in enumerate(values):
        if value in values[:i]:
            shown = value if name.startswith("--") else shortened(value)
            raise _error(name)(f"{name} {shown} is given twice: {remedy}")


def check_prompts(name: str, given: object) -> list[str]:
    """Convert a prompt or list of prompts to a list. Raises ValueError for anything else, and as `check_text` does."""
    if not isinstance(given, (str, list, tuple)):
        raise ValueError(f"{name} must be a string or a list of strings, not {given!r}")
    prompts = [given] if isinstance(given, str) else list(given)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{name} must be a string or a non-empty list of strings")
    for prompt in prompts:
        check_text(name, prompt)
    return prompts


def check_text(what: str, text: str) -> None:
    """Raise ValueError for a text with lone surrogates, which stand for bytes that were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} {shortened(text)} is not valid Unicode at character {error.start + 1}: type it in a UTF-8 terminal"
        ) from None


def check_choice(what: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError, naming the nearest match, unless `name` is known."""
    known = list(known)
    if name in known:
        return
    near = nearest(name, known)
    hint = f"did you mean {near}? " if near else ""
    raise UsageError(f"unknown {what} {shortened(name)}: {hint}there are {', '.join(known)}")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str | None:
    """The best match for `name` among `known`: by initials ("lr": learning-rate), by a word ("vqvae": vqvae-toybox), by
    prefix, or else by letters, with a similarity of at least `cutoff`. None if there is no match.
    """
    given = _words(name)

    def likeness(other: str) -> tuple[int, float]:
        words = _words(other)
        initials = "".join(word[0] for word in words)
        ratio = difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()
        if len(words) > 1 and "".join(given) == initials:
            return 3, ratio
        if given and set(given) <= set(words):
            return 2, ratio
        if given and len(given[0]) > 1 and words and words[0].startswith(given[0]) and len(given) == 1:
            return 1, ratio
        return (0, ratio) if ratio >= cutoff else (-1, ratio)

    found = max(known, key=likeness, default=None)
    return found if found is not None and likeness(found)[0] >= 0 else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def shortened(value: object, length: int = 60) -> str:
    """The `repr` of a value for messages, truncated if it is long."""
    if isinstance(value, str):
        return repr(value if len(value) <= length else value[:length] + "…")
    return text if len(text := repr(value)) <= length else text[:length] + "…"


_OPTIONS: dict[str, tuple] = {
    "guidance_scale": (check_real, {}),
    "temperature": (check_real, {"above": True}),
    "top_k": (check_whole, {}),
    "top_p": (check_real, {"above": True, "most": 1.0}),
    "text_temperature": (check_real, {"above": True}),
    "text_top_p": (check_real, {"above": True, "most": 1.0}),
    "num_candidates": (check_whole, {}),
    "choice_temperature": (check_real, {}),
    "num_inference_steps": (check_whole, {}),
    "num_images_per_prompt": (check_whole, {}),
    "strength": (check_real, {"most": 1.0}),
    "eta": (check_real, {"most": 1.0}),
    "guidance_rescale": (check_real, {"most": 1.0}),
    "prior_guidance_scale": (check_real, {}),
    "num_prior_steps": (check_whole, {}),
    "dynamic_threshold": (check_real, {"above": True}),
    "percentile": (check_real, {"above": True, "most": 1.0}),
    "augmentation_level": (check_real, {"most": 1.0}),
    "lora_scale": (check_real, {"least": -math.inf}),
}
