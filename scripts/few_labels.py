"""Value of a pretrained encoder with few labels: `python scripts/few_labels.py --data FOLDER --autoencoder RUN`.

Test accuracy by number of labels per class, for three classifiers of the same form: a linear layer on the frozen
encoder, the fine-tuned encoder, and the same network from scratch. The encoder was trained on the training images
without labels. Writes OUT/accuracies.csv and accuracies.png and prints medians over the seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from experiments.accuracies import write
from experiments.images import labelled
from tqdm import tqdm

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.cli_errors import exit_on_bad_input
from t2i.models import load_pretrained
from t2i.models.analysis.encoder_classifier import STARTS, train_classifier
from t2i.models.latent_variable.autoencoder import Autoencoder


@dataclass(frozen=True)
class FewLabels:
    data: str = "digits"
    """Data that the autoencoder was trained on: 'digits', 'mnist', a folder of IDX files, or other data with labels."""
    autoencoder: str = "runs/autoencoder"
    """Run folder of `t2i train autoencoder`."""
    labels: tuple[int, ...] = (10, 50, 100)
    """Numbers of labels per class."""
    out: Path = Path("reports/few-labels")
    seeds: int = 3
    """Number of seeds, each of which selects other images and initial weights."""
    steps: int = 300
    """Number of steps per training run."""
    train: int = 10_000
    """Maximum number of training images, from which the labelled ones are selected."""
    test: int = 10_000
    """Maximum number of test images."""

    def __post_init__(self) -> None:
        if not self.labels or min(*self.labels, self.seeds, self.steps, self.train, self.test) < 1:
            raise ValueError("labels, seeds, steps, train and test must be at least 1")


def main(args: Sequence[str]) -> None:
    ask = parse(FewLabels(), args, prog="few_labels.py", description=__doc__)
    autoencoder = load_pretrained(ask.autoencoder)
    if not isinstance(autoencoder, Autoencoder):
        raise UsageError(f"{ask.autoencoder} holds a {type(autoencoder).__name__}, not an Autoencoder")
    data = labelled(ask.data, ask.train, ask.test, autoencoder)
    chosen = {(n, seed): data.few(n, seed) for n in ask.labels for seed in range(ask.seeds)}
    rows = []
    for (n, seed), start in tqdm([(key, start) for start in STARTS for key in chosen], unit="training"):
        places = chosen[n, seed]
        images, labels = data.images[places], data.labels[places]
        model = train_classifier(autoencoder, images, labels, len(data.classes), start, ask.steps, seed=seed)
        right = model.predict(data.test_images) == data.test_labels
        rows.append(row(start, n, seed, right))
    print(write(rows, ask.out, f"{Path(ask.data).name}: few labels"))
    print(f"written to {ask.out}")


def row(start: str, labels: int, seed: int, right: torch.Tensor) -> dict:
    accuracy = right.double().mean().item()
    return {"method": start, "missing": "none", "labels": labels, "seed": seed, "accuracy": accuracy}


if __name__ == "__main__":
    with exit_on_bad_input():
        main(sys.argv[1:])
