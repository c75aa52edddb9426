"""How probable are test pictures to unconditional models? `t2i eval bits RUN …`"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from t2i.blocks import load_block
from t2i.blocks.base import Block, from_levels
from t2i.cli_errors import UsageError
from t2i.data.digits import open_splits
from t2i.eval.ask import Bits
from t2i.eval.block_measures import nats
from t2i.eval.metrics import bootstrap_interval
from t2i.eval.processes import usable_device
from t2i.eval.text import aligned
from t2i.files import write_whole
from t2i.training.block_stage import PreparePixels, drawn, trained_on


def measure(ask: Bits) -> Path:
    """Score the models that `ask` names, print a table and write it as bits.csv; the file.

    Raises UsageError for a model without likelihood, and as `load_block` and the data do.
    """
    device = usable_device(ask.device)
    models = {folder: load_block(folder).to(device) for folder in ask.models}
    for folder, model in models.items():
        if model.likelihood == "none":
            raise UsageError(f"{folder} holds a {type(model).__name__}, which has neither a likelihood nor a bound")
    rows = [row(ask, folder, model) for folder, model in models.items()]
    shown = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in found.values()] for found in rows]
    print("\n".join(aligned([list(rows[0]), *shown], right=tuple(range(4, len(rows[0]))))))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file = Path(ask.out) / "bits.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, table.getvalue())
    print(file)
    return file


def row(ask: Bits, folder: str, model: Block) -> dict:
    """Means over test pictures, nats an image and bits a number, the latter with a 95 % bootstrap interval."""
    splits = trained_on(folder) if ask.data is None else open_splits(ask.data, model.shape[1])
    k, labels = drawn(splits.test, PreparePixels(model.levels, model.shape[0]), ask.num)
    each = nats(model, from_levels(k, model.levels), labels, ask.seed, ask.samples, ask.batch_size)
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
