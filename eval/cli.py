"""`t2i eval TARGET`, equivalent to `python -m t2i.eval TARGET` and `accelerate launch -m t2i.eval TARGET`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise

from t2i.arguments import parse
from t2i.checks import UsageError
from t2i.eval.config import EvalConfig, TokenizersConfig
from t2i.eval.evaluators import EVALUATORS

# The earlier syntax was `t2i eval METRIC --pipeline TARGET`: the present options for each METRIC, and names of options.
_UNCHANGED = ("fid", "kid", "likelihood", "reconstruction", "memorization", "bias", "lecture")
_EARLIER_METRICS = {name: ["--metrics", name] for name in _UNCHANGED} | {
    "all": [],
    "binding": ["--metrics", "compositional", "--prompts", "basic"],
    "composition": ["--metrics", "compositional"],
    "clip": ["--metrics", "clip_score"],
}
_EARLIER_OPTIONS = {
    "--num": "--num-images",
    "--training": "--training-data",
    "--training-num": "--num-training-images",
    "--reader": "--classifier",
}
_EARLIER_VALUES = {
    ("--extractor", "reader"): "toybox-v1",
    ("--reference", "toybox"): "renders",
    ("--prompts", "toybox"): "toybox-v1",
    ("--prompts", "lecture"): "lecture-v1",
    ("--training-data", "toybox"): "toybox-v1",
}


def main(args: Sequence[str]) -> None:
    """Evaluate the targets given in `args`; raises UsageError for bad arguments."""
    args = _in_present_syntax(list(args))
    if not args:
        print(f"usage: t2i eval TARGET [--metrics METRIC …] [options]; t2i eval --help lists them\n\n{_metrics()}\n")
        print("       t2i eval tokenizers TOKENIZER … [options]: compares image tokenizers")
        return
    if args[0] == "tokenizers":
        tokenizers(args[1:])
        return
    about = "Evaluate a pipeline, a folder of images or an unconditional model; image tokenizers: t2i eval tokenizers."
    about = f"{about}\n\nmetrics:\n{_metrics()}"
    config = parse(EvalConfig(), args, prog="t2i eval", description=about)
    if not config.targets:
        raise UsageError("give a target to evaluate, as in: t2i eval toybox/dalle --metrics compositional fid")
    config.check_reranker()
    from t2i.eval.evaluate import evaluate  # deferred: importing torch takes seconds, and --help should not
    from t2i.eval.tokenizers.opened import is_tokenizer

    for target in config.targets:
        if is_tokenizer(target):
            raise UsageError(f"{target} holds an image tokenizer: t2i eval tokenizers {shlex.quote(target)}")
    evaluate(config)


def tokenizers(args: Sequence[str]) -> None:
    """Compare image tokenizers on real images: reconstruction error, perceptual and Fréchet distances, a two-sample
    test, classifier accuracy through the tokenizer, use of codes, bits per image, and speed.
    """
    config = parse(TokenizersConfig(), args, prog="t2i eval tokenizers", description=tokenizers.__doc__ or "")
    if not config.targets:
        raise UsageError("give tokenizers to evaluate, as in: t2i eval tokenizers toybox/dalle toybox/ldm")
    from t2i.eval.tokenizers.evaluate import evaluate

    evaluate(config)


def _in_present_syntax(args: list[str]) -> list[str]:
    """The arguments in the present syntax, with a note if they were in the earlier one."""
    if not args or args[0] not in _EARLIER_METRICS or "--pipeline" not in args[1:-1]:
        return args
    metric, *rest = args
    at = rest.index("--pipeline")
    options = [_EARLIER_OPTIONS.get(word, word) for word in rest[:at] + rest[at + 2 :]]
    options = [_EARLIER_VALUES.get(pair, pair[1]) for pair in pairwise(["", *options])]
    if metric == "binding":  # its --num was per category, of which there are four
        options = [str(4 * int(x)) if of == "--num-images" and x.isdigit() else x for of, x in pairwise(["", *options])]
    present = [rest[at + 1], *_EARLIER_METRICS[metric], *options]
    print(f"note: the command is now: t2i eval {shlex.join(present)}", file=sys.stderr)
    return present


def _metrics() -> str:
    return "\n".join(f"  {name:14} {about}" for name, (about, _) in EVALUATORS.items())
