"""The parts of an evaluation: each takes the subject and gives scores, pictures and remarks for one report.

`SECTIONS` is the registry of the command line; `all` runs every part that its subject allows, and says which were left
out and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from t2i.checks import UsageError
from t2i.data.sources import square
from t2i.data.toybox import Toybox
from t2i.data.toybox.reader import IMAGE_SIZE
from t2i.eval import bias as biases
from t2i.eval import composition as compositions
from t2i.eval import measures
from t2i.eval.binding import reconstructed, wilson
from t2i.eval.features import Features
from t2i.eval.image_sets import load_image, read_image, to_picture
from t2i.eval.likelihood import code_likelihood
from t2i.eval.metrics import NearCopies, near_copies
from t2i.eval.processes import FAILURES
from t2i.eval.references import Reference
from t2i.eval.report import Curve, Gallery, Score
from t2i.eval.subject import BARE, BIAS, LECTURE, PAIRS, PICTURES, Subject
from t2i.images import to_pil, to_tensor
from t2i.notes import are, count
from t2i.pipelines import DallePipeline
from t2i.weights import digest

SHOWN = 24  # pictures of a gallery
REAL = 0.4  # of --num: real pictures that a pipeline is given
NEW_SEED = 1  # of a world of toybox that recipes do not train on by default


@dataclass(frozen=True)
class Section:
    """What one evaluation adds to a report."""

    scores: list[Score] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def fid(subject: Subject) -> Section:
    """Fréchet distance to real pictures (called FID only with Inception), precision, recall, density, coverage; of an
    extractor that knows classes, as Inception does, also the Inception score.
    """
    extractor, seed = subject.tools.extractor(subject.ask.extractor), subject.ask.seed
    generated, reference, real = subject.features(extractor), subject.reference(extractor), subject.real(extractor)
    found = measures.fidelity(generated, reference, real, seed)
    if hasattr(extractor, "logits"):
        found += measures.inception(extractor.logits, generated, real, seed)
    notes = _remarks(generated) + _remarks_on_reference(reference) + _too_few(found[0].name, generated, reference)
    return Section(found, curves=[_against_samples(s) for s in found if "counts" in s.details], notes=notes)


def kid(subject: Subject) -> Section:
    """Kernel distance to real pictures; in CLIP's space also CMMD."""
    extractor = subject.tools.extractor(subject.ask.extractor)
    generated, reference = subject.features(extractor), subject.reference(extractor)
    found = measures.kernel(generated, reference, subject.real(extractor), seed=subject.ask.seed)
    return Section(found, notes=_remarks(generated) + _remarks_on_reference(reference))


def clip(subject: Subject) -> Section:
    """CLIP score, by its variant, and R-precision."""
    name, variant = subject.ask.clip, subject.ask.variant
    if name is None or variant is None:
        raise UsageError("a CLIP score needs --clip (clip:NAME or open_clip:ARCH/PRETRAINED) and --variant")
    extractor = subject.tools.extractor(name)
    if not hasattr(extractor, "encode_text"):
        raise UsageError(f"{extractor.name} knows no texts: give --clip clip:NAME or open_clip:ARCH/PRETRAINED")
    images = subject.features(extractor)
    prefix = "A photo depicts " if variant == "hessel" else ""  # the variant's own, Hessel et al. 2021, section 3
    texts = extractor.encode_text([prefix + text for text in subject.captions(images)])
    return Section(measures.clip(images, texts, variant, seed=subject.ask.seed), notes=_remarks(images))


def composition(subject: Subject) -> Section:
    """Colour, skin, counting, position, two objects …: is what the prompt says on the picture? On toybox, exactly."""
    reader, read, skipped, notes = subject.tools.reader, [], Counter(), []
    for prompt, (_, picture) in zip(subject.prompts, subject.pictures(), strict=True):
        if isinstance(picture, str):
            skipped[prompt.category] += 1
            notes.append(f"skipped: {picture}")
        else:
            read.append((prompt, Image.fromarray(square(picture, IMAGE_SIZE))))  # no more is looked at
    found = compositions.judge(reader, *zip(*read, strict=True), subject.ask.batch_size) if read else None
    if found is None:
        raise ValueError(f"none of the {len(notes)} pictures can be read; make them again")
    report = found.report
    scores = measures.shares(report["scores"], report["ceilings"], skipped, reader_sha256=digest(reader))
    galleries = [
        Gallery(f"{category}: the worst", [(image, f"{a.prompt.text} — read: {a.reading}") for image, a in worst])
        for category, worst in found.failures.items()
        if worst
    ]
    galleries.append(Gallery("What is read instead", [(compositions.confusion_picture(report), "")]))
    undecided = [f"{report['undecided']} prompts have no scene to judge them by."] if report["undecided"] else []
    return Section(scores, galleries, notes=notes + undecided)


