"""The result of an evaluation, as one JSON file for programs and one web page for people.

A report contains no date and no path: the same run gives the same bytes.

Shapes: a curve's point is (x, y, low, high) · images have any size
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

from PIL import Image

from t2i.files import read_json

FORMAT = "t2i-report/1"
REMEDY = "give a report.json written by t2i"

Point = tuple[float, float, float | None, float | None]


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval.

    Args:
        low, high: ends of the interval, or both None. A bootstrap interval need not contain the value.
        n: number of samples.
        better: the direction that is better, None if neither is.
        ceiling: the value for real images, in the same unit; if it is something else, `details` describes it under
            "ceiling".
        skipped: number of samples that could not be used.
        details: how it was measured, as plain data: extractor (name, weights_sha256, preprocess_id), resize, reference,
            variant. Scores that differ in these are not comparable (see t2i.eval.report.diff).
        share: whether this is a share in [0, 1], shown in per cent.

    Raises ValueError for a number that is NaN or infinite, low above high, a share outside [0, 1], negative counts.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    better: Literal["lower", "higher"] | None = None
    ceiling: float | None = None
    skipped: int = 0
    details: dict = field(default_factory=dict)
    share: bool = False

    def __post_init__(self) -> None:
        for what in ("value", "low", "high", "ceiling"):
            if (number := getattr(self, what)) is not None or what == "value":
                object.__setattr__(self, what, _finite(number, f"{what} of score {self.name!r}"))
        if (self.low is None) != (self.high is None) or (self.low is not None and self.low > self.high):
            raise ValueError(f"score {self.name!r} needs low ≤ high, or None for both, not {self.low} and {self.high}")
        if self.better not in ("lower", "higher", None):
            raise ValueError(f"better of score {self.name!r} is 'lower', 'higher' or None, not {self.better!r}")
        if self.n < 0 or self.skipped < 0:
            raise ValueError(f"score {self.name!r} needs counts of at least 0: n={self.n}, skipped={self.skipped}")
        if self.share and not all(
            0 <= v <= 1 for v in (self.value, self.low, self.high, self.ceiling) if v is not None
        ):
            raise ValueError(f"score {self.name!r} is a share and must lie in [0, 1]; give share=False for others")


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis, such as score against guidance scale; `log_x` for a logarithmic axis.

    Args:
        series: name to points (x, y, low, high), plotted in the order of x; low and high may both be None.

    Raises ValueError for NaN, infinity, points of another length, low above high, or x ≤ 0 on a logarithmic axis.
    """

    title: str
    x_label: str
    y_label: str
    series: dict[str, list[Point]]
    log_x: bool = False

    def __post_init__(self) -> None:
        checked = {name: [self._checked(p, name) for p in points] for name, points in self.series.items()}
        ordered = {name: sorted(points, key=lambda p: p[0]) for name, points in checked.items()}
        object.__setattr__(self, "series", ordered)

    def _checked(self, point: Point, name: str) -> Point:
        where = f"series {name!r} of curve {self.title!r}"
        if len(point) != 4 or (point[2] is None) != (point[3] is None):
            raise ValueError(f"{where} needs points (x, y, low, high), with None for both ends or for neither: {point}")
        x, y, low, high = (None if v is None and i > 1 else _finite(v, where) for i, v in enumerate(point))
        if low is not None and low > high:
            raise ValueError(f"{where} needs low ≤ high, not {low} and {high}")
        if self.log_x and x <= 0:
            raise ValueError(f"{where} has x = {x}, which a logarithmic axis cannot show; give log_x=False")
        return x, y, low, high


@dataclass(frozen=True)
class Gallery:
    """Images with captions."""

    title: str
    images: list[tuple[Image.Image, str]] = field(repr=False)


@dataclass(frozen=True)
class Table:
    """Rows of plain cells (text, numbers, None) with column names.

    Raises ValueError for a row of another length.
    """

    title: str
    columns: list[str]
    rows: list[list[str | float | None]]

    def __post_init__(self) -> None:
        if odd := next((row for row in self.rows if len(row) != len(self.columns)), None):
            raise ValueError(f"table {self.title!r} has {len(self.columns)} columns, but a row of {len(odd)} cells")


@dataclass(frozen=True)
class Report:
    """`settings` describe the run: seeds, guidance, steps, dtype, versions; plain data, may be nested."""

    title: str
    settings: dict = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [score.name for score in self.scores]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two scores of the report are called {twice!r}; names must be unique")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Load a report.json and the images next to it.

        Raises FileNotFoundError if the file or an image is missing, ValueError for a file that is not a report.
        """
        path = Path(path)
        data = read_json(path)
        if data.get("format") != FORMAT:
            raise ValueError(f"{path} is not a report of the format {FORMAT}; {REMEDY}")
        try:
            galleries = [
                Gallery(g["title"], [(_open(path.parent, image["file"]), image["caption"]) for image in _images(g)])
                for g in data["galleries"]
            ]
            scores = [Score(**score) for score in data["scores"]]
            curves = [Curve(**curve) for curve in data["curves"]]
            tables = [Table(**table) for table in data.get("tables", [])]  # older reports have none
            return cls(data["title"], data["settings"], scores, curves, galleries, data["notes"], tables)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is an incomplete report ({error}); {REMEDY}") from None


def plain(value: object, where: str) -> object:
    """Plain data for JSON: NumPy numbers become Python's, tuples become lists. `where` is used in error messages.

    Raises ValueError for NaN, infinity, keys that are not strings, and objects unknown to JSON.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _finite(value, where)
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{where} has the key {odd[0]!r}; keys must be text")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(
        f"{where} is a {type(value).__name__}, which JSON cannot represent: give numbers, text, lists, dicts"
    )


def _images(gallery: dict) -> list[dict]:
    return gallery["images"] if "images" in gallery else gallery["pictures"]  # as older reports call them


def _open(folder: Path, name: str) -> Image.Image:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"the image {name} of the report is not in {folder}; copy it there with the report")
    with Image.open(path) as image:
        return image.convert("RGB")


def _finite(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}; numbers in a report must be finite")
    return float(value)
