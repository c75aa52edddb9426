"""Train the embedded weights from scratch: `python scripts/make_weights.py`.

Trains the recipes one after the other (interrupted runs are resumed), then stores the results in half precision under
pipelines/weights/, and their curves as references under training/reference/. With --pack-only it only stores the newest
existing checkpoints.

`--preset gpu` is for one large GPU: bfloat16, compiled blocks, larger batches, and toybox rendered in advance on all
cores. It first prints its estimated running time; with --dry-run only that.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import weights_estimate
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.data.rendered import is_rendered
from t2i.data.sources import WORLDS
from t2i.data.toybox import export
from t2i.data.toybox.classifier import FactClassifier
from t2i.data.toybox_v1.classifier import ToyboxClassifier
from t2i.pipelines import AutoPipeline
from t2i.tokenizers.vqvae import VQVAE
from t2i.training.recipes import RECIPES
from t2i.training.reference import store_reference

WEIGHTS = Path(__file__).parent.parent / "pipelines" / "weights" / "toybox"
LIMIT_MB = {"vqgan": 5.0, "dalle": 12.0, "ldm": 20.0, "clip": 8.0, "classifier-v1": 3.0, "classifier": 4.0}

# Each recipe, and its options that refer to folders of other runs, such as the newest checkpoint of an earlier one.
STAGES = {
    "vqvae-toybox": {},
    "vqgan-toybox": {"--init-from": "vqvae-toybox/latest"},
    "prior-toybox": {"--tokenizer": "vqgan-toybox/latest"},
    "kl-toybox": {},
    "clip-toybox": {},
    "ldm-toybox": {
        "--autoencoder": "kl-toybox/latest",
        "--text-encoder": "clip-toybox/latest",
        "--cache": "latents-toybox",
    },
    "toybox-v1-classifier": {},
    "toybox-classifier": {},
}


class ClipFolder:
    """A CLIP with its tokenizer and image processor, as `clip-toybox` saves them."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessor):
        self.parts = (model, tokenizer, processor)

    @classmethod
    def from_pretrained(cls, folder: Path, dtype: torch.dtype) -> ClipFolder:
        kinds = CLIPTokenizer, CLIPImageProcessor
        return cls(CLIPModel.from_pretrained(folder, dtype=dtype), *(kind.from_pretrained(folder) for kind in kinds))

    def save_pretrained(self, folder: Path) -> None:
        for part in self.parts:
            part.save_pretrained(folder)


# What is embedded: the recipe whose newest checkpoint it is, and the function that opens it.
PACKED = {
    "vqgan": ("vqgan-toybox", VQVAE),
    "clip": ("clip-toybox", ClipFolder),
    "dalle": ("prior-toybox", AutoPipeline),
    "ldm": ("ldm-toybox", AutoPipeline),
    "classifier-v1": ("toybox-v1-classifier", ToyboxClassifier),
    "classifier": ("toybox-classifier", FactClassifier),
}
LARGE = 3  # an image of 128 pixels takes as long to render as three of 64


@dataclass(frozen=True)
class OnGPU:
    """How a recipe differs on one large GPU.

    Small batches leave the GPU waiting for kernel launches, so larger ones cost little; half the steps then process
    more images than the original recipe. The learning rate scales with the square root of the batch size, as
    recommended for adaptive optimizers (Malladi et al. 2022, arXiv 2205.10330).

    Args:
        batch: factor of the batch size.
        steps: factor of the number of steps.
        compiled: whether compiling takes less time than it saves.
        renders: images rendered on the fly per sample, in images of 64 pixels; 0: images rendered in advance are used.
    """

    batch: int
    steps: float = 0.5
    compiled: bool = True
    renders: int = 0

    @property
    def learning_rate(self) -> float:
        return math.sqrt(self.batch)


