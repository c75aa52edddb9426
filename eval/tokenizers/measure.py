"""One pass over real images: each batch goes through every tokenizer, and is reduced to numbers and features.

Of the images themselves only copies at the two-sample test's size are kept, of at most its maximum number, and the
first few for the gallery.

Shapes: N images · B batch · S image side · D features · s grid side
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from t2i.checks import UsageError
from t2i.data.base import Source
from t2i.data.image_file import ImageError
from t2i.data.labelled import is_labelled, open_labelled
from t2i.data.sources import WORLDS, open_source
from t2i.data.splits import Picked
from t2i.data.toybox import classifier as toybox_classifier
from t2i.data.toybox.classifier import predict
from t2i.data.toybox.facts import facts
from t2i.data.toybox.prediction import Prediction as FactPrediction
from t2i.data.toybox.prediction import facts_right
from t2i.data.toybox_v1 import classifier as toybox_v1_classifier
from t2i.data.toybox_v1.classifier import LAYOUTS, Prediction
from t2i.devices import cpu_name
from t2i.eval import metrics
from t2i.eval.config import TokenizersConfig
from t2i.eval.distributed import Distributed, usable_device
from t2i.eval.evaluators.reconstruction import NEW_SEED
from t2i.eval.evaluators.two_sample import LEAST, MOST, SIDE
from t2i.eval.features import Extractor, as_uint8, open_extractor
from t2i.eval.features.lpips import Lpips
from t2i.eval.images.folders import check_outside
from t2i.eval.images.sets import load_image, to_image
from t2i.eval.tokenizers.opened import OpenedTokenizer, open_tokenizer
from t2i.images import check_finite, to_tensor
from t2i.notes import count

SHOWN = 8  # images in the gallery
OF_TWO = LAYOUTS[-2:]  # layouts of toybox-v1 with two things
# By world: the function that loads its classifier, and what to do without one.
LOADERS = {
    "toybox": (toybox_classifier.load_classifier, toybox_classifier.REMEDY),
    "toybox-v1": (toybox_v1_classifier.load_classifier, toybox_v1_classifier.REMEDY),
}


@dataclass(frozen=True, eq=False)
class View:
    """What is kept of an image, an original or a reconstruction.

    Attributes:
        features: float32 (D,).
        facts: {type of fact: whether the classifier predicts each of the scene's facts}; None without a classifier.
        small: uint8 (3, 64, 64) for the two-sample test, or None.
        shown: uint8 (3, S, S) for the gallery, or None.
    """

    features: Tensor
    facts: dict[str, list[bool]] | None
    small: Tensor | None
    shown: Tensor | None


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What is kept of an image's round trip through a tokenizer.

    Attributes:
        psnr: in dB, infinite for an exact reconstruction.
        lpips: None unless asked for.
        codes: integers (s²,); None for continuous latents.
        kl: bits; None without a posterior.
        encoded, decoded: images/s of its batch.
    """

    view: View
    psnr: float
    ssim: float
    lpips: float | None
    codes: np.ndarray | None
    kl: float | None
    encoded: float
    decoded: float


@dataclass(frozen=True, eq=False)
class Measured:
    """An image and its reconstructions by the name of the tokenizer."""

    caption: str
    original: View
    reconstructions: dict[str, Reconstruction]


class TokenizersRun(Distributed):
    """The images, tokenizers and other networks of `t2i eval tokenizers`, on this process.

    Attributes:
        tokenizers: by target.
        size: S.
        source, fingerprint: the images, all of which are used.
        notes: what to know about the images and the metrics left out.

    Raises UsageError, ValueError or FileNotFoundError, before any work, for targets, data and options that cannot be
    used.
    """

    def __init__(self, config: TokenizersConfig):
        self.config, self.device = config, usable_device(config.device)
        if Path(config.data).is_dir():
            check_outside(Path(config.out), Path(config.data))
        self.tokenizers = {name: open_tokenizer(name, self.device, config.dtype) for name in config.targets}
        self.size = image_size(list(self.tokenizers.values()), config.image_size)
        self.notes: list[str] = []
        self.source = self._open_data()
        self.fingerprint = self.source.fingerprint()
        self.extractor: Extractor = open_extractor(config.extractor, self.device)
        self.lpips = None if config.lpips is None else Lpips(config.lpips, self.device)
        _ = self.classifier  # before any work
        for tokenizer in self.tokenizers.values():
            if tokenizer.image_size not in (None, self.size):
                side = tokenizer.image_size
                self.notes.append(f"{tokenizer.name} was trained on images of {side}×{side} pixels.")

    def _open_data(self) -> Source:
        """The images; the notes say where they come from."""
        config, seed = self.config, NEW_SEED + self.config.seed
        if config.image_column != "image" and (config.data in WORLDS or is_labelled(config.data)):
            raise UsageError(f"--image-column has no effect for {config.data}, which has no columns: leave it out")
        for tokenizer in self.tokenizers.values():
            if tokenizer.trained_on == (config.data, seed) and config.data in WORLDS:
                self.notes.append(f"{tokenizer.name} was trained on these images: give another --seed.")
            elif tokenizer.trained_on and _same_folder(tokenizer.trained_on[0], config.data):
                self.notes.append(f"{tokenizer.name} was trained on {config.data}.")
        if config.data in WORLDS:
            self.notes.append(f"Images of {config.data} with seed {seed}; by default, recipes train on seed 0.")
            return WORLDS[config.data]("train", self.size, seed, config.num_images)
        if is_labelled(config.data):
            source, remark = open_labelled(config.data, self.size).test, "Test images"
        else:
            source = open_source(config.data, self.size, config.image_column, captions=False)
            remark = "Images"
        if len(source) < 2:
            raise ValueError(f"{config.data} has {len(source)} image: at least 2 are needed")
        places = np.sort(np.random.default_rng((config.seed, 11)).permutation(len(source))[: config.num_images])
        self.notes.append(f"{remark} of {config.data}: {len(places):,} of {len(source):,}.")
        return Picked(source, places.tolist())

    @property
    def machine(self) -> str:
        """The device, its threads, and the precision, for comparing speeds."""
        device = torch.device(self.device)
        if device.type == "cuda":
            return f"{torch.cuda.get_device_name(device)}, {self.config.dtype}"
        if device.type == "cpu":
            return f"{cpu_name()}, {count(range(torch.get_num_threads()), 'thread')}, {self.config.dtype}"
        return f"{device.type}, {self.config.dtype}"

    @cached_property
    def classifier(self):
        """The classifier of the data's world of toybox; None, with a note, if there is none."""
        given, data = self.config.classifier, self.config.data
        if data not in WORLDS:
            if given is not None:
                raise UsageError(f"--classifier has no effect for {data}, whose scenes are unknown: leave it out")
            self.notes.append(f"Classifier accuracy was left out: the scenes of {data} are unknown.")
            return None
        load, remedy = LOADERS[data]
        try:
            return load(given).to(self.device).eval()
        except FileNotFoundError:
            if given is not None:
                raise
            self.notes.append(f"Classifier accuracy was left out, as no classifier of {data} is embedded: {remedy}.")
            return None


def image_size(tokenizers: Sequence[OpenedTokenizer], given: int | None) -> int:
    """S: the given one, or that of all training images. Raises UsageError if they differ, and if a stride does not
    divide S.
    """
    sizes = {t.image_size: t.name for t in tokenizers if t.image_size is not None}
    if given is None and len(sizes) != 1:
        known = ", ".join(f"{name}: {size}" for size, name in sizes.items())
        why = f"the tokenizers were trained on images of several sizes ({known})" if known else "no size is known"
        raise UsageError(f"{why}: give --image-size")
    size = given or next(iter(sizes))
    for tokenizer in tokenizers:
        if size % tokenizer.stride:
            raise UsageError(
                f"--image-size {size} is not divisible by the stride of {tokenizer.name}, {tokenizer.stride}"
            )
    return size


def measure(run: TokenizersRun, rows: slice) -> list[Measured | str]:
    """Each image of this process through every tokenizer; for an unreadable image, why. (For `Distributed.on_all`.)"""
    places, found, size = range(len(run.source))[rows], [], run.config.batch_size
    with tqdm(total=len(places), unit=" images", disable=rows.start != 0, leave=False) as bar:
        for start in range(0, len(places), size):
            part = places[start : start + size]
            items = [_read(run, place) for place in part]
            read = [(place, item) for place, item in zip(part, items, strict=True) if not isinstance(item, str)]
            measured = iter(_batch(run, *zip(*read, strict=True), warm=start > 0) if read else ())
            found += [item if isinstance(item, str) else next(measured) for item in items]
            bar.update(len(part))
    return found


def _read(run: TokenizersRun, place: int) -> dict | str:
    try:
        return run.source[place]
    except ImageError as error:
        return str(error).replace(f"{run.config.data}/", "")


@torch.no_grad()
def _batch(run: TokenizersRun, places: Sequence[int], items: Sequence[dict], warm: bool) -> list[Measured]:
    pixels = torch.from_numpy(np.stack([item["image"] for item in items]))  # (B, S, S, 3)
    originals = _views(run, pixels.permute(0, 3, 1, 2).contiguous(), places, items)
    images = to_tensor(pixels)  # (B, 3, S, S)
    through = {name: _through(run, t, images, places, items, warm) for name, t in run.tokenizers.items()}
    captions = [item["text"] for item in items]
    rows = [dict(zip(through, row, strict=True)) for row in zip(*through.values(), strict=True)]
    return [Measured(*row) for row in zip(captions, originals, rows, strict=True)]


def _through(
    run: TokenizersRun,
    tokenizer: OpenedTokenizer,
    images: Tensor,
    places: Sequence[int],
    items: Sequence[dict],
    warm: bool,
) -> list[Reconstruction]:
    """Images (B, 3, S, S) in [-1, 1] -> their reconstructions, encoded and decoded at the tokenizer's precision."""
    given = images.to(run.device, getattr(torch, run.config.dtype))
    if not warm:  # the first call pays for allocation and the selection of kernels
        tokenizer.decode(tokenizer.encode(given)[0])
    start = _now(run.device)
    encoded, kl = tokenizer.encode(given)
    middle = _now(run.device)
    decoded = tokenizer.decode(encoded)
    end = _now(run.device)
    try:
        check_finite(decoded)
    except FloatingPointError as error:
        raise FloatingPointError(f"{tokenizer.name}: {error}") from None
    decoded = decoded.clamp(-1, 1).cpu()
    unit, real = (decoded + 1) / 2, (images + 1) / 2
    psnr, ssim = (metric(unit, real).per_sample.tolist() for metric in (metrics.psnr, metrics.ssim))
    B = len(images)
    lpips = [None] * B if run.lpips is None else run.lpips(decoded, images).tolist()
    codes: list = [None] * B
    if tokenizer.codebook_size is not None:
        kind = torch.int32 if tokenizer.codebook_size <= 2**31 else torch.int64
        codes = list(encoded.flatten(1).to(kind).cpu().numpy())
    kls = [None] * B if kl is None else kl.cpu().tolist()
    rates = [B / (middle - start)] * B, [B / (end - middle)] * B
    views = _views(run, as_uint8(unit), places, items)
    return [Reconstruction(*row) for row in zip(views, psnr, ssim, lpips, codes, kls, *rates, strict=True)]


def _views(run: TokenizersRun, pixels: Tensor, places: Sequence[int], items: Sequence[dict]) -> list[View]:
    """Images, uint8 (B, 3, S, S) -> what is kept of them."""
    features = run.extractor(pixels)
    judged: list = [None] * len(pixels)
    if run.classifier is not None:
        predictions = predict(run.classifier, [to_image(image) for image in pixels], len(pixels))
        judged = [judge(item["scene"], prediction) for item, prediction in zip(items, predictions, strict=True)]
    tested = run.config.two_sample and len(run.source) >= LEAST
    small = [load_image(x, SIDE) if tested and i < MOST else None for i, x in zip(places, pixels, strict=True)]
    shown = [x.clone() if i < SHOWN else None for i, x in zip(places, pixels, strict=True)]
    return [View(*row) for row in zip(features, judged, small, shown, strict=True)]


def judge(scene: Any, prediction: Any) -> dict[str, list[bool]]:
    """{type of fact: whether each of the scene's facts is predicted}, for either world; "all facts": whether nothing
    else is predicted, too.
    """
    if isinstance(prediction, FactPrediction):
        stated = facts(scene)
        return {"all facts": [prediction.fulfils(stated)]} | facts_right([(prediction, stated)])
    truth = Prediction.of(scene)
    slots = list(zip(truth.things, prediction.things, strict=True))[: 2 if truth.layout in OF_TWO else 1]
    found = {"all facts": [prediction == truth], "layout": [prediction.layout == truth.layout]}
    for i, name in enumerate(("kind", "attribute")):
        found[name] = [expected[i] == predicted[i] for expected, predicted in slots]
    return found


def _now(device: str) -> float:
    """Seconds, after all work queued on the device."""
    backend = getattr(torch, torch.device(device).type, None)
    if hasattr(backend, "synchronize"):
        backend.synchronize()
    return time.perf_counter()


def _same_folder(a: str, b: str) -> bool:
    return Path(a).is_dir() and Path(b).is_dir() and Path(a).resolve() == Path(b).resolve()
