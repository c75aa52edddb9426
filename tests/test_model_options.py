"""Command-line options of models, which are the arguments of their constructors."""

from __future__ import annotations

import inspect
from typing import Literal

import docstring_parser
import pytest

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.recipes import RECIPES

MODELS = {
    name: [part for part in vars(recipe("base")).values() if isinstance(part, ModelOptions)]
    for name, recipe in RECIPES.items()
    if recipe.where.split(".")[0] != "ldm" or name == "kl-toybox"
}
EXCLUDED = {  # arguments with defaults that are no options
    *("image_size", "channels", "levels", "num_classes"),  # set by the data
    *("edge_weight", "codebook_decay", "grid_size", "attention_backend", "adversary", "kinds", "attributes"),
}


class Toy:
    """A model of the test's.

    Args:
        image_size: Of the images.
        widths: Channels of each level,
            from fine to coarse.
        kind: 'round' or 'square'.
        deep: Whether there are more layers.
    """

    def __init__(
        self,
        image_size: int = 8,
        widths: tuple[int, ...] = (1, 2),
        kind: Literal["round", "square"] = "round",
        deep: bool = False,
    ):
        self.arguments = (image_size, widths, kind, deep)


def test_a_constructor_is_a_command_line(capsys):
    options = model_options(Toy, kind="square")
    assert options.build(image_size=3).arguments == (3, (1, 2), "square", False)
    given = parse(options, ["--widths", "5", "6", "7", "--deep"], prog="t2i")
    assert given.build(image_size=3).arguments == (3, (5, 6, 7), "square", True)
    with pytest.raises(UsageError, match=r"oval.*there are round, square"):
        parse(options, ["--kind", "oval"], prog="t2i")
    with pytest.raises(UsageError, match="unknown option --image-size"):  # which the data set
        parse(options, ["--image-size", "9"], prog="t2i")
    with pytest.raises(SystemExit):
        parse(options, ["--help"], prog="t2i")
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Channels of each level, from fine to coarse. (default: 1 2)" in said and "(default: square)" in said


def test_a_name_that_is_no_argument_is_refused():
    with pytest.raises(TypeError, match="wide"):
        model_options(Toy, wide=3)


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_of_a_model_is_a_documented_option(name):
    assert MODELS[name], "the recipe has no options of a model"
    for options in MODELS[name]:
        parameters = inspect.signature(options.constructor).parameters
        defaults = {key: parameter.default for key, parameter in parameters.items()}
        assert vars(type(options)()) == {key: defaults[key] for key in vars(options)}
        excluded = [key for key in defaults if key not in vars(options)]
        assert all(defaults[key] is inspect.Parameter.empty or key in EXCLUDED for key in excluded), excluded
        described = {
            entry.arg_name for entry in docstring_parser.parse(inspect.getdoc(options.constructor) or "").params
        }
        assert described >= set(vars(options))
