"""`t2i train RECIPE …`, equivalent to `accelerate launch -m t2i.training RECIPE …`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from t2i.arguments import as_option, parse
from t2i.checks import UsageError, check_choice
from t2i.files import check_folder
from t2i.training.config import FittedRecipe, defaults_of, flatten
from t2i.training.recipes import PRESETS, RECIPES

DRY_RUN = "--dry-run"
DRY_RUN_IMAGES = 256  # to cache


def main(args: Sequence[str]) -> None:
    """Train the recipe named in `args`. Raises UsageError for bad arguments."""
    args = list(args)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return
    name, options = args[0], [arg for arg in args[1:] if arg != DRY_RUN]
    check_choice("recipe", name, RECIPES)
    preset, options = _take(options, "--preset", default="base")
    check_choice("preset", preset, PRESETS)
    about = RECIPES[name].about().replace("\ntiny: ", "\n\ntiny: ")  # tyro joins the lines of a paragraph
    description = (
        f"{about}\n\n--preset {' or '.join(PRESETS)} sets the defaults of the options; base if not given.\n\n"
        f"{DRY_RUN} prints shapes, parameters, memory and images/s instead of training; an error if it does not fit."
    )
    recipe = parse(RECIPES[name](preset), options, prog=f"t2i train {name}", description=description)
    try:
        run(recipe, name, dry=DRY_RUN in args)
    except ValueError as error:  # a value rejected by part of the recipe is reported as a bad option
        if (message := as_option(str(error), recipe)) == str(error):
            raise
        raise UsageError(message) from error


def run(recipe, name: str | None = None, dry: bool = False) -> Path:
    """Train a recipe's config; returns the folder of the newest checkpoint.

    Args:
        name: the recipe's name in RECIPES, stored with the run, which cannot be resumed under another recipe.
        dry: only print what the run would need; returns its folder, which is not written.
    """
    from t2i.processes import this_process

    fitted = isinstance(recipe, FittedRecipe)
    check_folder(recipe.output_dir if fitted else recipe.loop.output_dir, "--output-dir")
    processes = this_process().num_processes  # raises before anything is written if they are not connected
    if fitted:
        if processes > 1:
            raise ValueError("this model is fitted by one process: start it without accelerate launch")
        if dry:
            raise ValueError(f"this model is fitted without training steps: leave out {DRY_RUN}")
        return recipe.fit()
    from t2i.training.loop import train
    from t2i.training.mup import check_recipe

    check_recipe(recipe)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of data workers
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # or transformers would load weights in one process only
    if dry:
        from t2i.training.dry_run import dry_run

        with TemporaryDirectory() as scratch:  # a cache of a few images, which is not kept
            if getattr(recipe, "cache", "none") != "none":
                few = min(recipe.cached_images, DRY_RUN_IMAGES)
                recipe = dataclasses.replace(recipe, cache=str(Path(scratch) / "cache"), cached_images=few)
            dry_run(recipe.task(), recipe.loop)
        return Path(recipe.loop.output_dir)
    named = {} if name is None else {"recipe": name}
    return train(recipe.task(), recipe.loop, named | flatten(recipe), defaults_of(recipe))


def _overview() -> str:
    lines = ["usage: t2i train RECIPE [--preset base|tiny] [options]; t2i train RECIPE --help lists them", ""]
    for name, recipe in RECIPES.items():
        lines.append(f"  {name:16} {recipe.about().splitlines()[0]}")
    return "\n".join(lines)


def _take(args: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """The value of a flag, which determines the defaults of the others, and the remaining arguments."""
    if sum(arg == flag or arg.startswith(flag + "=") for arg in args) > 1:
        raise UsageError(f"{flag} is given more than once; give it once")
    for i, arg in enumerate(args):
        if arg.startswith(flag + "="):
            return arg.split("=", 1)[1], args[:i] + args[i + 1 :]
        if arg == flag:
            if i + 1 == len(args):
                raise UsageError(f"{flag} needs a value")
            return args[i + 1], args[:i] + args[i + 2 :]
    return default, args
