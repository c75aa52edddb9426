"""`t2i eval METRIC …`, which is also `python -m t2i.eval METRIC …`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i.cli_errors import UsageError, check_choice, parse


@dataclass(frozen=True)
class Binding:
    pipeline: str = "toybox/dalle"
    """An embedded system, a folder, or a model of the Hub."""
    num: int = 500
    """Prompts of each of the four categories."""
    seed: int = 0
    """Fixes the prompts and the pictures."""
    out: str = "reports/binding"
    """Folder of report.json and successes-and-failures.png."""
    reader: str | None = None
    """Folder of the network that reads the pictures; by default the one that comes with the package."""
    batch_size: int = 32
    """Pictures drawn at once."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', … ; by default the fastest there is."""
    guidance_scale: float | None = None
    """How closely to follow the prompt; by default the pipeline's own, as for the three below."""
    top_k: int | None = None
    temperature: float | None = None
    num_candidates: int | None = None
    """Draw so many for each picture and keep the one that the prompt explains best."""


def main(args: Sequence[str]) -> None:
    """Run the metric that `args` name; raises UsageError for arguments that name none."""
    args = list(args)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return
    check_choice("metric", args[0], METRICS)
    METRICS[args[0]](args[1:])


def binding(args: Sequence[str]) -> None:
    """Are the right things, with the right attributes, in the right places? On toybox, exactly."""
    ask = parse(Binding(), args, prog="t2i eval binding", description=binding.__doc__)
    for name, least in (("num", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(ask, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(ask, name)}")
    out = Path(ask.out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {ask.out} is a file; give a folder")

    from t2i.eval import binding as metric
    from t2i.pipelines.auto import open_pipeline  # not before: torch takes seconds to import, --help should not

    reader = metric.load_reader(ask.reader)  # before the pipeline, which takes longer to open
    pipe = open_pipeline(ask.pipeline, ask.device)
    pipe.set_progress_bar_config(disable=True)  # the evaluation has one over all pictures
    out.mkdir(parents=True, exist_ok=True)  # fails now rather than after all the drawing
    options = {name: getattr(ask, name) for name in metric.OPTIONS}
    evaluation = metric.evaluate(
        pipe, reader.to(pipe.device), ask.num, ask.seed, ask.batch_size, name=ask.pipeline, **options
    )
    metric.write(evaluation, out)
    print(metric.table(evaluation.report))
    print(f"{out}: report.json and successes-and-failures.png")


METRICS = {"binding": binding}


def _overview() -> str:
    lines = ["usage: t2i eval METRIC [options]; t2i eval METRIC --help lists them", ""]
    return "\n".join(lines + [f"  {name:10} {metric.__doc__.splitlines()[0]}" for name, metric in METRICS.items()])
