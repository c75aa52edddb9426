"""Command-line options of a model: the arguments of its constructor, with their types, defaults and documentation."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, get_type_hints

SET_BY_DATA = ("image_size", "channels", "levels", "num_classes")  # arguments of every `GenerativeModel`


@dataclass(frozen=True)
class ModelOptions:
    """Arguments of a model's constructor that are options. Created by `model_options`."""

    constructor: ClassVar[Callable[..., Any]]

    def build(self, *args, **others) -> Any:
        """Construct a new model from the options and the constructor's other arguments."""
        return type(self).constructor(*args, **others, **dataclasses.asdict(self))


def model_options(
    constructor: Callable[..., Any], exclude: tuple[str, ...] = SET_BY_DATA, **changed: Any
) -> ModelOptions:
    """The options of a model, with the constructor's defaults except those in `changed`.

    Args:
        constructor: the model's class, or a function that returns a new model.
        exclude: arguments with defaults that are not options.
    """
    return options_class(constructor, exclude)(**changed)


@cache
def options_class(constructor: Callable[..., Any], exclude: tuple[str, ...] = SET_BY_DATA) -> type[ModelOptions]:
    """A dataclass with a field for each constructor argument that has a default and is not in `exclude`.

    An option's help text is the argument's entry under "Args:" in the constructor's docstring.
    """
    types = get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    fields = [
        (name, types[name], dataclasses.field(default=parameter.default))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in exclude
    ]
    _, heading, arguments = (inspect.getdoc(constructor) or "").partition("Args:")
    namespace = {
        "constructor": staticmethod(constructor),
        "__module__": constructor.__module__,
        "__doc__": f"\n{heading}{arguments}",
    }
    name = f"{constructor.__name__}_options"
    return dataclasses.make_dataclass(name, fields, bases=(ModelOptions,), namespace=namespace, frozen=True)
