"""`t2i list`: what the package has by name, so that a name need not be looked up in the documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import check_choice
from t2i.files import read_json
from t2i.folders import EMBEDDED
from t2i.tables import format_table


@dataclass(frozen=True)
class ListConfig:
    """Options of `t2i list`."""

    sections: Annotated[Positional[tuple[str, ...]], arg(metavar="SECTION")] = ()
    """What to list: weights, recipes, schedulers, suites, metrics, extractors; default: everything."""
    json: bool = False
    """Print JSON instead of tables."""

    def __post_init__(self) -> None:
        for section in self.sections:
            check_choice("section", section, SECTIONS)


def weights() -> list[tuple[str, ...]]:
    """Embedded weights: name, class, size."""
    found = []
    for folder in sorted(EMBEDDED.glob("*/*")):
        file = next((file for file in (folder / "model_index.json", folder / "config.json") if file.is_file()), None)
        if file is None:
            continue
        config = read_json(file)
        kind = config.get("_class_name") or config["architectures"][0]
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        found.append((folder.relative_to(EMBEDDED).as_posix(), kind, f"{size / 1e6:.1f} MB"))
    return found


def recipes() -> list[tuple[str, ...]]:
    """Recipes of `t2i train`: name, what it trains."""
    from t2i.training.recipes import RECIPES

    return [(name, recipe.about().splitlines()[0]) for name, recipe in RECIPES.items()]


def schedulers() -> list[tuple[str, ...]]:
    """Schedulers of diffusion pipelines: name, class in diffusers for noise prediction and for flows."""
    from t2i.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS

    return [(name, of_noise, FLOW_SCHEDULERS.get(name, "–")) for name, of_noise in SCHEDULERS.items()]


def suites() -> list[tuple[str, ...]]:
    """Prompt suites of `t2i eval --prompts`: name, number of categories."""
    from t2i.eval.generation.prompts import LECTURE, SUITES, SUITES_V1

    counts = {name: len(categories) for name, categories in (SUITES | SUITES_V1).items()}
    counts["lecture-v1"] = len({category for _, category, _ in LECTURE})
    return [(name, str(count)) for name, count in counts.items()]


def metrics() -> list[tuple[str, ...]]:
    """Metrics of `t2i eval --metrics`: name, what it measures."""
    from t2i.eval.evaluators import EVALUATORS

    return [(name, about) for name, (about, _) in EVALUATORS.items()]


def extractors() -> list[tuple[str, ...]]:
    """Feature extractors of `t2i eval --extractor`: name with the argument it takes, features."""
    from t2i.eval.features import extractor_forms

    return list(extractor_forms().items())


SECTIONS: dict[str, tuple[Callable[[], list[tuple[str, ...]]], tuple[str, ...]]] = {  # its rows, and their columns
    "weights": (weights, ("weights", "class", "size")),
    "recipes": (recipes, ("recipe", "trains")),
    "schedulers": (schedulers, ("scheduler", "class", "class for flows")),
    "suites": (suites, ("suite", "categories")),
    "metrics": (metrics, ("metric", "measures")),
    "extractors": (extractors, ("extractor", "features")),
}


def main(args: Sequence[str]) -> None:
    """List embedded weights, recipes, schedulers, prompt suites, metrics and feature extractors."""
    config = parse(ListConfig(), args, prog="t2i list", description=main.__doc__ or "")
    names = config.sections or tuple(SECTIONS)
    rows = {name: SECTIONS[name][0]() for name in names}
    if config.json:
        heads = {name: SECTIONS[name][1] for name in names}
        print(json.dumps({name: [dict(zip(heads[name], row, strict=True)) for row in rows[name]] for name in names}))
        return
    print("\n\n".join(format_table(SECTIONS[name][1], rows[name]) for name in names))
