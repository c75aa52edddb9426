"""Make the embedded weights again from nothing: `python scripts/make_weights.py`.

Trains the three recipes one after the other (a run that was stopped goes on where it was), then stores what they made
in half precision under pipelines/weights/. With --pack-only it only stores the newest checkpoints that there are.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from t2i.cli_errors import exit_on_bad_input, parse
from t2i.data.toybox.reader import Reader
from t2i.pipelines import AutoPipeline

WEIGHTS = Path(__file__).parent.parent / "pipelines" / "weights" / "toybox"
LIMIT_MB = {"dalle": 20.0, "reader": 3.0}


@dataclass(frozen=True)
class MakeWeights:
    runs: Path = Path("runs")
    """Folder of the training runs."""
    pack_only: bool = False
    """Train nothing, store the newest checkpoints there are."""


def main(args: list[str]) -> None:
    ask = parse(MakeWeights(), args, prog="make_weights.py", description=__doc__)
    if not ask.pack_only:
        train(ask.runs, "vqvae-toybox")
        train(ask.runs, "prior-toybox", "--tokenizer", str(ask.runs / "vqvae-toybox" / "latest"))
        train(ask.runs, "reader-toybox")
    for name, recipe, opened in (("dalle", "prior-toybox", AutoPipeline), ("reader", "reader-toybox", Reader)):
        if (newest := ask.runs / recipe / "latest").exists():
            pack(name, opened.from_pretrained(newest, dtype=torch.float16))
        else:
            print(f"{newest}: there is none, {name} stays as it is")


def train(runs: Path, recipe: str, *options: str) -> None:
    """Run a recipe to its end, or from its newest checkpoint to its end."""
    from t2i.training.cli import main as train_main

    folder = runs / recipe
    resume = ["--resume", "latest"] if (folder / "latest").exists() else []
    train_main([recipe, "--output-dir", str(folder), *options, *resume])


def pack(name: str, model) -> None:
    """Store a model or pipeline; written beside its place first, and refused where it is too large."""
    part, final = WEIGHTS / f".{name}.part", WEIGHTS / name
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    for config in part.rglob("config.json"):  # where the weights once lay is of no use to anybody
        config.write_text("".join(line for line in config.open() if '"_name_or_path"' not in line))
    size = sum(p.stat().st_size for p in part.rglob("*") if p.is_file()) / 1e6
    if size > LIMIT_MB[name]:
        shutil.rmtree(part)
        raise ValueError(f"{name} takes {size:.1f} MB, more than the {LIMIT_MB[name]:.0f} MB that are embedded at most")
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    print(f"{final}: {size:.1f} MB")


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