def lecture(subject: Subject) -> Section:
    """The prompts of the lecture's slides: a picture of each, and a score where toybox can decide it."""
    prompts, reader = subject.prompts_of(LECTURE), subject.tools.reader
    found = compositions.judge(reader, prompts, subject.images(LECTURE), subject.ask.batch_size)
    judged = [pair for table in (found.successes, found.failures) for pairs in table.values() for pair in pairs]
    pictures = [(image, answer.prompt.text) for image, answer in judged]
    pictures += [(image, prompt.text) for image, prompt in found.undecided]
    right = sum(round(s["value"] * s["n"]) for s in found.report["scores"].values())
    whole = {"prompts of the lecture": wilson(right, len(judged))}
    scores = measures.shares(whole, reader_sha256=digest(reader))
    return Section(scores, [Gallery("Prompts of the lecture", pictures)])


def likelihood(subject: Subject) -> Section:
    """Nats a code of real pictures, given their captions: of seen combinations, and of held-out ones."""
    pipe, scores = subject.pipeline, []
    if not isinstance(pipe, DallePipeline):
        raise UsageError(f"a {type(pipe).__name__} has no likelihood of codes")
    for split in ("train", "zero_shot"):
        items = list(Toybox(split, pipe.image_size, NEW_SEED, subject.some(REAL)))
        images, captions = [item["image"] for item in items], [item["text"] for item in items]
        given = code_likelihood(pipe, images, captions, subject.ask.batch_size)
        scores += measures.likelihood(given, digest(pipe.image_tokenizer), split, subject.ask.seed)
    return Section(scores)