GPU = {
    "vqvae-toybox": OnGPU(8, 0.3, compiled=False),
    "vqgan-toybox": OnGPU(8, 0.3, compiled=False),
    "prior-toybox": OnGPU(8, 0.2),
    "kl-toybox": OnGPU(8, 0.4),
    "clip-toybox": OnGPU(4, 0.25, compiled=False, renders=4 * LARGE),  # each scene with three near misses
    "ldm-toybox": OnGPU(4, 0.3),
    "toybox-v1-classifier": OnGPU(4, compiled=False, renders=1),
    "toybox-classifier": OnGPU(4, 0.1, compiled=False, renders=2 * LARGE),
}
PREVIEWS = 4  # checkpoints per recipe, and hence previews, each as long as a hundred steps


@dataclass(frozen=True)
class MakeWeights:
    runs: Path = Path("runs")
    """Folder of the training runs."""
    out: Path = WEIGHTS
    """Output folder for the weights."""
    preset: Literal["base", "tiny", "gpu"] = "base"
    """Preset of the recipes; tiny runs all stages in minutes, gpu is base for one large GPU."""
    sizes: Literal["base", "tiny"] = "base"
    """Recipe preset that --preset gpu starts from; tiny tests it on a CPU."""
    rendered: int = 200_000
    """Number of images of each world of toybox that --preset gpu renders in advance."""
    workers: int = max(1, weights_estimate.cores() - 2)
    """Number of processes that render and load images with --preset gpu; default: all cores but two."""
    compile: bool = True
    """Compile the models' repeated blocks with --preset gpu."""
    dry_run: bool = False
    """With --preset gpu, print the estimated running time and exit."""
    num_processes: int = 1
    """Number of training processes; several are started by `accelerate launch` and share each batch."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of training; bf16 is faster on hardware that supports it."""
    pack_only: bool = False
    """Store the newest existing checkpoints without training."""


def main(args: list[str]) -> None:
    ask = parse(MakeWeights(), args, prog="make_weights.py", description=__doc__)
    if "tiny" in (ask.preset, ask.sizes) and ask.out == WEIGHTS and not ask.dry_run:
        raise UsageError("tiny weights are not to be embedded; store them elsewhere with --out FOLDER")
    for option, least in (("rendered", 1), ("workers", 1), ("num_processes", 1)):
        if getattr(ask, option) < least:
            raise UsageError(f"--{option.replace('_', '-')} must be at least {least}, not {getattr(ask, option)}")
    if ask.dry_run and ask.preset != "gpu":
        raise UsageError("--dry-run estimates --preset gpu: give both")
    if ask.preset == "gpu" and not ask.pack_only:
        in_advance = rendered_in_advance(ask)
        images = ask.rendered * sum(LARGE if size > 64 else 1 for size in in_advance.values())
        print(weights_estimate.table(estimates(ask), images, ask.workers), flush=True)
        if ask.dry_run:
            return
        render(ask, in_advance)
    for recipe, folders in () if ask.pack_only else STAGES.items():
        train(ask, recipe, {flag: ask.runs / folder for flag, folder in folders.items()})
    for name, (recipe, opened) in PACKED.items():
        if (newest := ask.runs / recipe / "latest").exists():
            pack(ask.out, name, opened.from_pretrained(newest, dtype=torch.float16))
            if ask.out == WEIGHTS:
                store_references(ask, recipe)
        else:
            print(f"{newest}: there is none, {name} stays as it is")


def store_references(ask: MakeWeights, recipe: str) -> None:
    """Store the curves of a recipe's run, and of the runs that it starts from."""
    for name in (recipe, *(folder.split("/")[0] for folder in STAGES[recipe].values())):
        if (ask.runs / name / "metrics.jsonl").is_file():
            base = RECIPES[name]("base")
            world = {"data": base.data.data} if hasattr(base, "data") else {}  # not a folder of its images
            print(store_reference(ask.runs / name, **world))


def base_of(ask: MakeWeights) -> str:
    """The recipes' preset."""
    return ask.sizes if ask.preset == "gpu" else ask.preset


def rendered_in_advance(ask: MakeWeights) -> dict[str, int]:
    """The worlds of toybox whose images are rendered in advance, and their sides in pixels."""
    data = [RECIPES[name](base_of(ask)).data for name, gpu in GPU.items() if not gpu.renders]
    return {of.data: of.image_size for of in data}


