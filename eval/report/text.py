"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2i.eval.report import Report, Score, write
from t2i.eval.report.html import number


def aligned(rows: Sequence[Sequence[str]], right: tuple[int, ...] = ()) -> list[str]:
    """A line for each row, its cells under each other, those of the columns `right` to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("   ".join(cells).rstrip())
    return lines


def scores_table(scores: Sequence[Score]) -> str:
    """Name, value, interval, ceiling and count of each score."""
    rows = [["score", "value", "95 % interval", "ceiling", "n"]]
    for s in scores:
        interval = "–" if s.low is None else f"{number(s.low, s.share)} – {number(s.high, s.share)}"
        ceiling = "–" if s.ceiling is None else number(s.ceiling, s.share)
        skipped = f" ({s.skipped} skipped)" if s.skipped else ""
        rows.append([s.name, number(s.value, s.share), interval, ceiling, f"{s.n}{skipped}"])
    return "\n".join(aligned(rows, right=(1, 2, 3, 4)))


def publish(report: Report, out: Path) -> None:
    """Write the report to the folder `out` and print its scores and notes."""
    write(report, out)
    print(scores_table(report.scores))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{out}: report.html and report.json")
