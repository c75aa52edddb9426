"""Classifier two-sample test: can a network distinguish generated from real images?

Lopez-Paz & Oquab 2017, arXiv 1610.06545: a small convolutional network is trained on three quarters of equally many
generated and real images; its accuracy on the rest is 50 % if the two sets are indistinguishable.

Shapes: N images · S image side
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i.eval.images.sets import items_of, load_image
from t2i.eval.metrics import Interval, share
from t2i.eval.run import GENERATED, REAL, REFERENCE, EvalRun
from t2i.eval.scores import Result, score

SIDE, WIDTH, BATCH = 64, 32, 64
MOST = 2000  # maximum number of images per set
TRAINED, VALIDATED = 0.75, 0.15  # share of the groups to train on; and share of these used to select the epoch
EPOCHS, PATIENCE = 30, 6
LEAST = 16  # minimum number of images per set


def check(run: EvalRun) -> None:
    """Raise for fewer than LEAST images and for an unusable reference, as `EvalRun.check_reference` does."""
    run.check_reference(LEAST)


def evaluate(run: EvalRun) -> Result:
    """Accuracy of a classifier that is trained to tell generated from real images.

    Raises UsageError if there is no reference, ValueError for fewer than LEAST images or too few different prompts.
    """
    fake, groups = _images(run, GENERATED)
    real, real_groups = _images(run, REAL if run.from_toybox else REFERENCE)
    interval = two_sample_accuracy(fake, real, groups, real_groups, run.config.seed)
    details = {"side": SIDE, "images": [len(fake), len(real)], "seed": run.config.seed, "ceiling": "chance"}
    return Result("two_sample", [score("two-sample accuracy", interval, "lower", 0.5, details=details, share=True)])


def two_sample_accuracy(
    fake: Tensor, real: Tensor, fake_groups: Sequence[str], real_groups: Sequence[str], seed: int = 0
) -> Interval:
    """Accuracy on held-out images, equally many of each set, with Wilson's interval.

    Args:
        fake, real: uint8 (N, 3, S, S); the larger set is subsampled at random.
        fake_groups, real_groups: a group for each image, such as its prompt. All images of a group, in both sets, are
            in the same split.
        seed: of the split, the network and the training.

    Raises ValueError if either set has fewer than LEAST images.
    """
    n = min(len(fake), len(real))
    if n < LEAST:
        raise ValueError(f"{n} images are too few for a two-sample test: at least {LEAST} are needed")
    rng = np.random.default_rng((seed, 7))
    sets = []
    for images, groups in ((fake, fake_groups), (real, real_groups)):
        rows = np.sort(rng.permutation(len(images))[:n])
        sets.append((images[torch.from_numpy(rows)], [groups[i] for i in rows]))
    names = sorted({name for _, groups in sets for name in groups})
    order = [names[i] for i in rng.permutation(len(names))]
    trained = order[: round(TRAINED * len(order))]
    fitted = set(trained[round(VALIDATED * len(trained)) :])
    x = torch.cat([images for images, _ in sets])
    y = torch.tensor([0.0] * n + [1.0] * n)
    of = [groups[i] for _, groups in sets for i in range(n)]
    parts = {"fit": fitted, "choose": set(trained) - fitted, "test": set(order) - set(trained)}
    rows = {part: _balanced([i for i in range(2 * n) if of[i] in members], n, rng) for part, members in parts.items()}
    if min(map(len, rows.values())) < 2:
        raise ValueError("the images have too few different prompts for a two-sample test: its split has an empty part")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _fit(x, y, rows["fit"], rows["choose"])
    return share((_logits(model, x[rows["test"]]) > 0).eq(y[rows["test"]] > 0).tolist())


def _balanced(rows: list[int], n: int, rng: np.random.Generator) -> Tensor:
    """Equally many rows of each set; rows below n belong to one set, the others to the other."""
    sides = [[i for i in rows if i < n], [i for i in rows if i >= n]]
    least = min(map(len, sides))
    return torch.tensor([int(i) for side in sides for i in np.sort(rng.permutation(side)[:least])], dtype=torch.long)


def _fit(x: Tensor, y: Tensor, fit: Tensor, choose: Tensor) -> nn.Module:
    """The network at the epoch with the lowest loss on the rows `choose`."""
    model = _network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    best, since, kept = float("inf"), 0, model.state_dict()
    for _ in range(EPOCHS):
        model.train()
        for rows in fit[torch.randperm(len(fit))].split(BATCH):
            images = _prepare(x[rows])
            if torch.rand(()) < 0.5:
                images = images.flip(-1)
            loss = F.binary_cross_entropy_with_logits(model(images).squeeze(1), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        held_out = float(F.binary_cross_entropy_with_logits(_logits(model, x[choose]), y[choose]))
        since = 0 if held_out < best else since + 1
        if since == 0:
            best, kept = held_out, {name: value.clone() for name, value in model.state_dict().items()}
        if since == PATIENCE:
            break
    model.load_state_dict(kept)
    return model


def _network() -> nn.Sequential:
    layers: list[nn.Module] = []
    strides = ((3, WIDTH, 1), (WIDTH, WIDTH, 2), (WIDTH, 2 * WIDTH, 2), (2 * WIDTH, 4 * WIDTH, 2))
    for before, width, stride in strides:
        layers += [nn.Conv2d(before, width, 3, stride=stride, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * WIDTH, 1))


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """uint8 (N, 3, S, S) -> (N,), positive for images classified as real"""
    model.eval()
    return torch.cat([model(_prepare(part)).squeeze(1) for part in images.split(4 * BATCH)])


def _prepare(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _images(run: EvalRun, name: str) -> tuple[Tensor, list[str]]:
    """uint8 (N, 3, 64, 64), and the group of each: its prompt, for a render its scene's, else its name."""
    texts = {path.as_posix(): text for path, text in zip(run.files, run.texts, strict=True)}
    by_key = {prompt.key: prompt.text for prompt in run.prompts} if run.from_toybox else {}
    images, groups = [], []
    for key, source in items_of(run.images(name), run.config.allow_mixed)[:MOST]:
        text = texts.get(source.as_posix()) if name == GENERATED else by_key.get(key.rpartition(", ")[0])
        images.append(load_image(source, SIDE))
        groups.append(text or f"{name}/{key}")
    return torch.stack(images), groups
