"""Reports: their format, their pages, and the commands that create or compare them (`t2i report`)."""

from t2i.eval.report.output import publish, write
from t2i.eval.report.report import FORMAT, Curve, Gallery, Point, Report, Score, Table, plain

__all__ = ["FORMAT", "Curve", "Gallery", "Point", "Report", "Score", "Table", "plain", "publish", "write"]
