"""Command-line options of a model: the arguments of its constructor, with their types, defaults and documentation."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, get_type_hints

SET_BY_DATA = ("image_size", "channels", "levels", "num_classes")  # arguments of every `GenerativeModel`


@dataclass(frozen=True)
class ModelOptions:
    """Arguments of a model's constructor, except those set by the data. Created by `model_options`."""

    model_class: ClassVar[type]

    def build(self, *args, **set_by_data) -> Any:
        """Construct a new model."""
        return self.model_class(*args, **set_by_data, **dataclasses.asdict(self))


def model_options(model: type, **changed) -> ModelOptions:
    """The options of a model, with the constructor's defaults except those in `changed`."""
    return options_class(model)(**changed)


@cache
def options_class(model: type) -> type[ModelOptions]:
    """A dataclass with a field for each constructor argument that has a default and is not in SET_BY_DATA.

    An option's help text is the argument's entry under "Args:" in the model's docstring.
    """
    types = get_type_hints(model.__init__)
    fields = [
        (name, types[name], dataclasses.field(default=parameter.default))
        for name, parameter in inspect.signature(model).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in SET_BY_DATA
    ]
    _, heading, arguments = (inspect.getdoc(model) or "").partition("Args:")
    namespace = {"model_class": model, "__module__": model.__module__, "__doc__": f"\n{heading}{arguments}"}
    return dataclasses.make_dataclass(
        f"{model.__name__}Options", fields, bases=(ModelOptions,), namespace=namespace, frozen=True
    )
