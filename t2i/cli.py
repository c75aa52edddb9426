"""The `t2i` command, which dispatches to the package's commands."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from t2i.checks import check_choice
from t2i.cli_errors import exit_on_bad_input
from t2i.threads import configure_threads, take_threads_option

COMMANDS = {  # name: (module:function that takes the arguments, description)
    "generate": ("t2i.pipelines.commands.generate:main", "generate images from prompts"),
    "edit": ("t2i.pipelines.commands.edit:edit", "change an image towards a prompt, or generate variations of it"),
    "inpaint": ("t2i.pipelines.commands.edit:inpaint", "repaint the masked part of an image"),
    "interpolate": ("t2i.pipelines.commands.edit:interpolate", "interpolate between two prompts, seeds or images"),
    "variations": ("t2i.pipelines.commands.unclip:variations", "generate variations of an image from its embedding"),
    "text-diff": ("t2i.pipelines.commands.unclip:text_diff", "change an image as one text differs from another"),
    "reconstruct": ("t2i.pipelines.commands.unclip:reconstruct", "decode principal components of an image's embedding"),
    "upscale": ("t2i.pipelines.commands.conditioned:upscale", "upscale a low-resolution image"),
    "layout": ("t2i.pipelines.commands.conditioned:layout", "generate images from a label map"),
    "complete": ("t2i.pipelines.commands.autoregressive:complete", "keep the top of an image and generate the rest"),
    "create": ("t2i.pipelines.commands.autoregressive:create", "generate captions and an image of each, from nothing"),
    "sample": ("t2i.pipelines.commands.sample:main", "generate images from an unconditional model"),
    "serve": ("t2i.pipelines.commands.serve:main", "generate images for HTTP requests, as OpenAI's images endpoint"),
    "data": ("t2i.data.cli:main", "write a data set to a folder: render toybox, or write shards of any data"),
    "data filter": (
        "t2i.pipelines.commands.filter_data:main",
        "score images by their captions with CLIP, and write those that reach a minimum to shards",
    ),
    "convert": ("t2i.tokenizers.convert:main", "convert a published image tokenizer to a folder that t2i opens"),
    "train": ("t2i.training.cli:main", "train or fine-tune a model: t2i train lists the recipes"),
    "eval": ("t2i.eval.cli:main", "evaluate a pipeline or a folder of images: t2i eval lists the metrics"),
    "report": ("t2i.eval.report.cli:main", "compare reports, plot scores against an option, collect human ratings"),
    "list": ("t2i.listing:main", "list embedded weights, recipes, schedulers, prompt suites, metrics, extractors"),
    "completion": ("t2i.completion:main", "print a script that completes commands and options in bash or zsh"),
    "compare": (
        "t2i.training.benchmark.compare:main",
        "train all unconditional models for the same time and compare them",
    ),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument; bad input ends with one line and a non-zero exit status."""
    args = list(sys.argv[1:] if args is None else args)
    with exit_on_bad_input(args):
        if not args or args[0] in ("-h", "--help"):
            print(_usage())
        elif args[0] == "--version":
            from t2i import __version__

            print(f"t2i {__version__}")
        else:
            check_choice("command", args[0], COMMANDS)
            args, threads = take_threads_option(args)
            name = " ".join(args[:2]) if " ".join(args[:2]) in COMMANDS else args[0]
            if not {"-h", "--help"} & set(args):
                configure_threads(name, threads)
            resolve_name(COMMANDS[name][0])(args[len(name.split()) :])


def help_of(*command: str) -> str:
    """What `t2i COMMAND --help` prints. Raises SystemExit for a command that does not exist."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main([*command, "--help"])
        except SystemExit as end:
            if end.code:
                raise
    return printed.getvalue().strip()


def _usage() -> str:
    lines = ["usage: t2i COMMAND [options]; t2i COMMAND --help lists them", ""]
    lines += [f"  {name:11} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "  --threads N, with any command: number of CPU threads; default: one per core"])


if __name__ == "__main__":
    main()
