"""Validation of the config file of a model, scheduler or tokenizer against its class."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
from accelerate import init_empty_weights
from diffusers import ConfigMixin, SchedulerMixin
from transformers import PreTrainedModel

from t2i.checks import shortened
from t2i.files import read_json

logger = logging.getLogger(__name__)
_PREDICTIONS = ("epsilon", "sample", "original_sample", "v_prediction", "flow_prediction")
_SPACINGS = ("linspace", "leading", "trailing")


def check_config(cls: type, file: Path, strict: bool, *needed: str) -> dict[str, Any]:
    """Read a config file and check it against class `cls`.

    Args:
        strict: whether it must be of exactly this class, as if saved by t2i; otherwise a scheduler of diffusers may be
            opened with the config of another.
        needed: required keys.

    Raises ValueError, naming the file and the value, for another class and for invalid values; FileNotFoundError if
    there is no file. Keys unknown to the class are ignored with a warning.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}, which describes the {cls.__name__}: copy or train it again")
    config = read_json(file, *needed)
    if issubclass(cls, PreTrainedModel):
        _check_kind(cls, file, config)
        return config
    if not issubclass(cls, ConfigMixin):
        return config
    _check_class(cls, file, config, strict)
    parameters = inspect.signature(cls).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    odd = [name for name in config if name not in parameters and not name.startswith("_")]
    if odd and not any_name:
        logger.warning("%s says %s, which %s does not take: it is left out", file, ", ".join(odd), cls.__name__)
    for name, (right, what) in _VALUES.items():
        if name in config and name in parameters and not right(config[name]):
            raise ValueError(f"{file} says {name} {shortened(config[name])}, which must be {what}: correct it")
    return config


def what_is_wrong(cls: type, file: Path) -> str | None:
    """The reason why `cls` cannot be constructed from a config file, or None. Slow: only for error messages."""
    try:
        with init_empty_weights():
            if issubclass(cls, PreTrainedModel):
                cls(cls.config_class.from_pretrained(str(file.parent)))  # type: ignore[union-attr]
            else:
                cls.from_config(cls.load_config(str(file.parent)))  # type: ignore[attr-defined]
    except Exception as error:  # constructors raise any kind of error
        odd = _odd_value(cls, read_json(file))
        return odd or " ".join(str(error).split())[:200] or type(error).__name__
    return None


def _check_class(cls: type, file: Path, config: dict[str, Any], strict: bool) -> None:
    name = config.get("_class_name", cls.__name__)
    if name == cls.__name__:
        return
    if strict:
        raise ValueError(f"{file} is of class {name}, and should be of {cls.__name__}: copy or train it again")
    other = getattr(diffusers, str(name), None)
    if not (issubclass(cls, SchedulerMixin) and isinstance(other, type) and issubclass(other, SchedulerMixin)):
        logger.warning("%s is of class %s, and is read as one of %s", file, name, cls.__name__)


def _check_kind(cls: type[PreTrainedModel], file: Path, config: dict[str, Any]) -> None:
    """Check the model type of a transformers model, which may be part of a larger one ("clip", "clip_text_model")."""
    wanted, found = str(getattr(cls.config_class, "model_type", "")), config.get("model_type")
    if found is not None and not wanted.startswith(str(found)):
        raise ValueError(
            f"{file} says model_type {shortened(found)}, but that of {cls.__name__} is {wanted!r}: correct it"
        )


def _odd_value(cls: type, config: dict[str, Any]) -> str | None:
    """The first value whose type does not match that of the class's default."""
    for name, parameter in inspect.signature(cls).parameters.items():
        value, usual = config.get(name, parameter.default), type(parameter.default)
        if usual in (int, float):
            odd = value is None or isinstance(value, (str, bool, dict))
        else:
            odd = usual in (tuple, str) and not isinstance(value, (list, tuple) if usual is tuple else str)
        if odd:
            return f"{name} is {shortened(value)}"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_scale(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_size(value: object) -> bool:
    return value is None or _is_count(value) or (isinstance(value, list) and bool(value) and all(map(_is_count, value)))


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {  # name: (check, description of valid values)
    "prediction_type": (_PREDICTIONS.__contains__, f"one of {', '.join(_PREDICTIONS)}"),
    "timestep_spacing": (_SPACINGS.__contains__, f"one of {', '.join(_SPACINGS)}"),
    "num_train_timesteps": (_is_count, "a whole number from 1 on"),
    "scaling_factor": (_is_scale, "a number above 0"),
    "sample_size": (_is_size, "a whole number from 1 on, or two"),
}
