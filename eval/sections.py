"""The parts of an evaluation: each takes the subject and gives scores, pictures and remarks for one report.

`SECTIONS` is the registry of the command line; `all` runs every part that its subject allows, and says which were left
out and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from t2i.cli_errors import UsageError
from t2i.data.toybox import Toybox
from t2i.eval import bias as biases
from t2i.eval import composition as compositions
from t2i.eval import measures
from t2i.eval.binding import wilson
from t2i.eval.features import Extractor, Features
from t2i.eval.image_sets import extract
from t2i.eval.likelihood import code_likelihood
from t2i.eval.metrics import NearCopies, near_copies
from t2i.eval.report import Curve, Gallery, Score
from t2i.eval.subject import HELD_OUT_SEED, Subject
from t2i.images import to_pil, to_tensor
from t2i.pipelines import DallePipeline
from t2i.weights import digest

SHOWN = 24  # pictures of a gallery
PAIRS, BARE, REAL = 0.05, 0.25, 0.4  # of --num: counterfactual pairs of each swap, bare prompts, real pictures


@dataclass(frozen=True)
class Section:
    scores: list[Score] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def fid(subject: Subject) -> Section:
    """Fréchet distance to real pictures (called FID only with Inception), precision, recall, density, coverage."""
    extractor = subject.open_extractor(subject.ask.extractor)
    generated, reference = subject.features(extractor), subject.reference(extractor)
    found = measures.fidelity(generated, reference, subject.real(extractor), subject.ask.seed)
    return Section(
        found, curves=[_against_samples(s) for s in found if "counts" in s.details], notes=_remarks(generated)
    )


def kid(subject: Subject) -> Section:
    """Kernel distance to real pictures; in CLIP's space also CMMD."""
    extractor = subject.open_extractor(subject.ask.extractor)
    generated, reference = subject.features(extractor), subject.reference(extractor)
    found = measures.kernel(generated, reference, subject.real(extractor), seed=subject.ask.seed)
    return Section(found, notes=_remarks(generated))


def clip(subject: Subject) -> Section:
    """CLIP score, by its variant, and R-precision."""
    name, variant = subject.ask.clip, subject.ask.variant
    if name is None or variant is None:
        raise UsageError("a CLIP score needs --clip (clip:NAME or open_clip:ARCH/PRETRAINED) and --variant")
    extractor = subject.open_extractor(name)
    if not hasattr(extractor, "encode_text"):
        raise UsageError(f"{extractor.name} knows no texts: give --clip clip:NAME or open_clip:ARCH/PRETRAINED")
    images = subject.features(extractor)
    prefix = "A photo depicts " if variant == "hessel" else ""  # the variant's own, Hessel et al. 2021, section 3
    texts = extractor.encode_text([prefix + text for text in subject.captions(images)])
    return Section(measures.clip(images, texts, variant, seed=subject.ask.seed), notes=_remarks(images))


def composition(subject: Subject) -> Section:
    """Colour, skin, counting, position, two objects …: is what the prompt says on the picture? On toybox, exactly."""
    reader = subject.reader
    pictures = [Image.open(file).convert("RGB") for file in subject.files]
    found = compositions.judge(reader, subject.prompts, pictures, subject.ask.batch_size)
    report = found.report
    scores = measures.shares(report["scores"], report["ceilings"], reader_sha256=digest(reader))
    galleries = [
        Gallery(f"{category}: the worst", [(image, f"{a.prompt.text} — read: {a.reading}") for image, a in worst])
        for category, worst in found.failures.items()
        if worst
    ]
    galleries.append(Gallery("What is read instead", [(compositions.confusion_picture(report), "")]))
    undecided = [f"{report['undecided']} prompts have no scene to judge them by."] if report["undecided"] else []
    return Section(scores, galleries, notes=undecided)


def lecture(subject: Subject) -> Section:
    """The prompts of the lecture's slides: a picture of each, and a score where toybox can decide it."""
    ask = subject.ask
    found = compositions.evaluate_composition(
        subject.pipeline, subject.reader, 100, ask.seed, ask.batch_size, "lecture", ask.pipeline, **subject.options
    )
    judged = [pair for table in (found.successes, found.failures) for pairs in table.values() for pair in pairs]
    pictures = [(image, answer.prompt.text) for image, answer in judged]
    pictures += [(image, prompt.text) for image, prompt in found.undecided]
    right = sum(round(s["value"] * s["n"]) for s in found.report["scores"].values())
    whole = {"prompts of the lecture": wilson(right, len(judged))}
    scores = measures.shares(whole, reader_sha256=found.report["settings"]["reader_sha256"])
    return Section(scores, [Gallery("Prompts of the lecture", pictures)])


def likelihood(subject: Subject) -> Section:
    """Nats a code of real pictures, given their captions: of seen combinations, and of held-out ones."""
    pipe, scores = subject.pipeline, []
    if not isinstance(pipe, DallePipeline):
        raise UsageError(f"a {type(pipe).__name__} has no likelihood of codes")
    for split in ("train", "zero_shot"):
        items = list(Toybox(split, pipe.image_size, HELD_OUT_SEED, _some(REAL, subject)))
        images, captions = [item["image"] for item in items], [item["text"] for item in items]
        given = code_likelihood(pipe, images, captions, subject.ask.batch_size)
        scores += measures.likelihood(given, digest(pipe.image_tokenizer), split, subject.ask.seed)
    return Section(scores)


