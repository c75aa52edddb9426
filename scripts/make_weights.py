"""Make the embedded weights again from nothing: `python scripts/make_weights.py`.

Trains the recipes one after the other (a run that was stopped goes on where it was), then stores what they made
in half precision under pipelines/weights/. With --pack-only it only stores the newest checkpoints that there are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from t2i.cli_errors import UsageError, exit_on_bad_input, parse
from t2i.data.toybox.reader import Reader
from t2i.pipelines import AutoPipeline
from t2i.training.recipes import RECIPES

WEIGHTS = Path(__file__).parent.parent / "pipelines" / "weights" / "toybox"
LIMIT_MB = {"dalle": 20.0, "ldm": 20.0, "reader": 3.0}

# Each recipe, and its options that take folders among the runs, such as the newest checkpoint of an earlier one.
STAGES = {
    "vqvae-toybox": {},
    "prior-toybox": {"--tokenizer": "vqvae-toybox/latest"},
    "kl-toybox": {},
    "clip-toybox": {},
    "ldm-toybox": {
        "--autoencoder": "kl-toybox/latest",
        "--text-encoder": "clip-toybox/latest",
        "--cache": "latents-toybox",
    },
    "reader-toybox": {},
}
# What is embedded: the recipe whose newest checkpoint it is, and what opens that.
PACKED = {
    "dalle": ("prior-toybox", AutoPipeline),
    "ldm": ("ldm-toybox", AutoPipeline),
    "reader": ("reader-toybox", Reader),
}


@dataclass(frozen=True)
class MakeWeights:
    runs: Path = Path("runs")
    """Folder of the training runs."""
    out: Path = WEIGHTS
    """Where the weights are stored."""
    preset: Literal["base", "tiny"] = "base"
    """Of the recipes; tiny goes through all stages in minutes, for a look at the way."""
    num_processes: int = 1
    """More of them train by `accelerate launch`, and share each batch."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """bf16 is faster where the hardware has it."""
    pack_only: bool = False
    """Train nothing, store the newest checkpoints there are."""


def main(args: list[str]) -> None:
    ask = parse(MakeWeights(), args, prog="make_weights.py", description=__doc__)
    if ask.preset == "tiny" and ask.out == WEIGHTS:
        raise UsageError("tiny weights are not to be embedded; store them elsewhere with --out FOLDER")
    for recipe, folders in () if ask.pack_only else STAGES.items():
        train(ask, recipe, {flag: ask.runs / folder for flag, folder in folders.items()})
    for name, (recipe, opened) in PACKED.items():
        if (newest := ask.runs / recipe / "latest").exists():
            pack(ask.out, name, opened.from_pretrained(newest, dtype=torch.float16))
        else:
            print(f"{newest}: there is none, {name} stays as it is")


def train(ask: MakeWeights, recipe: str, inputs: dict[str, Path]) -> None:
    """Run a recipe to its end, or from its newest checkpoint to its end, in processes of its own.

    Raises SystemExit where the training fails, which has said why, or is stopped.
    """
    folder, batch = ask.runs / recipe, RECIPES[recipe](ask.preset).loop.train_batch_size
    if batch % ask.num_processes:
        raise UsageError(f"{ask.num_processes} processes cannot share the batch of {recipe}, {batch}")
    options = inputs | {
        "--output-dir": folder,
        "--train-batch-size": batch // ask.num_processes,
        "--mixed-precision": ask.mixed_precision,
    }
    if (folder / "latest").exists():
        options["--resume"] = "latest"
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(ask.num_processes)]
    launch += ["--main_process_port", "0", "-m"]  # any that is free
    command = [sys.executable, "-m", *(launch if ask.num_processes > 1 else [])]
    command += [
        "t2i.training",
        recipe,
        "--preset",
        ask.preset,
        *(str(word) for pair in options.items() for word in pair),
    ]
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "ACCELERATE_USE_CPU": "true"}
    stopped = False
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # the training has it too: it saves a checkpoint first
                stopped = True
    if stopped or process.returncode:
        raise SystemExit(process.returncode or f"stopped during {recipe}; the same command goes on")


def pack(out: Path, name: str, model) -> None:
    """Store a model or pipeline; written beside its place first, and refused where it is too large."""
    part, final = out / f".{name}.part", out / name
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    for config in (*part.rglob("config.json"), part / "model_index.json"):
        tidy(config)
    size = sum(p.stat().st_size for p in part.rglob("*") if p.is_file()) / 1e6
    if size > LIMIT_MB[name]:
        shutil.rmtree(part)
        raise ValueError(f"{name} takes {size:.1f} MB, more than the {LIMIT_MB[name]:.0f} MB that are embedded at most")
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    print(f"{final}: {size:.1f} MB")


def tidy(config: Path) -> None:
    """Leave out where the weights once lay, which is of no use to anybody, and let transformers open its models in
    float32 whatever the files are stored in, as diffusers opens those beside them.
    """
    if config.is_file():
        lines = [line for line in config.read_text().splitlines(True) if '"_name_or_path"' not in line]
        config.write_text("".join(lines).replace('"dtype": "float16"', '"dtype": "float32"'))


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
