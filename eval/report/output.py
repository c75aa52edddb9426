"""A report as files: report.json for programs, report.html for people, and its images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from t2i.eval.report.html import page, png
from t2i.eval.report.report import FORMAT, Report, plain
from t2i.eval.report.text import scores_table
from t2i.files import write_whole


def write(report: Report, out: Path) -> None:
    """Write report.json, report.html and the galleries' images (gallery/) to `out`, which is created if needed.

    Images are named after their content, so that an interrupted run never leaves an older report.json with wrong
    images. Raises ValueError for settings or details that JSON cannot represent exactly, including NaN.
    """
    out = Path(out)
    files: dict[str, bytes] = {}
    text = json.dumps(_as_json(report, files), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    html = page(report)
    out.mkdir(parents=True, exist_ok=True)
    if files:
        (out / "gallery").mkdir(exist_ok=True)
    for name, content in files.items():
        write_whole(out / name, content)
    write_whole(out / "report.html", html)
    write_whole(out / "report.json", text)


def publish(report: Report, out: Path) -> None:
    """`write` the report and print its scores and notes."""
    write(report, out)
    print(scores_table(report.scores))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{out}: report.html and report.json")


def _as_json(report: Report, files: dict[str, bytes]) -> dict:
    """The report as plain data; the bytes of its images are added to `files` by name."""
    galleries = []
    for gallery in report.galleries:
        rows = []
        for image, caption in gallery.images:
            content = png(image)
            name = f"gallery/{hashlib.sha256(content).hexdigest()[:16]}.png"
            files[name] = content
            rows.append({"file": name, "caption": caption})
        galleries.append({"title": gallery.title, "images": rows})
    return {
        "format": FORMAT,
        "title": report.title,
        "settings": plain(report.settings, "settings"),
        "scores": [plain(vars(score), f"score {score.name!r}") for score in report.scores],
        "tables": [plain(vars(table), f"table {table.title!r}") for table in report.tables],
        "curves": [plain(vars(curve), f"curve {curve.title!r}") for curve in report.curves],
        "galleries": galleries,
        "notes": list(report.notes),
    }
