"""Recipes of PCA and Gaussian mixtures, which are fitted in closed form or by EM rather than by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from t2i.contact_sheet import contact_sheet
from t2i.files import replaced, write_json
from t2i.images import to_pil
from t2i.manifest import write_manifest
from t2i.models.base import from_levels
from t2i.models.linear.linear_mixture import LinearMixture, nearest
from t2i.runs import RECIPE_FILE
from t2i.training.config import FittedRecipe, LoopConfig, flatten
from t2i.training.evaluation import CheckpointEvaluator
from t2i.training.model_options import ModelOptions, model_options
from t2i.training.unconditional import UnconditionalDataConfig, UnconditionalTask


@dataclass(frozen=True)
class LinearRecipe(FittedRecipe):
    """Options of `t2i train pca` and `t2i train gmm`."""

    output_dir: str = "runs/pca"
    """Output folder for the model, its scores and samples."""
    fitted: int = 10_000
    """Maximum number of training images to fit to."""
    seed: int = 0
    """Random seed."""
    conditional: bool = False
    """Fit a class-conditional model, p(x | y): one mixture per label."""
    data: UnconditionalDataConfig = field(default_factory=UnconditionalDataConfig)
    model: ModelOptions = field(default_factory=lambda: model_options(LinearMixture))

    def fit(self) -> Path:
        """See `FittedRecipe`.

        Raises FileExistsError if the output folder already holds a model, and as the model does.
        """
        run = Path(self.output_dir)
        folder = run / "checkpoint-1"
        if folder.exists():
            raise FileExistsError(f"{run} holds a model: choose another --output-dir")
        loop = LoopConfig(self.output_dir, seed=self.seed)
        task = UnconditionalTask(self.data, self.model, loop, self.conditional)
        some = range(min(self.fitted, len(task.source)))
        items = [task.prepare(task.source[i], np.random.default_rng((self.seed, i))) for i in some]
        images = from_levels(torch.from_numpy(np.stack([item["k"] for item in items])), task.model.levels)
        labels = torch.tensor([item["label"] for item in items]) if self.conditional else None
        bounds = task.model.fit(images, labels, self.seed)
        (run / "samples").mkdir(parents=True, exist_ok=True)
        write_json(run / RECIPE_FILE, flatten(self))
        with replaced(folder) as part:
            task.save(part)
            write_json(part / "em.json", bounds)
            write_manifest(part)
        CheckpointEvaluator(task, run).evaluate(folder)
        task.preview().save(run / "samples" / "step-000001.png")
        samples_and_nearest(task.model, images).save(run / "samples" / "nearest.png")
        print(f"done; wrote {folder}, and in {run} samples/\nnext: {task.next_command.replace('{run}', str(run))}")
        return folder


def samples_and_nearest(model: LinearMixture, images: torch.Tensor, count: int = 8) -> Image.Image:
    """Samples above their nearest training images, which shows whether images were memorised."""
    y = torch.arange(count) % model.num_classes if model.conditional else None
    samples = model.sample(count, y, torch.Generator().manual_seed(0), leftover=False)
    shown = torch.cat([samples, images[nearest(samples, images)]]).expand(-1, 3, -1, -1)
    return contact_sheet(to_pil(shown), ["sample"] * count + ["nearest"] * count, columns=count, cell=64)


def pca(preset: str = "base") -> LinearRecipe:
    """PCA: a Gaussian over principal component scores.

    base: `t2i train pca --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train pca --preset tiny`, 8×8 digits, seconds on one core
    """
    if preset == "tiny":
        return LinearRecipe("runs/tiny-pca", model=model_options(LinearMixture, rank=20))
    return LinearRecipe("runs/pca")


def gmm(preset: str = "base") -> LinearRecipe:
    """A Gaussian mixture over principal component scores, fitted by EM.

    base: `t2i train gmm --data FOLDER`, for images of 28×28 such as MNIST's
    tiny: `t2i train gmm --preset tiny`, 8×8 digits, seconds on one core
    """
    if preset == "tiny":
        return LinearRecipe("runs/tiny-gmm", model=model_options(LinearMixture, rank=20, components=10))
    return LinearRecipe("runs/gmm", model=model_options(LinearMixture, components=20))
