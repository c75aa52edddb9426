"""What an evaluator returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from t2i.eval.report import Curve, Gallery, Score, Table


@dataclass(frozen=True)
class Result:
    """The part of a report contributed by one metric family.

    Attributes:
        name: the evaluator's name, as in EVALUATORS.
        scores: values with their intervals and ceilings.
        tables, curves, galleries: further parts of the report.
        notes: remarks, one sentence each, such as images that were skipped.
    """

    name: str
    scores: list[Score] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
