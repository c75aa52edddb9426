"""Accuracies by number of labels: a CSV file with every run, medians as a table, and a plot of them.

A row is {"method", "missing", "labels", "seed", "accuracy"}; `missing` names the hidden pixels, or "none".
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from t2i.files import write_csv
from t2i.plots import new_figure, save_png, styled
from t2i.tables import format_table


def write(rows: Sequence[dict], out: Path, title: str) -> str:
    """Write accuracies.csv and accuracies.png to `out`; returns the medians as text."""
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "accuracies.csv", [{**row, "accuracy": f"{row['accuracy']:.4f}"} for row in rows])
    _plot(rows, out / "accuracies.png", title)
    return "\n\n".join(_table(rows, missing) for missing in _seen(rows, "missing"))


def medians(rows: Sequence[dict], method: str, missing: str) -> dict[int, list[float]]:
    """Labels per class -> minimum, median and maximum accuracy over the seeds."""
    by_count: dict[int, list[float]] = {}
    for row in rows:
        if (row["method"], row["missing"]) == (method, missing):
            by_count.setdefault(row["labels"], []).append(row["accuracy"])
    return {n: [min(a), statistics.median(a), max(a)] for n, a in sorted(by_count.items())}


def _table(rows: Sequence[dict], missing: str) -> str:
    """One row per method and one column per number of labels; medians in per cent."""
    rows = [row for row in rows if row["missing"] == missing]
    labels, methods = sorted(_seen(rows, "labels")), _seen(rows, "method")
    lines = []
    for method in methods:
        by_count = medians(rows, method, missing)
        lines.append([method, *(f"{by_count[n][1]:.1%}" if n in by_count else "" for n in labels)])
    table = format_table(["labels/class", *map(str, labels)], lines, right=range(1, len(labels) + 1))
    return table if missing == "none" else f"missing: {missing}\n{table}"


@styled
def _plot(rows: Sequence[dict], path: Path, title: str) -> None:
    """One panel for each kind of missing pixels; lines join medians, bars span the seeds."""
    panels, methods = _seen(rows, "missing"), _seen(rows, "method")
    figure = new_figure(4.5 * len(panels) + 1, 4.8)
    for i, missing in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for k, method in enumerate(methods):
            by_count = medians(rows, method, missing)
            if not by_count:
                continue
            low, middle, high = ([100 * a[j] for a in by_count.values()] for j in range(3))
            bars = [
                [m - a for m, a in zip(middle, low, strict=True)],
                [b - m for m, b in zip(middle, high, strict=True)],
            ]
            axes.errorbar(list(by_count), middle, bars, label=method, color=f"C{k}", marker="o", capsize=3)
        axes.set_xscale("log")
        labels = sorted(_seen(rows, "labels"))
        axes.set_xticks(labels, [str(n) for n in labels])
        axes.minorticks_off()
        axes.set(title="" if len(panels) == 1 else "whole images" if missing == "none" else f"{missing} missing")
        axes.set(xlabel="labels/class", ylabel="accuracy in %")
    figure.suptitle(title)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    save_png(figure, path, dpi=100)


def _seen(rows: Sequence[dict], field: str) -> list:
    return list(dict.fromkeys(row[field] for row in rows))
