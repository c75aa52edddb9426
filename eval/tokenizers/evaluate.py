"""Evaluates image tokenizers on the same real images, and writes one report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import diffusers
import torch

import t2i
from t2i.eval.config import TokenizersConfig
from t2i.eval.evaluators.fid import LEAST as LEAST_OF_SETS
from t2i.eval.evaluators.two_sample import LEAST, MOST
from t2i.eval.images.sets import to_image
from t2i.eval.report import Gallery, Report, Score, Table, write
from t2i.eval.report.text import NONE, interval, number
from t2i.eval.tokenizers.measure import Measured, TokenizersRun, measure
from t2i.eval.tokenizers.opened import OpenedTokenizer
from t2i.eval.tokenizers.scores import Cells, scores_of
from t2i.files import write_csv
from t2i.processes import this_process
from t2i.tables import format_table

CSV = "tokenizers.csv"
INFINITE = "∞"
ORIGINALS = "originals"


def evaluate(config: TokenizersConfig) -> Report | None:
    """Evaluate `config.targets`, write the report and print its table.

    All processes of `accelerate launch` must call this; the main one returns the report. Raises as `TokenizersRun`
    does; ValueError if fewer than two images can be read; and FloatingPointError, naming the tokenizer, for
    reconstructions that are not finite.
    """
    run = TokenizersRun(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)  # fails before the work rather than after
    if not this_process().is_main_process:
        run.follow()
        return None
    with run.leading():
        found = run.on_all(measure)
    measured = [m for m in found if not isinstance(m, str)]
    skipped = [reason for reason in found if isinstance(reason, str)]
    if len(measured) < 2:
        raise ValueError(f"{len(measured)} of {len(found)} images can be read, and two are needed: {skipped[0]}")
    about = {"reference": {"sha256": run.fingerprint, "n": len(measured), "size": run.size}}
    cells = {name: scores_of(tokenizer, measured, run, about) for name, tokenizer in run.tokenizers.items()}
    report = _report(run, measured, cells, _notes(run, cells, len(measured), skipped))
    write(report, out)
    write_csv(out / CSV, [_csv_row(run.tokenizers[name], of, run.size) for name, of in cells.items()])
    print(text_table(run.tokenizers, cells, run.size))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{out}: report.html, report.json and {CSV}")
    return report


def _report(run: TokenizersRun, measured: Sequence[Measured], cells: Mapping[str, Cells], notes: list[str]) -> Report:
    config, single = run.config, len(cells) == 1
    scores = []
    for target, of in cells.items():
        for name, cell in of.items():
            if isinstance(cell, Score):
                label = name if single else f"{target}: {name}"  # reports of one tokenizer each can be compared
                scores.append(replace(cell, name=label))
    settings = {
        "tokenizers": {name: {"class": t.kind, "weights_sha256": t.sha256} for name, t in run.tokenizers.items()},
        "data": config.data,
        "data_sha256": run.fingerprint,
        "num_images": len(measured),
        "image_size": run.size,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "device": run.machine,
        "versions": {"t2i": t2i.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    galleries = []
    for i, m in enumerate(m for m in measured if m.original.shown is not None):
        views = {ORIGINALS[:-1]: m.original} | {name: r.view for name, r in m.reconstructions.items()}
        images = [(to_image(view.shown), name) for name, view in views.items()]
        galleries.append(Gallery(f"Image {i + 1}{f': {m.caption}' if m.caption else ''}", images))
    title = f"Image tokenizers on {config.data}: {', '.join(config.targets)}"
    return Report(title, settings, scores, galleries=galleries, notes=notes, tables=[_table(run, cells)])


def _notes(run: TokenizersRun, cells: Mapping[str, Cells], n: int, skipped: list[str]) -> list[str]:
    """Where the images come from, and which metrics were left out or are limited by the number of images, n."""
    notes = [*run.notes, *(f"skipped: {reason}" for reason in skipped)]
    if n < LEAST_OF_SETS:
        notes.append(f"The Fréchet distance was left out: it needs at least {LEAST_OF_SETS} images.")
    elif n <= run.extractor.dim:
        notes.append(
            f"The Fréchet distance uses {n:,} images for {run.extractor.dim:,} feature dimensions: compare it only "
            "with distances of as many images."
        )
    if run.config.two_sample and n < LEAST:
        notes.append(f"The two-sample accuracy was left out: it needs at least {LEAST} images.")
    elif run.config.two_sample and n > MOST:
        notes.append(f"The two-sample accuracy uses the first {MOST:,} images.")
    for name, tokenizer in run.tokenizers.items():
        if math.inf in cells[name].values():
            notes.append(f"{name} reconstructs at least one image exactly, so that its mean PSNR is infinite.")
        codes = n * math.prod(tokenizer.grid(run.size))
        if tokenizer.codebook_size is not None and codes < tokenizer.codebook_size:
            K = f"{tokenizer.codebook_size:,}"
            notes.append(f"{name} has {K} codes, of which {n:,} images can use {codes:,} at most.")
    return [*notes, f"images/s are medians over batches of {run.config.batch_size} on {run.machine}."]


# --- the table ------------------------------------------------------------------------------------------------------


def text_table(tokenizers: Mapping[str, OpenedTokenizer], cells: Mapping[str, Cells], size: int) -> str:
    """One row per score, one column per tokenizer: value and interval; and the value of the originals."""
    abouts = [_about(tokenizer, size) for tokenizer in tokenizers.values()]
    rows = [[what, "", *(str(about[what] or NONE) for about in abouts)] for what in abouts[0]]
    for name in _names(cells):
        of = [tokenizer.get(name) for tokenizer in cells.values()]
        ceiling = next((number(s.ceiling, s.share) for s in of if isinstance(s, Score) and s.ceiling is not None), "")
        rows.append([name, ceiling, *map(_cell, of)])
    return format_table(["score", ORIGINALS, *cells], rows, right=range(1, len(cells) + 2))


def _names(cells: Mapping[str, Cells]) -> list[str]:
    """The scores that at least one tokenizer has, in the order of the first, which all share."""
    names = dict.fromkeys(name for of in cells.values() for name in of)
    return [name for name in names if any(of.get(name) is not None for of in cells.values())]


def _about(tokenizer: OpenedTokenizer, size: int) -> dict[str, str | int | None]:
    return {
        "class": tokenizer.kind,
        "stride": tokenizer.stride,
        "grid": "×".join(map(str, tokenizer.grid(size))),
        "codebook size": tokenizer.codebook_size,
    }


def _cell(cell: Score | float | None) -> str:
    if not isinstance(cell, Score):
        return NONE if cell is None else INFINITE
    value = number(cell.value, cell.share)
    return value if cell.low is None else f"{value} ({interval(cell)})"


def _table(run: TokenizersRun, cells: Mapping[str, Cells]) -> Table:
    """One row per tokenizer, and the originals; shares in per cent."""
    names = _names(cells)
    known = [next(of[name] for of in cells.values() if of.get(name) is not None) for name in names]
    columns = [f"{name}, %" if isinstance(s, Score) and s.share else name for name, s in zip(names, known, strict=True)]
    rows = []
    for target, of in cells.items():
        about = _about(run.tokenizers[target], run.size)
        rows.append([target, *about.values(), *(_plain(of.get(name)) for name in names)])
    ceilings = [100 * s.ceiling if isinstance(s, Score) and s.ceiling is not None else None for s in known]
    if any(ceiling is not None for ceiling in ceilings):
        rows.append([ORIGINALS, *(None for _ in about), *ceilings])
    return Table("Image tokenizers", ["tokenizer", *about, *columns], rows)


def _plain(cell: Score | float | None) -> float | str | None:
    if not isinstance(cell, Score):
        return None if cell is None else INFINITE
    return 100 * cell.value if cell.share else cell.value


def _csv_row(tokenizer: OpenedTokenizer, cells: Cells, size: int) -> dict[str, object]:
    """The tokenizer and every score, with the ends of its interval and the value of the originals."""
    row: dict[str, object] = {"tokenizer": tokenizer.name, **_about(tokenizer, size)}
    for name, cell in cells.items():
        if not isinstance(cell, Score):
            row |= {name: cell, f"{name}, low": None, f"{name}, high": None, f"{name}, {ORIGINALS}": None}
            continue
        row |= {name: cell.value, f"{name}, low": cell.low, f"{name}, high": cell.high}
        row[f"{name}, {ORIGINALS}"] = cell.ceiling
    return row
