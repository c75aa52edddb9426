"""What the folder of a training run says about the run."""

from __future__ import annotations

from pathlib import Path

from t2i.data.digits import open_splits
from t2i.data.labelled import Splits
from t2i.files import read_json

RECIPE_FILE = "recipe.json"  # the options that a run was started with


def recipe_of(folder: str | Path) -> dict:
    """The options of an unconditional model's run, by name; `folder` is the run or a model saved in it.

    Empty where there is no such run.
    """
    for run in (Path(folder), Path(folder).parent):
        recipe = read_json(run / RECIPE_FILE) if (run / RECIPE_FILE).is_file() else {}
        if "levels" in recipe:  # every recipe of an unconditional model has it
            return recipe
    return {}


def trained_on(folder: str | Path) -> Splits:
    """The data that a run, or a model saved in it, was trained on.

    Raises ValueError where `folder` belongs to no run of an unconditional model, and the errors of `open_splits`.
    """
    recipe = recipe_of(folder)
    if not recipe:
        raise ValueError(f"{folder} is no run of an unconditional model: say which --data")
    columns = {name: recipe[name] for name in ("image_column", "caption_column")}
    return open_splits(recipe["data"], recipe["image_size"], recipe["seed"], **columns)