def reconstruction(subject: Subject) -> Section:
    """What the image tokenizer keeps of real pictures: PSNR, SSIM, and the pictures beside their reconstructions."""
    tokenizer = getattr(subject.pipeline, "image_tokenizer", None)
    if not hasattr(tokenizer, "reconstruct"):
        raise UsageError(f"a {type(subject.pipeline).__name__} has no image tokenizer that reconstructs")
    world = Toybox("train", subject.pipeline.image_size, HELD_OUT_SEED, _some(REAL, subject))
    originals = torch.from_numpy(np.stack([item["image"] for item in world]))  # (N, S, S, 3)
    with torch.no_grad():
        batches = originals.split(subject.ask.batch_size)
        parts = [tokenizer.reconstruct(to_tensor(part).to(tokenizer.device)).cpu() for part in batches]
    images = (torch.cat(parts).clamp(-1, 1) + 1) / 2  # (N, 3, S, S)
    real = (to_tensor(originals) + 1) / 2
    scores = measures.reconstruction(images, real, digest(tokenizer), subject.ask.seed)
    pairs = zip(to_pil(2 * real[: SHOWN // 2] - 1), to_pil(2 * images[: SHOWN // 2] - 1), strict=True)
    shown = [(image, word) for pair in pairs for image, word in zip(pair, ("real", "reconstructed"), strict=True)]
    return Section(scores, [Gallery("Through the image tokenizer", shown)])


def memorization(subject: Subject) -> Section:
    """Nearest training picture of each: the share of near copies, beside that of real pictures."""
    scores, galleries = [], []
    training, new = subject.training_pictures()
    for name in dict.fromkeys((subject.ask.extractor, "pixels")):
        extractor = subject.open_extractor(name)
        generated = subject.features(extractor)
        trained = _features(training, extractor, subject)
        held_out = None if new is None else _features(new, extractor, subject).values
        found = near_copies(generated.values, trained.values, held_out)
        scores += measures.memorization(found, generated.extractor)
        galleries.append(_closest(found, subject, generated, training))
    return Section(scores, galleries)


def bias(subject: Subject) -> Section:
    """Counterfactual prompts that differ in one word, and what is drawn where the prompt says nothing."""
    ask, reader = subject.ask, subject.reader
    how = {"seed": ask.seed, "batch_size": ask.batch_size, **subject.options}
    pairs = biases.counterfactuals(subject.pipeline, reader, _some(PAIRS, subject), **how)
    unsaid = biases.unsaid(subject.pipeline, reader, _some(BARE, subject), **how)
    return Section(measures.bias(pairs, unsaid), [Gallery("One word changed", pairs.examples)])


SECTIONS: dict[str, Callable[[Subject], Section]] = {
    "composition": composition,
    "fid": fid,
    "kid": kid,
    "clip": clip,
    "likelihood": likelihood,
    "reconstruction": reconstruction,
    "memorization": memorization,
    "bias": bias,
    "lecture": lecture,
}


def everything(subject: Subject) -> Section:
    """Every part that the pictures, the prompts and the pipeline allow."""
    whole = Section()
    for name, part in SECTIONS.items():
        try:
            found = part(subject)
        except (ValueError, OSError, FloatingPointError) as error:
            whole.notes.append(f"{name} was left out: {error}")
            continue
        whole.scores.extend(found.scores)
        whole.galleries.extend(found.galleries)
        whole.curves.extend(found.curves)
        whole.notes.extend(note for note in found.notes if note not in whole.notes)
    return whole


def sweep(subjects: Mapping[float, Subject], over: str) -> Section:
    """Compositional accuracy and Fréchet distance against an option of the pipeline: {value: its subject}."""
    shares = {value: composition(subject).scores for value, subject in subjects.items()}
    distances = {value: fid(subject).scores[:1] for value, subject in subjects.items()}
    curves = [
        _curve(f"Share that is right, against {over}", over, "share", shares),
        _curve(f"Distance to real pictures, against {over}", over, "Fréchet distance", distances),
    ]
    named = [(value, s) for value in subjects for s in shares[value] + distances[value]]
    return Section([replace(s, name=f"{s.name}, {over} {value:g}") for value, s in named], curves=curves)


def _curve(title: str, x_label: str, y_label: str, found: Mapping[float, Sequence[Score]]) -> Curve:
    """A line for each score over the values."""
    series: dict[str, list] = {}
    for value, scores in found.items():
        for s in scores:
            series.setdefault(s.name, []).append((value, s.value, s.low, s.high))
    return Curve(title, x_label, y_label, series)


# --- helpers --------------------------------------------------------------------------------------------------------


def _some(share: float, subject: Subject) -> int:
    return max(2, round(share * subject.ask.num))


def _features(pictures: np.ndarray, extractor: Extractor, subject: Subject) -> Features:
    return extract(pictures, extractor, subject.ask.batch_size)


def _against_samples(score: Score) -> Curve:
    points = [(n, d, None, None) for n, d in zip(score.details["counts"], score.details["distances"], strict=True)]
    return Curve("Distance against the number of pictures", "pictures", score.name, {score.name: points})


def _remarks(features: Features) -> list[str]:
    notes = [f"skipped: {picture}" for picture in features.skipped]
    if features.black:
        notes.append(f"{len(features.black)} pictures are black all over, such as {features.black[0]}.")
    return notes


def _closest(found: NearCopies, subject: Subject, generated: Features, training: np.ndarray) -> Gallery:
    """The generated pictures that are nearest to a training picture, each beside it."""
    pictures = []
    for row in np.argsort(found.distances)[: SHOWN // 2]:
        own = Image.open(subject.folder / generated.names[row]).convert("RGB")
        near = f"distance {found.distances[row]:.3g}" + (", a near copy" if found.copies[row] else "")
        other = Image.fromarray(training[found.nearest[row]])
        pictures += [(own, "drawn"), (other, f"in training: {near}")]
    return Gallery(f"Closest to training pictures [{generated.extractor['name']}]", pictures)
