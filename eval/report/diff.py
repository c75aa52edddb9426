"""Compares two evaluations: what changed, and whether chance can explain it.

Reads the report.json of `t2i eval` and `t2i report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2i.eval.report import FORMAT, Score
from t2i.eval.report.text import NONE, flat, number
from t2i.tables import format_table

Verdict = Literal["outside", "within", "no interval", "not comparable", "only old", "only new", "setting"]

DECIDING = {  # details that must agree for comparable scores, by the first or the last part of their dotted name
    "extractor",
    "weights_sha256",
    "preprocess_id",
    "resize",
    "reference",
    "reference_sha256",
    "training",
    "classifier_sha256",
    "image_tokenizer_sha256",
    "variant",
}
SHOWN = 16  # characters of a value shown in a table: enough of a hash


@dataclass(frozen=True)
class Change:
    """One score or setting in the two reports.

    Args:
        old, new: numbers of a score, texts of a setting; None if missing from a report.
        difference: new - old, None for settings and for scores that are not comparable.
        verdict: "outside": the two 95 % intervals do not overlap, which happens by chance far more rarely than one time
            in twenty; "within": they overlap, which does not exclude a real difference; "setting": a setting differs.
        reason: why the two are not comparable, empty if they are.
        better: the direction that is better.
        share: whether the numbers are shares, shown in per cent.
    """

    name: str
    old: float | str | None
    new: float | str | None
    difference: float | None
    verdict: Verdict
    reason: str = ""
    better: Literal["lower", "higher"] | None = None
    share: bool = False


def diff(a: dict, b: dict) -> list[Change]:
    """All scores of the reports `a` (old) and `b` (new) in the order of `a`, then all settings that differ.

    Raises ValueError for data that is neither kind of report.
    """
    old, new = scores(a), scores(b)
    changes = [_change(name, old.get(name), new.get(name)) for name in old | new]
    before, after = _settings(a, old), _settings(b, new)
    missing = {f"{name}.{what}" for name in old.keys() ^ new.keys() for what in ("n", "skipped")}
    names = [name for name in before | after if before.get(name, NONE) != after.get(name, NONE) and name not in missing]
    return changes + [Change(name, before.get(name), after.get(name), None, "setting") for name in names]


def scores(report: dict) -> dict[str, Score]:
    """The scores of either kind of report by name. Raises ValueError for other data."""
    if report.get("format") == FORMAT:
        try:
            return {row["name"]: Score(**row) for row in report["scores"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"this report is incomplete or was edited ({error})") from None
    raise ValueError("this is not a report of an evaluation; give the report.json that `t2i eval` wrote")


def table(changes: list[Change]) -> str:
    """The changes as text: scores, then settings."""
    scores = [c for c in changes if c.verdict != "setting"]
    settings = [c for c in changes if c.verdict == "setting"]
    rows = [[c.name, number(c.old, c.share), number(c.new, c.share), _difference(c), _verdict(c)] for c in scores]
    head = ["score", "old", "new", "difference", "95 % intervals"]
    text = format_table(head, rows, right=(1, 2, 3)) if scores else "no scores"
    if settings:
        rows = [[c.name, _short(c.old), _short(c.new)] for c in settings]
        text += "\n\n" + format_table(["setting", "old", "new"], rows)
    return text


def _settings(report: dict, scores: dict[str, Score]) -> dict[str, str]:
    """All settings, and each score's numbers of used and skipped samples, by dotted name."""
    counts = {f"{name}.{what}": str(getattr(s, what)) for name, s in scores.items() for what in ("n", "skipped")}
    return dict(flat(report.get("settings", {}))) | counts


def _change(name: str, old: Score | None, new: Score | None) -> Change:
    known = old or new
    about = {"better": known.better, "share": known.share}
    if old is None or new is None:
        verdict = "only new" if old is None else "only old"
        return Change(name, old and old.value, new and new.value, None, verdict, **about)
    if reason := _mismatch(old, new):
        return Change(name, old.value, new.value, None, "not comparable", reason, **about)
    if old.low is None or new.low is None:
        verdict = "no interval"
    else:
        verdict = "outside" if old.high < new.low or new.high < old.low else "within"
    return Change(name, old.value, new.value, new.value - old.value, verdict, **about)


def _mismatch(old: Score, new: Score) -> str:
    """The first detail in which the two scores are not comparable, as a sentence; empty if there is none."""
    before, after = (
        {key: text for key, text in flat(s.details) if DECIDING & {key.split(".")[0], key.split(".")[-1]}}
        for s in (old, new)
    )
    for key in before | after:
        if before.get(key, NONE) != after.get(key, NONE):
            return f"{key} was {_short(before.get(key))} and is {_short(after.get(key))}"
    return ""


# --- text -----------------------------------------------------------------------------------------------------------


def _difference(change: Change) -> str:
    if change.difference is None:
        return NONE
    sign = "+" if change.difference >= 0 else "−"
    size = abs(change.difference)
    return f"{sign}{size * 100:.1f} pp" if change.share else f"{sign}{number(size)}"


def _verdict(change: Change) -> str:
    if change.reason:
        return f"{change.verdict}: {change.reason}"
    if change.verdict != "outside" or change.better is None:
        return change.verdict
    rose = change.difference > 0
    return f"outside, {'better' if rose == (change.better == 'higher') else 'worse'}"


def _short(value: str | None) -> str:
    if value is None:
        return NONE
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
