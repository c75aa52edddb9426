"""Curves of a report as figures on its web page."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from t2i.eval.report.report import Curve, Point
from t2i.eval.report.text import number
from t2i.plots import CARD, COLOURS, new_figure, styled, to_svg, use_log_scale

BANDS = 3  # charts with more series show no interval bands, which would hide each other
TICKS = 8  # maximum number of x values that are all labelled


@styled
def chart(curve: Curve) -> str:
    """Lines in axes as an <svg> element; tooltips show the points' values and intervals."""
    figure = new_figure(5.6, 3.0)
    axes = figure.add_subplot()
    titles: dict[str, str] = {}
    for i, (name, points) in enumerate(curve.series.items()):
        _plot(axes, points, i, banded=len(curve.series) <= BANDS)
        for k, (x, y, low, high) in enumerate(points):
            interval = "" if low is None else f" ({number(low)} – {number(high)})"
            titles[_gid(i, k)] = f"{name}: {number(y)}{interval} at {number(x)}"
    if curve.log_x:
        use_log_scale(axes, "x")
    _label(axes, curve)
    return to_svg(figure, curve.title, titles)


def _gid(series: int, point: int) -> str:
    return f"point-{series}-{point}"


def _plot(axes: Axes, points: list[Point], i: int, banded: bool) -> None:
    """One series: a line, its points, and their intervals as a band; dashed once the colours repeat."""
    colour, style = COLOURS[i % len(COLOURS)], "solid" if i < len(COLOURS) else "dashed"
    axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, linestyle=style)
    for k, (x, y, _, _) in enumerate(points):
        axes.plot([x], [y], "o", color=colour, markersize=5, markeredgecolor=CARD, gid=_gid(i, k))
    band = [(x, low, high) for x, _, low, high in points if low is not None and high is not None]
    if banded and len(band) > 1:
        axes.fill_between(*zip(*band, strict=True), color=colour, alpha=0.16, linewidth=0)


def _label(axes: Axes, curve: Curve) -> None:
    """Axis labels, and a few round ticks that enclose the data."""
    points = [point for series in curve.series.values() for point in series]
    xs = sorted({p[0] for p in points})
    heights = [v for p in points for v in p[1:] if v is not None]
    low, high = min(heights), max(heights)
    y = ticks(low, high) if low < high else ticks(low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))
    axes.set_yticks(y)
    axes.set_ylim(y[0], y[-1])
    if len(xs) <= TICKS:
        axes.set_xticks(xs)
    elif curve.log_x:
        axes.set_xticks(xs[:: -(-len(xs) // TICKS)])
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axis.set_tick_params(length=0)
    axes.grid(axis="x", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set(xlabel=curve.x_label, ylabel=curve.y_label)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low < high."""
    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()