def render(ask: MakeWeights, worlds: dict[str, int]) -> None:
    """Render images of each world, with their sides in pixels, unless they are there already."""
    for world, size in worlds.items():
        if not is_rendered(folder := ask.runs / f"{world}-rendered"):
            export(WORLDS[world]("train", size, num=ask.rendered), folder, ask.workers, "array")


def on_gpu(ask: MakeWeights, recipe: str) -> OnGPU:
    """How a recipe differs on the GPU; with tiny sizes only the number of steps changes."""
    return replace(GPU[recipe], batch=1, steps=0.1) if ask.sizes == "tiny" else GPU[recipe]


def gpu_options(ask: MakeWeights, recipe: str) -> dict[str, object]:
    """The options of a recipe on one large GPU."""
    base, gpu = RECIPES[recipe](base_of(ask)), on_gpu(ask, recipe)
    loop = base.loop
    steps = math.ceil(loop.max_train_steps * gpu.steps)
    options = {
        "--max-train-steps": steps,
        "--train-batch-size": loop.train_batch_size * gpu.batch,
        "--learning-rate": loop.learning_rate * gpu.learning_rate,
        "--checkpointing-steps": math.ceil(steps / PREVIEWS),
        "--dataloader-num-workers": ask.workers,
        "--mixed-precision": "bf16",
        "--compile" if ask.compile and gpu.compiled else "--no-compile": None,
    }
    return options if gpu.renders else options | {"--data": ask.runs / f"{base.data.data}-rendered"}


def estimates(ask: MakeWeights) -> list[weights_estimate.Estimate]:
    """Estimates for all recipes on one large GPU."""
    estimates = []
    for name, gpu in GPU.items():
        recipe, options = RECIPES[name](base_of(ask)), gpu_options(ask, name)
        sizes = {"max_train_steps": options["--max-train-steps"], "train_batch_size": options["--train-batch-size"]}
        loop = replace(recipe.loop, **sizes, compile="--compile" in options)
        estimates.append(weights_estimate.estimate(name, replace(recipe, loop=loop), gpu.renders, ask.workers))
    return estimates


def train(ask: MakeWeights, recipe: str, inputs: dict[str, Path]) -> None:
    """Run a recipe to its end, resuming from its newest checkpoint if there is one, in separate processes.

    Raises SystemExit if the training fails (it has printed the reason) or is interrupted.
    """
    preset, folder = base_of(ask), ask.runs / recipe
    options: dict[str, object] = {
        "--train-batch-size": RECIPES[recipe](preset).loop.train_batch_size,
        "--mixed-precision": ask.mixed_precision,
    }
    if ask.preset == "gpu":
        options = gpu_options(ask, recipe)
    if options["--train-batch-size"] % ask.num_processes:
        raise UsageError(
            f"{ask.num_processes} processes cannot share the batch of {recipe}, {options['--train-batch-size']}"
        )
    options["--train-batch-size"] //= ask.num_processes
    options |= inputs | {"--output-dir": folder}
    if (folder / "latest").exists():
        options["--resume"] = "latest"
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(ask.num_processes)]
    launch += ["--main_process_port", "0", "-m"]  # any free port
    command = [sys.executable, "-m", *(launch if ask.num_processes > 1 else [])]
    command += ["t2i.training", recipe, "--preset", preset]
    command += [str(word) for pair in options.items() for word in pair if word is not None]
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "ACCELERATE_USE_CPU": "true"}
    stopped = False
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # the training process gets it too and saves a checkpoint first
                stopped = True
    if stopped or process.returncode:
        raise SystemExit(process.returncode or f"stopped during {recipe}; the same command goes on")


def pack(out: Path, name: str, model) -> None:
    """Store a model or pipeline atomically; refused if it is too large."""
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
    """Remove the weights' original location from a config, and let transformers open models in float32 whatever the
    files' dtype, as diffusers does.
    """
    if config.is_file():
        lines = [line for line in config.read_text().splitlines(True) if '"_name_or_path"' not in line]
        config.write_text("".join(lines).replace('"dtype": "float16"', '"dtype": "float32"'))


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
