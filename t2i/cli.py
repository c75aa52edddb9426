"""The `t2i` command: one word to each of the package's commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from t2i.checks import check_choice
from t2i.cli_errors import exit_on_bad_input
from t2i.threads import configure_threads, take_threads_option

COMMANDS = {  # name: (module:function of its arguments, what it does)
    "generate": ("t2i.pipelines.commands.generate:main", "pictures of prompts"),
    "edit": ("t2i.pipelines.commands.edit:edit", "a picture made more like a prompt, or variations of it"),
    "inpaint": ("t2i.pipelines.commands.edit:inpaint", "a part of a picture made anew"),
    "interpolate": ("t2i.pipelines.commands.edit:interpolate", "pictures from one prompt or seed to another"),
    "upscale": ("t2i.pipelines.commands.conditioned:upscale", "a small picture made larger"),
    "layout": ("t2i.pipelines.commands.conditioned:layout", "pictures from a map of what is where"),
    "sample": ("t2i.pipelines.commands.sample:main", "pictures of an unconditional model"),
    "data": ("t2i.data.toybox.cli:main", "write toybox to disk"),
    "train": ("t2i.training.cli:main", "train a stage: t2i train lists the recipes"),
    "eval": ("t2i.eval.cli:main", "score a pipeline"),
    "report": ("t2i.eval.report.cli:main", "compare reports, plot scores against an option, ask people"),
    "compare": ("t2i.training.benchmark.compare:main", "train every unconditional model for the same time"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names; bad input ends in one line and a non-zero exit."""
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
            if not {"-h", "--help"} & set(args):
                configure_threads(args[0], threads)
            resolve_name(COMMANDS[args[0]][0])(args[1:])


def _usage() -> str:
    lines = ["usage: t2i COMMAND [options]; t2i COMMAND --help lists them", ""]
    lines += [f"  {name:11} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "  --threads N, with any command: CPU threads; by default one for each core"])


if __name__ == "__main__":
    main()
