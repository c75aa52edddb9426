"""Does a pipeline put the right attribute on the right thing? Exactly scored, since toybox pictures can be read.

Four categories of prompts: `seen` and `zero_shot` (one thing; its pair of attribute and kind was in the training data,
or held out), `relation` (two things), `count` (two to four of a kind). A reader, itself scored on real pictures of the
same scenes (the ceiling), says what is on each picture.

Shapes: B pictures in a batch · S image side
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import diffusers
import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

import t2i
from t2i.data.sources import square
from t2i.data.toybox import Scene, contact_sheet
from t2i.data.toybox.reader import IMAGE_SIZE, Reader, Reading
from t2i.eval.ask import OPTIONS
from t2i.eval.generation import Pipeline, call, check_options, precision, seeded
from t2i.eval.processes import shard, together
from t2i.eval.prompts import held_out_thing
from t2i.images import to_pil, to_tensor
from t2i.processes import this_process
from t2i.weights import digest

CATEGORIES = {  # name: (split, family) of the scenes
    "seen": ("train", "single"),
    "zero_shot": ("zero_shot", "single"),
    "relation": ("train", "relation"),
    "count": ("train", "count"),
}
SHOWN = 8  # successes, and as many failures, of each category on the sheet


@dataclass(frozen=True)
class Outcome:
    """One picture: what it should show, and what the reader says that it shows."""

    category: str
    prompt: str
    truth: Reading
    reading: Reading

    @property
    def right(self) -> bool:
        """Whether the picture shows what its prompt asks for.

        seen, zero_shot: kind and attribute; relation: everything; count: how many, kind and attribute.
        """
        if self.category == "relation":
            return self.reading == self.truth
        same_thing = self.reading.things[0] == self.truth.things[0]
        return same_thing and (self.category != "count" or self.reading.layout == self.truth.layout)

    @property
    def slots(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """(asked, read) for each thing that the prompt names, both as (kind, attribute)."""
        pairs = list(zip(self.truth.things, self.reading.things, strict=True))
        return pairs if self.category == "relation" else pairs[:1]


@dataclass(frozen=True)
class Evaluation:
    """`report` is plain data for JSON; `examples` holds for each category the first pictures (right, wrong)."""

    report: dict
    examples: dict[str, tuple[list, list]] = field(repr=False)


Judged = list[tuple[Outcome, Image.Image | None]]  # with the pictures of the first right and the first wrong ones


# --- the questions --------------------------------------------------------------------------------------------------


def scenes(category: str, num: int, seed: int) -> list[Scene]:
    """Scene i depends on (seed, category, i) alone. `zero_shot` goes round the held-out pairs, evenly."""
    split, family = CATEGORIES[category]
    generators = (np.random.default_rng(_key(category, i, seed, "scenes")) for i in range(num))
    sampled = [Scene.sample(rng, split, family) for rng in generators]
    if category != "zero_shot":
        return sampled
    return [replace(scene, things=(held_out_thing(i),)) for i, scene in enumerate(sampled)]


def generator(category: str, i: int, seed: int) -> torch.Generator:
    """The source of chance of one picture, seeded by (seed, category, i)."""
    return seeded(*_key(category, i, seed, "pictures"))


def _key(category: str, i: int, seed: int, what: str) -> tuple[int, ...]:
    """Four numbers, the last not 0: no scene is seeded like one of Toybox's, on which pipelines and reader train."""
    return seed, list(CATEGORIES).index(category), i, 1 + ("scenes", "pictures").index(what)


# --- the pictures ---------------------------------------------------------------------------------------------------


def drawn(
    pipeline: Pipeline,
    asked: Sequence[Scene],
    generators: Sequence[torch.Generator],
    batch_size: int,
    **options,
) -> Iterator[np.ndarray]:
    """Batches of the pipeline's pictures, uint8 (B, 64, 64, 3), resized where it draws in another size."""
    for start in range(0, len(asked), batch_size):
        rows = slice(start, start + batch_size)
        yield squares(call(pipeline, [scene.caption() for scene in asked[rows]], generators[rows], **options))


def squares(images: Sequence[Image.Image]) -> np.ndarray:
    """Pictures of any size as the reader takes them, uint8 (B, 64, 64, 3)."""
    return np.stack([square(image, IMAGE_SIZE) for image in images])


def rendered(asked: Sequence[Scene], batch_size: int, size: int = IMAGE_SIZE) -> Iterator[np.ndarray]:
    """Batches of real pictures, uint8 (B, S, S, 3)."""
    for start in range(0, len(asked), batch_size):
        yield np.stack([np.array(scene.render(size)) for scene in asked[start : start + batch_size]])


