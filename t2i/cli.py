"""The `t2i` command: one word to each of the package's commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from t2i.cli_errors import check_choice, exit_on_bad_input

COMMANDS = {  # name: (module with main(args), what it does)
    "generate": ("t2i.pipelines.cli", "pictures of prompts"),
    "data": ("t2i.data.toybox.cli", "write toybox to disk"),
    "train": ("t2i.training.cli", "train a stage: t2i train lists the recipes"),
    "eval": ("t2i.eval.cli", "score a pipeline"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names; bad input ends in one line and a non-zero exit."""
    args = list(sys.argv[1:] if args is None else args)
    with exit_on_bad_input():
        if not args or args[0] in ("-h", "--help"):
            print(_usage())
        elif args[0] == "--version":
            from t2i import __version__

            print(f"t2i {__version__}")
        else:
            check_choice("command", args[0], COMMANDS)
            import_module(COMMANDS[args[0]][0]).main(args[1:])


def _usage() -> str:
    lines = ["usage: t2i COMMAND [options]; t2i COMMAND --help lists them", ""]
    return "\n".join(lines + [f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()])


if __name__ == "__main__":
    main()
