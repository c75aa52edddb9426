"""Command-line options of models, which are the arguments of their constructors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from itertools import pairwise
from typing import Literal

import docstring_parser
import pytest

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.training.model_options import SET_BY_DATA, ModelOptions, model_options
from t2i.training.recipes import RECIPES

MODELS = {
    name: [part for part in vars(recipe("base")).values() if isinstance(part, ModelOptions)]
    for name, recipe in RECIPES.items()
    if recipe.where.split(".")[0] != "ldm" or name == "kl-toybox"
}
EXCLUDED = {  # arguments with defaults that are no options; of all other models, those that the data set
    "VQVAE": {"image_size", "edge_weight", "codebook_decay"},
    "FSQVAE": {"image_size", "edge_weight"},
    "DiscreteVAE": {"image_size", "edge_weight"},
    "TextImageTransformer": {"grid_size", "attention_backend"},
    "MaskedTransformer": {"grid_size", "attention_backend"},
    "make_autoencoder": {"image_size"},
    "KLObjective": {"perceptual_weight", "perceptual", "adversary"},
    "ToyboxClassifier": {"kinds", "attributes"},
    "EfficientUNet": {"low_resolution"},
    "FactClassifier": {"kinds", "looks", "styles"},
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


def test_help_fills_its_lines_wherever_the_source_breaks_them():
    code = "from t2i.arguments import parse; from t2i.training.config import LoopConfig\n"
    code += "parse(LoopConfig(), ['--help'], prog='t2i')"  # in a new process: tyro keeps what it has read of a class
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    lines = [line.strip("│ ") for line in printed.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("Training time in seconds"))
    paragraph = lines[start : next(i for i, line in enumerate(lines[start:], start) if "(default" in line)]
    assert len(paragraph) > 2
    for line, following in pairwise(paragraph):
        assert len(line) + 1 + len(following.split()[0]) > max(map(len, paragraph))


def test_a_name_that_is_no_argument_is_refused():
    with pytest.raises(TypeError, match="wide"):
        model_options(Toy, wide=3)


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_of_a_model_is_a_documented_option(name):
    assert MODELS[name], "the recipe has no options of a model"
    for options in MODELS[name]:
        constructor = options.constructor
        arguments = {
            key: parameter.default
            for key, parameter in inspect.signature(constructor).parameters.items()
            if key not in EXCLUDED.get(constructor.__name__, SET_BY_DATA) and parameter.default is not parameter.empty
        }
        assert vars(type(options)()) == arguments
        described = {entry.arg_name for entry in docstring_parser.parse(inspect.getdoc(constructor) or "").params}
        assert described >= set(arguments)
