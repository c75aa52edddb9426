"""Reports: their format, their pages, and the commands that make or compare them (`t2i report`)."""

from t2i.eval.report.report import FORMAT, Curve, Gallery, Point, Report, Score, plain, write

__all__ = ["FORMAT", "Curve", "Gallery", "Point", "Report", "Score", "plain", "write"]