@torch.no_grad()
def through(tokenizer, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Batches of pictures after an image tokenizer's round trip, uint8 (B, 64, 64, 3)."""
    for images in batches:
        yield squares(to_pil(reconstructed(tokenizer, torch.from_numpy(images))))


def reconstructed(tokenizer, images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1], after an image tokenizer's round trip in its precision."""
    dtype = next(tokenizer.parameters()).dtype  # of the encoder, which comes first; code books may keep float32
    return tokenizer.reconstruct(to_tensor(images).to(tokenizer.device, dtype)).float()


# --- the scores -----------------------------------------------------------------------------------------------------


def wilson(right: int, n: int, z: float = 1.959964) -> dict:
    """A share with its 95 % interval (Wilson 1927): {"value", "low", "high", "n"}. ValueError for n < 1."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"a share needs n ≥ 1 and 0 ≤ right ≤ n, not {right} of {n}")
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"value": p, "low": min(low, p), "high": max(high, p), "n": n}  # rounding errs at 0 and at 1


def share(truths: Sequence[bool]) -> dict:
    """The share that is true, with its interval, as `wilson` gives it."""
    return wilson(sum(truths), len(truths))


def parts(outcomes: Sequence[Outcome]) -> dict:
    """How often the kinds, the attributes, and the layout alone are right; of two things both must be."""
    return {
        "kind": share([all(asked[0] == read[0] for asked, read in o.slots) for o in outcomes]),
        "attribute": share([all(asked[1] == read[1] for asked, read in o.slots) for o in outcomes]),
        "layout": share([o.reading.layout == o.truth.layout for o in outcomes]),
    }


def failures(outcomes: Sequence[Outcome]) -> dict:
    """Kinds and attributes, worst first: {name: {"asked", "wrong", "read_as": {other name: times}}}."""
    tables = {}
    for place, what in enumerate(("kinds", "attributes")):
        slots = [(asked[place], read[place]) for o in outcomes for asked, read in o.slots]
        times = Counter(asked for asked, _ in slots)
        wrong = Counter(pair for pair in slots if pair[0] != pair[1]).most_common()
        rows = {}
        for name, n in times.items():
            read_as = {read: k for (asked, read), k in wrong if asked == name}
            rows[name] = {"asked": n, "wrong": sum(read_as.values()), "read_as": read_as}
        tables[what] = dict(sorted(rows.items(), key=lambda r: (-r[1]["wrong"] / r[1]["asked"], r[0])))
    return tables


def evaluate(
    pipeline: Pipeline, reader: Reader, num: int = 500, seed: int = 0, batch_size: int = 32, name: str = "", **options
) -> Evaluation:
    """Draw `num` prompts of each category and read what came out; under `accelerate launch` all processes share them.

    Args:
        pipeline: called as pipeline(prompts, generator=[one each], output_type="np", **options); what it returns has
            `.images`. Where it has an `image_tokenizer` with `reconstruct`, that is scored too.
        seed: fixes prompts and generators.
        name: of the pipeline in the report; its class by default.
        options: of the pipeline, such as OPTIONS; one that is None is not handed on.

    Raises ValueError for num, seed or batch_size out of range, and for an option that the pipeline does not take.
    """
    if num < 1 or batch_size < 1 or seed < 0:
        raise ValueError(f"num and batch_size must be at least 1 and seed at least 0: {num=}, {batch_size=}, {seed=}")
    options = {key: value for key, value in options.items() if value is not None}
    check_options(pipeline, options)
    state, found = this_process(), {}
    own = shard(range(num), state.process_index, state.num_processes)
    together(lambda: found.update(_judge_all(pipeline, reader.eval(), own, seed, batch_size, options)))
    found = _in_order(gather_object([found]))
    outcomes = {what: [o for pairs in of.values() for o, _ in pairs] for what, of in found.items()}
    settings = {"pipeline": name or type(pipeline).__name__, "num": num, "seed": seed}
    settings |= dict.fromkeys(OPTIONS) | options | {"dtype": precision(pipeline), "reader_sha256": digest(reader)}
    versions = {"t2i": t2i.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    report = _report(outcomes["drawn"], outcomes["real"], outcomes.get("through tokenizer", []))
    examples = {category: _examples(pairs) for category, pairs in found["drawn"].items()}
    return Evaluation(report | {"settings": settings | {"versions": versions}}, examples)


def readings(reader: Reader, images: np.ndarray) -> list[tuple[np.ndarray, Reading]]:
    """uint8 (B, 64, 64, 3) -> each picture (64, 64, 3) with what is on it."""
    return list(zip(images, reader.read(to_tensor(torch.from_numpy(images))), strict=True))


def judged(reader: Reader, category: str, asked: Sequence[Scene], batches: Iterator[np.ndarray]) -> Judged:
    """Read pictures of the scenes `asked`, batches (B, 64, 64, 3)."""
    found: Judged = []
    kept: Counter = Counter()
    for images in batches:
        for image, reading in readings(reader, images):
            scene = asked[len(found)]
            outcome = Outcome(category, scene.caption(), Reading.of(scene), reading)
            kept[outcome.right] += 1
            found.append((outcome, Image.fromarray(image) if kept[outcome.right] <= SHOWN else None))
    return found


def _judge_all(
    pipeline: Pipeline, reader: Reader, own: Sequence[int], seed: int, batch_size: int, options: dict
) -> dict[str, dict[str, Judged]]:
    """{what was judged: {category: the scenes `own`}}, of pictures drawn, real ones, and those through a tokenizer."""
    tokenizer = getattr(pipeline, "image_tokenizer", None)
    found: dict[str, dict[str, Judged]] = {"drawn": {}, "real": {}}
    with tqdm(total=len(own) * len(CATEGORIES), unit=" images", disable=0 not in own) as bar:
        for category in CATEGORIES:
            bar.set_description(category)
            asked = [scenes(category, own[-1] + 1, seed)[i] for i in own] if own else []
            pictures = drawn(pipeline, asked, [generator(category, i, seed) for i in own], batch_size, **options)
            found["drawn"][category] = judged(reader, category, asked, _counted(pictures, bar))
            found["real"][category] = judged(reader, category, asked, rendered(asked, batch_size))
            if hasattr(tokenizer, "reconstruct"):
                size = getattr(tokenizer.config, "image_size", IMAGE_SIZE)
                coded = through(tokenizer, rendered(asked, batch_size, size))
                found.setdefault("through tokenizer", {})[category] = judged(reader, category, asked, coded)
    return found


def _counted(batches: Iterator[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for images in batches:
        yield images
        bar.update(len(images))


def _in_order(shares: Sequence[dict[str, dict[str, Judged]]]) -> dict[str, dict[str, Judged]]:
    """What all processes judged, in the order of the scenes, of which process r of n had every n-th from r on."""
    whole: dict[str, dict[str, Judged]] = {}
    for what, of in shares[0].items():
        whole[what] = {}
        for category in of:
            parts = [share[what][category] for share in shares]
            whole[what][category] = merged = [None] * sum(map(len, parts))
            for rank, part in enumerate(parts):
                merged[rank :: len(parts)] = part
    return whole


def _examples(pairs: Judged) -> tuple[list, list]:
    """The first pictures that are right, and the first that are wrong, with their outcomes."""
    kept = [(picture, outcome) for outcome, picture in pairs if picture is not None]
    right, wrong = ([pair for pair in kept if pair[1].right == is_right][:SHOWN] for is_right in (True, False))
    return right, wrong


def _report(outcomes: Sequence[Outcome], ceiling: Sequence[Outcome], coded: Sequence[Outcome]) -> dict:
    of = {category: [o for o in outcomes if o.category == category] for category in CATEGORIES}
    best = {category: [o for o in ceiling if o.category == category] for category in CATEGORIES}
    report = {category: share([o.right for o in found]) for category, found in of.items()}
    report["ceiling"] = share([o.reading == o.truth for o in ceiling])
    if coded:
        report["through_tokenizer"] = share([o.reading == o.truth for o in coded])
    report["ceilings"] = {category: share([o.right for o in found]) for category, found in best.items()}
    report["parts"] = {category: parts(found) for category, found in of.items()}
    return report | {"failures": failures(outcomes)}


# --- what comes in and goes out -------------------------------------------------------------------------------------


def table(report: dict) -> str:
    """Category, score, interval and ceiling, for people."""
    rows = [(category, report[category], report["ceilings"][category]) for category in CATEGORIES]
    if "through_tokenizer" in report:
        rows.append(("through tokenizer", report["through_tokenizer"], report["ceiling"]))
    lines = [f"{'':18} {'score':>7}   {'95 % interval':>15}   {'ceiling':>7}"]
    for name, s, best in rows:
        interval = f"{s['low']:.1%} – {s['high']:.1%}"
        lines.append(f"{name:18} {s['value']:7.1%}   {interval:>15}   {best['value']:7.1%}")
    return "\n".join(lines)


def sheet(evaluation: Evaluation) -> Image.Image:
    """A block of successes and one of failures for each category, the prompt under each picture."""
    blocks = []
    for category, (right, wrong) in evaluation.examples.items():
        score = evaluation.report[category]
        count = round(score["value"] * score["n"])
        for title, examples in ((f"right: {count}", right), (f"wrong: {score['n'] - count}", wrong)):
            if examples:
                labels = [o.prompt if o.right else f"{o.prompt} (read: {o.reading})" for _, o in examples]
                pictures = contact_sheet([picture for picture, _ in examples], labels, columns=SHOWN, max_lines=4)
                blocks.append((f"{category}, {title} of {score['n']}", pictures))
    return page(blocks)


def page(blocks: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures below each other, each under its title."""
    head, width = 30, max(b.width for _, b in blocks)
    whole = Image.new("RGB", (width, sum(b.height + head for _, b in blocks)), "white")
    y, draw, font = 0, ImageDraw.Draw(whole), ImageFont.load_default(18)
    for title, block in blocks:
        draw.text((12, y + 8), title, fill=(52, 50, 58), font=font)
        whole.paste(block, (0, y + head))
        y += head + block.height
    return whole


def write(evaluation: Evaluation, out: Path) -> None:
    """report.json and successes-and-failures.png in the folder `out`; older ones are replaced when both are whole."""
    out.mkdir(parents=True, exist_ok=True)
    report, picture = out / "report.json", out / "successes-and-failures.png"
    targets = {path: path.with_name(f".{path.name}.part") for path in (picture, report)}
    sheet(evaluation).save(targets[picture], format="PNG")
    targets[report].write_text(json.dumps(evaluation.report, indent=2) + "\n")
    for path, part in targets.items():
        part.replace(path)
