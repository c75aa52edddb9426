"""Values, settings and scores as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from t2i.eval.report.report import Score
from t2i.tables import format_table

NONE = "–"  # placeholder for a missing value


def number(value: float | None, share: bool = False) -> str:
    """A number as text: four significant digits, shares in per cent with one decimal."""
    if value is None:
        return NONE
    if share:
        return f"{value:.1%}"
    text = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return text.replace("-", "−")


def interval(score: Score) -> str:
    """The ends of the score's 95 % interval."""
    return NONE if score.low is None else f"{number(score.low, score.share)} – {number(score.high, score.share)}"


def flat(data: Mapping, before: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every value in nested data, with names joined by dots; None is a dash."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield f"{before}{key}", NONE if value is None else text


def scores_table(scores: Sequence[Score]) -> str:
    """Name, value, interval, ceiling and count of each score."""
    rows = []
    for s in scores:
        skipped = f" ({s.skipped} skipped)" if s.skipped else ""
        rows.append([s.name, number(s.value, s.share), interval(s), number(s.ceiling, s.share), f"{s.n}{skipped}"])
    return format_table(["score", "value", "95 % interval", "ceiling", "n"], rows, right=(1, 2, 3, 4))
