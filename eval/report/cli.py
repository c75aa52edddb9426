"""`t2i report COMMAND …`, equivalent to `accelerate launch -m t2i.eval.report COMMAND …`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from t2i.arguments import parse
from t2i.checks import UsageError, check_choice, check_distinct, check_seeds, check_whole
from t2i.devices import PipelineDtype
from t2i.eval.config import SweepConfig
from t2i.files import check_folder, check_writable, read_json


@dataclass(frozen=True)
class DiffConfig:
    """Options of `t2i report diff`."""

    reports: Annotated[Positional[tuple[str, ...]], arg(metavar="OLD NEW")] = ()
    """The old report.json and the new one."""


@dataclass(frozen=True)
class HumanConfig:
    """Options of `t2i report human`. Raises UsageError for values out of range, and for answers without a key."""

    systems: tuple[str, ...] = ()
    """Systems to compare, at least two: embedded systems, folders or models on the Hub."""
    prompts: str = "lecture-v1"
    """Prompts to generate from, as for `t2i eval`."""
    num_prompts: int = 20
    """Number of prompts; for toybox, per category."""
    seed: int = 0
    """Seed for the prompts, the images and the order of the questions."""
    out: str = "reports/human"
    """Output folder for human.html and key.json, or with --answers for the report."""
    device: str = "auto"
    """Device, such as cpu, cuda or mps; auto: the fastest available."""
    dtype: PipelineDtype = "float32"
    """Precision of the pipelines."""
    answers: tuple[str, ...] = ()
    """Answer files returned by raters, to evaluate instead of generating a page from --systems."""
    key: str | None = None
    """Path of the key.json written with the page; required with --answers."""

    def __post_init__(self) -> None:
        check_whole("--num-prompts", self.num_prompts)
        check_seeds("--seed", self.seed)
        check_folder(self.out)
        check_distinct("--systems", self.systems)
        check_distinct("--answers", self.answers, "each counts once")
        if self.answers and self.key is None:
            raise UsageError("--answers need --key key.json, which was written with the page")


@dataclass(frozen=True)
class StatisticsConfig:
    """Options of `t2i report statistics`."""

    images: Annotated[Positional[str], arg(metavar="FOLDER")] = ""
    """Folder of reference images."""
    out: str = "reference.npz"
    """Output file, for `t2i eval --reference`."""
    extractor: str = "inception"
    """Feature extractor, as for `t2i eval`."""
    source: str = ""
    """Description of the images; default: the folder's name."""
    keep_features: bool = False
    """Also store the features, which are needed for KID, precision and recall."""
    batch_size: int = 32
    """Images per batch."""
    allow_mixed: bool = False
    """Accept folders with several image formats."""
    device: str = "auto"
    """Device, such as cpu, cuda or mps; auto: the fastest available."""


def main(args: Sequence[str]) -> None:
    """Run the command named in `args`; raises UsageError if there is none."""
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return
    check_choice("command", args[0], COMMANDS)
    COMMANDS[args[0]](args[1:])


def diff(args: Sequence[str]) -> None:
    """Compare two reports score by score: differences, and whether the confidence intervals overlap."""
    config = parse(DiffConfig(), args, prog="t2i report diff", description=diff.__doc__)
    if len(config.reports) != 2:
        raise UsageError(
            f"give two files, as in: t2i report diff old/report.json new/report.json; not {len(config.reports)}"
        )
    from t2i.eval.report import diff as comparison

    reports = [read_json(path) for path in config.reports]
    for path, report in zip(config.reports, reports, strict=True):
        try:
            comparison.scores(report)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    print(comparison.table(comparison.diff(*reports)))


def human(args: Sequence[str]) -> None:
    """Make a page on which people choose between the images of two systems, or evaluate their answers."""
    config = parse(HumanConfig(), args, prog="t2i report human", description=human.__doc__)
    if not config.answers and len(config.systems) < 2:
        raise UsageError("give two systems with --systems A B, or the raters' files with --answers and --key")
    from t2i.eval.report import commands

    if config.answers:
        commands.tally(config.answers, config.key, Path(config.out))
    else:
        commands.make_human_page(config)


def sweep(args: Sequence[str]) -> None:
    """Plot compositional accuracy and Fréchet distance against a sampling option, such as the guidance scale."""
    config = parse(SweepConfig(), args, prog="t2i report sweep", description=sweep.__doc__)
    if len(config.targets) != 1:
        raise UsageError("give one target, as in: t2i report sweep toybox/dalle --over guidance_scale --values 1 3 5")
    check_distinct("--values", config.values)
    if len(config.values) < 2:
        raise UsageError("give two different --values or more, as in: --over guidance_scale --values 1 3 5")
    from t2i.eval.report import commands

    commands.sweep(config)


def statistics(args: Sequence[str]) -> None:
    """Compute the feature statistics of a folder of reference images, for `t2i eval --reference`."""
    config = parse(StatisticsConfig(), args, prog="t2i report statistics", description=statistics.__doc__)
    if not config.images or not config.out.endswith(".npz"):
        raise UsageError("give a folder and a file, as in: t2i report statistics photos --out photos.npz")
    check_writable(config.out, Path(config.out).parent)
    from t2i.eval.report import commands

    commands.statistics(config)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "diff": diff,
    "human": human,
    "sweep": sweep,
    "statistics": statistics,
}


def _overview() -> str:
    lines = ["usage: t2i report COMMAND [options]; t2i report COMMAND --help lists them", ""]
    return "\n".join(lines + [f"  {name:11} {command.__doc__}" for name, command in COMMANDS.items()])
