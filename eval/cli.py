"""`t2i eval TARGET`, which is also `python -m t2i.eval TARGET` and `accelerate launch -m t2i.eval TARGET`."""

from __future__ import annotations

from collections.abc import Sequence

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.eval.config import EvalConfig
from t2i.eval.evaluators import EVALUATORS


def main(args: Sequence[str]) -> None:
    """Evaluate the target that `args` name; raises UsageError for bad arguments."""
    if not args:
        print(f"usage: t2i eval TARGET [--metrics METRIC …] [options]; t2i eval --help lists them\n\n{_metrics()}")
        return
    about = f"Evaluate a pipeline, a folder of images or an unconditional model.\n\nmetrics:\n{_metrics()}"
    config = parse(EvalConfig(), args, prog="t2i eval", description=about)
    if not config.targets:
        raise UsageError("give a target to evaluate, as in: t2i eval toybox/dalle --metrics compositional fid")
    from t2i.eval.evaluate import evaluate  # not before: torch takes seconds to import, --help should not

    evaluate(config)


def _metrics() -> str:
    return "\n".join(f"  {name:14} {about}" for name, (about, _) in EVALUATORS.items())
