"""Principal components and mixtures of Gaussians: fitted at once, not trained by the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from t2i.data.toybox.sheet import contact_sheet
from t2i.files import replaced, write_json
from t2i.images import to_pil
from t2i.manifest import write_manifest
from t2i.models.base import from_levels
from t2i.models.linear.linear_mixture import LinearMixture, nearest
from t2i.runs import RECIPE_FILE
from t2i.training.config import LoopConfig, flatten
from t2i.training.evaluation import CheckpointEvaluator
from t2i.training.unconditional import ModelOptions, UnconditionalDataConfig, UnconditionalTask


@dataclass(frozen=True)
class LinearOptions(ModelOptions):
    block: ClassVar = LinearMixture

    rank: int = 50
    """Principal components kept."""
    components: int = 1
    """Gaussians of the mixture in their scores."""
    ridge: float = 1e-4
    """Added to the variances of the Gaussians."""


@dataclass(frozen=True)
class LinearRecipe:
    output_dir: str = "runs/pca"
    """Folder of the model, its scores and pictures."""
    fitted: int = 10_000
    """How many training pictures it is fitted to at most."""
    seed: int = 0
    conditional: bool = False
    """Fit p(x | y) on the data's labels: a mixture for each class."""
    data: UnconditionalDataConfig = field(default_factory=UnconditionalDataConfig)
    model: LinearOptions = field(default_factory=LinearOptions)

    def fit(self) -> Path:
        """Fit, score and save; the folder, which `t2i.models.load_pretrained` opens.

        Raises FileExistsError where a model is already, and as the model does.
        """
        run = Path(self.output_dir)
        folder = run / "checkpoint-1"
        if folder.exists():
            raise FileExistsError(f"{run} holds a model: choose another --output-dir")
        loop = LoopConfig(self.output_dir, seed=self.seed)
        stage = UnconditionalTask(self.data, self.model, loop, self.conditional)
        some = range(min(self.fitted, len(stage.source)))
        items = [stage.prepare(stage.source[i], np.random.default_rng((self.seed, i))) for i in some]
        images = from_levels(torch.from_numpy(np.stack([item["k"] for item in items])), stage.model.levels)
        labels = torch.tensor([item["label"] for item in items]) if self.conditional else None
        bounds = stage.model.fit(images, labels, self.seed)
        (run / "samples").mkdir(parents=True, exist_ok=True)
        write_json(run / RECIPE_FILE, flatten(self))
        with replaced(folder) as part:
            stage.save(part)
            write_json(part / "em.json", bounds)
            write_manifest(part)
        CheckpointEvaluator(stage, run).evaluate(folder)
        stage.preview().save(run / "samples" / "step-000001.png")
        beside_nearest(stage.model, images).save(run / "samples" / "nearest.png")
        print(f"done; wrote {folder}, and in {run} samples/\nnext: {stage.next_command.replace('{run}', str(run))}")
        return folder


def beside_nearest(model: LinearMixture, images: torch.Tensor, count: int = 8) -> Image.Image:
    """Samples over the training pictures nearest to them: has it learned the pictures by heart?"""
    y = torch.arange(count) % model.num_classes if model.conditional else None
    samples = model.sample(count, y, torch.Generator().manual_seed(0), leftover=False)
    shown = torch.cat([samples, images[nearest(samples, images)]]).expand(-1, 3, -1, -1)
    return contact_sheet(to_pil(shown), ["sample"] * count + ["nearest"] * count, columns=count, cell=64)


def pca(preset: str = "base") -> LinearRecipe:
    """Principal components with a Gaussian in their scores: project, fit, sample.

    base: `t2i train pca --data FOLDER` of 28×28 IDX files
    tiny: `t2i train pca --preset tiny`, 8×8 digits, seconds on one core
    """
    if preset == "tiny":
        return LinearRecipe("runs/tiny-pca", model=LinearOptions(rank=20))
    return LinearRecipe("runs/pca")


def gmm(preset: str = "base") -> LinearRecipe:
    """A mixture of Gaussians fitted by EM in the scores of principal components.

    base: `t2i train gmm --data FOLDER` of 28×28 IDX files
    tiny: `t2i train gmm --preset tiny`, 8×8 digits, seconds on one core
    """
    if preset == "tiny":
        return LinearRecipe("runs/tiny-gmm", model=LinearOptions(rank=20, components=10))
    return LinearRecipe("runs/gmm", model=LinearOptions(components=20))
