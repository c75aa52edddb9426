"""Figures: the style of all plots, and conversion to files, images and SVG elements of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar
from xml.etree import ElementTree

from t2i.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#3d5a98", "#b3541e", "#2f7d5b", "#8a4f9e", "#8f7412", "#a63d5c")  # colours of series, in this order
SOFT, RULE, CARD = "#6b6773", "#e4e1e6", "#ffffff"  # text and axes, grid lines, background
# On a page, colours follow its light or dark theme: they are replaced by CSS variables.
VARIABLES = {
    **{colour: f"var(--s{i})" for i, colour in enumerate(COLOURS)},
    SOFT: "var(--soft)",
    RULE: "var(--rule)",
    CARD: "var(--card)",
}


def styled(plot: Callable[P, R]) -> Callable[P, R]:
    """Decorator for functions that make figures, which applies the project's style."""

    @wraps(plot)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib  # slow to import

        with matplotlib.rc_context(_style()):
            return plot(*args, **kwargs)

    return wrapped


def new_figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """An empty figure of this size in inches, laid out when it is rendered."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def use_log_scale(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Logarithmic scale with plain numbers at its ticks: matplotlib's own labels are mathematics, which is off here."""
    from matplotlib.ticker import LogFormatter

    class PlainFormatter(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""  # minor ticks have labels where there is space

    axes.set(**{f"{axis}scale": "log"})
    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_major_formatter(PlainFormatter())
    ticks.set_minor_formatter(PlainFormatter(minor_thresholds=(1, 0.4)))


def save_png(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write the figure as a PNG, atomically."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    write_whole(path, file.getvalue())


def to_image(figure: Figure, dpi: int = 100) -> Image.Image:
    """The figure as an RGB image."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return Image.open(file).convert("RGB")


@styled
def to_svg(figure: Figure, label: str, titles: Mapping[str, str]) -> str:
    """The figure as an <svg> element for a page: transparent, in the page's colours and font, deterministic.

    Args:
        label: accessible label, for screen readers.
        titles: tooltips by gid of the artist.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        parent.tag = parent.tag.rpartition("}")[2]
        parent.attrib = {name.rpartition("}")[2]: value for name, value in parent.attrib.items()}
        parent.attrib.pop("clip-path", None)
        if "style" in parent.attrib:
            parent.attrib["style"] = re.sub("#[0-9a-f]{6}", lambda m: VARIABLES.get(m[0], m[0]), parent.attrib["style"])
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "clipPath"):
                parent.remove(child)
        if parent.get("id") in titles:
            ElementTree.SubElement(parent, "title").text = titles[parent.attrib["id"]]
        if parent.tag == "g":
            parent.attrib.pop("id", None)  # they would clash between figures of one page
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _style() -> dict:
    from cycler import cycler

    return {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.edgecolor": RULE,
        "axes.labelcolor": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "text.parse_math": False,  # prompts may contain dollar signs
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "t2i",
    }
