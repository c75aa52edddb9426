"""Near copies: the training image nearest to each generated one, with real images as the baseline."""

from __future__ import annotations

import numpy as np

from t2i.eval.features import Features
from t2i.eval.images.sets import load_image, to_image
from t2i.eval.metrics import NearCopies, near_copies
from t2i.eval.report import Gallery, Score
from t2i.eval.run import GENERATED, NEW, TRAINING, EvalRun
from t2i.eval.scores import Result, notes_on, set_details, share_score

SHOWN = 12  # generated images in the gallery


def check(run: EvalRun) -> None:
    """Raise UsageError if the training data are unknown."""
    run.check_training()


def evaluate(run: EvalRun) -> Result:
    """The share of near copies of training images, by the features of `--extractor` and by pixels.

    Raises UsageError if the training data are unknown, ValueError if no image can be read.
    """
    result = Result("memorization", notes=[run.training.note])
    side = run.side  # both sets are cropped to it, as a copy may have lost its edges
    for name in dict.fromkeys((run.config.extractor, "pixels")):
        generated, trained = run.features(GENERATED, name, side), run.features(TRAINING, name, side)
        new = None if run.training.new is None else run.features(NEW, name, side).values
        copies = near_copies(generated.values, trained.values, new)
        result.scores.append(_score(copies, generated, trained))
        result.galleries.append(_closest(copies, run, generated, trained))
        notes = notes_on(generated) + [f"skipped of the training images: {image}" for image in trained.skipped]
        result.notes.extend(note for note in notes if note not in result.notes)
    return result


def _score(near: NearCopies, generated: Features, training: Features) -> Score:
    """The share of near copies; the ceiling is the share among new real images, which are no copies."""
    details = {"extractor": generated.extractor, "training": set_details(training)}
    details |= {"threshold": near.threshold, "real_n": len(near.real_copies)}
    name, skipped = f"near copies[{generated.extractor['name']}]", len(generated.skipped)
    copies, real = near.copies.tolist(), near.real_copies.tolist()
    return share_score(name, copies, real, "lower", skipped=skipped, details=details)


def _closest(near: NearCopies, run: EvalRun, generated: Features, trained: Features) -> Gallery:
    """The generated images nearest to a training image, each followed by that image."""
    images, named = [], run.named
    for row in np.argsort(near.distances)[:SHOWN]:
        caption = f"in training: distance {near.distances[row]:.3g}" + (", a near copy" if near.copies[row] else "")
        original = run.training.images[trained.names[near.nearest[row]]]
        images.append((run.load(named[generated.names[row]]), "generated"))
        images.append((to_image(load_image(original, run.side)), caption))
    return Gallery(f"Closest to training images [{generated.extractor['name']}]", images)
