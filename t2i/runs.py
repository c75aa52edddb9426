"""The folder of a training run: names of its files, and the data it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2i.files import read_json

if TYPE_CHECKING:
    from t2i.data.splits import Splits

BEST = "best"  # folder of the model with the best validation score
RECIPE_FILE = "recipe.json"  # the options that the run was started with
SCORES_FILE = "scores.json"  # of a checkpoint: its scores on held-out images


def read_recipe(folder: str | Path) -> dict:
    """The options that a run of an unconditional model was started with; {} for any other folder.

    Args:
        folder: folder of the run, or of one of its checkpoints.
    """
    for run in (Path(folder), Path(folder).parent):
        recipe = read_json(run / RECIPE_FILE) if (run / RECIPE_FILE).is_file() else {}
        if "levels" in recipe:  # which only UnconditionalDataConfig has
            return recipe
    return {}


def open_training_data(folder: str | Path, remedy: str = "give the folder of such a run") -> Splits:
    """The data that an unconditional model was trained on.

    Args:
        folder: folder of the run, or of one of its checkpoints.
        remedy: what a user can do instead, for the message.

    Raises ValueError for any other folder, and as `open_splits` does.
    """
    from t2i.data.splits import open_splits  # slow to import, and most callers need only the names above

    recipe = read_recipe(folder)
    if not recipe:
        raise ValueError(f"{folder} is not a run of an unconditional model, whose recipe.json names its data: {remedy}")
    columns = {name: recipe[name] for name in ("image_column", "caption_column")}
    return open_splits(recipe["data"], recipe["image_size"], recipe["seed"], **columns)