def reconstruction(subject: Subject) -> Section:
    """What the image tokenizer keeps of real pictures: PSNR, SSIM, and the pictures beside their reconstructions."""
    tokenizer = getattr(subject.pipeline, "image_tokenizer", None)
    if not hasattr(tokenizer, "reconstruct"):
        raise UsageError(f"a {type(subject.pipeline).__name__} has no image tokenizer that reconstructs")
    world = Toybox("train", subject.pipeline.image_size, NEW_SEED, subject.some(REAL))
    originals = torch.from_numpy(np.stack([item["image"] for item in world]))  # (N, S, S, 3)
    with torch.no_grad():
        batches = originals.split(subject.ask.batch_size)
        parts = [reconstructed(tokenizer, part).cpu() for part in batches]
    images = (torch.cat(parts).clamp(-1, 1) + 1) / 2  # (N, 3, S, S)
    real = (to_tensor(originals) + 1) / 2
    scores = measures.reconstruction(images, real, digest(tokenizer), subject.ask.seed)
    pairs = zip(to_pil(2 * real[: SHOWN // 2] - 1), to_pil(2 * images[: SHOWN // 2] - 1), strict=True)
    shown = [(image, word) for pair in pairs for image, word in zip(pair, ("real", "reconstructed"), strict=True)]
    return Section(scores, [Gallery("Through the image tokenizer", shown)])


def memorization(subject: Subject) -> Section:
    """Nearest training picture of each: the share of near copies, beside that of real pictures."""
    training, side = subject.training, subject.side  # both sets are squared to it: a copy may have lost its edges
    scores, galleries, notes = [], [], [training.note]
    for name in dict.fromkeys((subject.ask.extractor, "pixels")):
        extractor = subject.tools.extractor(name)
        generated, trained = (
            subject.features(extractor, side),
            subject.extract(training.pictures, extractor, side),
        )
        new = None if training.new is None else subject.extract(training.new, extractor, side).values
        found = near_copies(generated.values, trained.values, new)
        scores += measures.memorization(found, generated, trained)
        galleries.append(_closest(found, subject, generated, trained))
        remarks = _remarks(generated) + [f"skipped of the training pictures: {picture}" for picture in trained.skipped]
        notes += [remark for remark in remarks if remark not in notes]
    return Section(scores, galleries, notes=notes)


def bias(subject: Subject) -> Section:
    """Counterfactual prompts that differ in one word, and what is drawn where the prompt says nothing."""
    reader, images, bare = subject.tools.reader, subject.images(BIAS), subject.some(BARE)
    how = {"seed": subject.ask.seed, "batch_size": subject.ask.batch_size}
    pairs = biases.counterfactuals(reader, images[:-bare], subject.some(PAIRS), **how)
    unsaid = biases.unsaid(reader, images[-bare:], **how)
    return Section(measures.bias(pairs, unsaid, digest(reader)), [Gallery("One word changed", pairs.examples)])


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


DRAWN = {"likelihood": (), "reconstruction": (), "bias": (BIAS,), "lecture": (LECTURE,)}  # others look at PICTURES


def drawn(part: str) -> tuple[str, ...]:
    """Which pictures a part looks at, or "all" of them: of PICTURES, BIAS and LECTURE."""
    return (PICTURES, BIAS, LECTURE) if part == "all" else DRAWN.get(part, (PICTURES,))


def draw(part: str, subject: Subject) -> None:
    """Draw what a part looks at, on all processes together; reading it is then the first one's work.

    Raises only where PICTURES cannot be drawn: what else fails is told by the part that misses it.
    """
    for what in drawn(part):
        if what == PICTURES:
            subject.files  # noqa: B018 - of a folder they are there
        else:
            with suppress(*FAILURES):
                subject.drawn(what)


def everything(subject: Subject) -> Section:
    """Every part that the pictures, the prompts and the pipeline allow."""
    whole = Section()
    for name, part in SECTIONS.items():
        try:
            found = part(subject)
        except FAILURES as error:
            whole.notes.append(f"{name} was left out: {error}")
            continue
        whole.scores.extend(found.scores)
        whole.galleries.extend(found.galleries)
        whole.curves.extend(found.curves)
        whole.notes.extend(note for note in found.notes if note not in whole.notes)
    return whole


# --- helpers --------------------------------------------------------------------------------------------------------


def _against_samples(score: Score) -> Curve:
    points = [(n, d, None, None) for n, d in zip(score.details["counts"], score.details["distances"], strict=True)]
    return Curve("Distance against the number of pictures", "pictures", score.name, {score.name: points})


def _remarks(features: Features) -> list[str]:
    notes = [f"skipped: {picture}" for picture in features.skipped]
    if features.black:
        black = features.black
        notes.append(f"{count(black, 'picture')} {are(black)} black all over, such as {black[0]}.")
    return notes


def _remarks_on_reference(reference: Features | Reference) -> list[str]:
    return [f"skipped of the reference: {picture}" for picture in reference.skipped]


def _too_few(name: str, generated: Features, reference: Features | Reference) -> list[str]:
    """What a Fréchet distance suffers from below as many pictures as dimensions, and for some way above."""
    dim = generated.values.shape[1]
    of_reference = reference.count if isinstance(reference, Reference) else len(reference)
    few = {"drawn": len(generated), "real": of_reference}
    said = " and ".join(f"{n:,} {what}" for what, n in few.items() if n <= dim)
    if not said:
        return []
    return [
        f"{name} is of {said} pictures in {dim:,} dimensions: such a covariance lacks rank and the distance is too "
        "large; compare it with distances of as many pictures only."
    ]


def _closest(found: NearCopies, subject: Subject, generated: Features, trained: Features) -> Gallery:
    """The generated pictures that are nearest to a training picture, each beside it."""
    pictures, named = [], subject.named
    for row in np.argsort(found.distances)[: SHOWN // 2]:
        own = to_picture(read_image(named[generated.names[row]]))
        near = f"distance {found.distances[row]:.3g}" + (", a near copy" if found.copies[row] else "")
        other = subject.training.pictures[trained.names[found.nearest[row]]]
        pictures += [(own, "drawn"), (to_picture(load_image(other, subject.side)), f"in training: {near}")]
    return Gallery(f"Closest to training pictures [{generated.extractor['name']}]", pictures)
