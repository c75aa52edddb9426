"""How probable are test pictures to unconditional models? `t2i eval bits RUN …`"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from t2i.checks import UsageError
from t2i.data.levels import PreparePixels, first_levels
from t2i.data.splits import open_splits
from t2i.eval.ask import Bits
from t2i.eval.block_measures import nats
from t2i.eval.metrics import bootstrap_interval
from t2i.eval.processes import usable_device
from t2i.files import write_csv
from t2i.models import load_pretrained
from t2i.models.base import GenerativeModel, from_levels
from t2i.runs import open_training_data
from t2i.tables import format_table


def measure(ask: Bits) -> Path:
    """Score the models that `ask` names, print a table and write it as bits.csv; the file.

    Raises UsageError for a model without likelihood, and as `load_pretrained` and the data do.
    """
    device = usable_device(ask.device)
    models = {folder: load_pretrained(folder).to(device) for folder in ask.models}
    for folder, model in models.items():
        if model.likelihood == "none":
            raise UsageError(f"{folder} holds a {type(model).__name__}, which has neither a likelihood nor a bound")
    scored = {folder: _nats(ask, folder, model) for folder, model in models.items()}
    first = scored[ask.models[0]]
    rows = [row(ask, folder, models[folder], each[1]) | against(first, each) for folder, each in scored.items()]
    shown = [[_text(cell) for cell in found.values()] for found in rows]
    print(format_table(list(rows[0]), shown, right=range(4, len(rows[0]))))
    file = Path(ask.out) / "bits.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(file, rows)
    print(file)
    return file


def _text(cell: object) -> str:
    return "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _nats(ask: Bits, folder: str, model: GenerativeModel) -> tuple[Tensor, Tensor]:
    """Test pictures as levels (n, C, S, S), and nats of each (n,)"""
    splits = open_training_data(folder) if ask.data is None else open_splits(ask.data, model.shape[1])
    k, labels = first_levels(splits.test, PreparePixels(model.levels, model.shape[0]), ask.num)
    return k, nats(model, from_levels(k, model.levels), labels, ask.seed, ask.samples, ask.batch_size)


def against(first: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict:
    """How many nats more than the first model's the other's are, picture by picture, with a 95 % bootstrap interval.

    Both are pictures and the nats of each. None where the pictures are others.
    """
    if not torch.equal(first[0], other[0]) or first[1] is other[1]:
        return dict.fromkeys(("more than the first", "from", "to"))
    more = other[1].double() - first[1].double()
    interval = bootstrap_interval(more)
    return {"more than the first": float(more.mean()), "from": interval.low, "to": interval.high}


def row(ask: Bits, folder: str, model: GenerativeModel, each: Tensor) -> dict:
    """Means over test pictures, nats an image and bits a number, the latter with a 95 % bootstrap interval.

    `each` is the nats of every picture (n,).
    """
    bits = each.double() / (math.prod(model.shape) * math.log(2))
    interval = bootstrap_interval(bits)
    return {
        "model": folder,
        "class": type(model).__name__,
        "kind": ("density, " if model.continuous else "") + model.likelihood,
        "levels": model.levels,
        "samples": ask.samples,
        "nats": float(each.double().mean()),
        "bits/dim": float(bits.mean()),
        "low": interval.low,
        "high": interval.high,
        "pictures": len(each),
    }
