"""`t2i completion bash|zsh`: a script that completes commands, recipes and options in a shell.

The options are those that `--help` prints now, so the script holds no code that runs t2i on every tab.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from t2i.arguments import parse

SCRIPT = """\
_t2i() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    case "$COMP_CWORD:$word" in
        1:*) words="{commands}" ;;
        *:-*) case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{options}
            esac ;;
        2:*) case "${{COMP_WORDS[1]}}" in
{second}
            esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _t2i t2i"""
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


@dataclass(frozen=True)
class CompletionConfig:
    """Options of `t2i completion`."""

    shell: Positional[Literal["bash", "zsh"]] = "bash"
    """Shell that the script is for."""


def main(args: Sequence[str]) -> None:
    """Print a script that completes commands, recipes and options in a shell."""
    config = parse(CompletionConfig(), args, prog="t2i completion", description=main.__doc__ or "")
    print((ZSH if config.shell == "zsh" else "") + script())


def script() -> str:
    """The function for bash, and for zsh's emulation of it. Takes seconds, since all commands print their help."""
    from t2i.cli import COMMANDS

    second = second_words()
    options = []
    for command in dict.fromkeys(name.split()[0] for name in COMMANDS):
        options += [f'"{command} {word}") words="{_options(command, word)}"' for word in second.get(command, ())]
        options.append(f'"{command} "*) words="{_options(command)}"')
    return SCRIPT.format(
        commands=" ".join(dict.fromkeys(name.split()[0] for name in COMMANDS)),
        options=_lines(options),
        second=_lines(f'{command}) words="{" ".join(words)}"' for command, words in second.items()),
    )


def second_words() -> dict[str, tuple[str, ...]]:
    """The words that can follow a command, where they are no options or names of files."""
    from t2i.data.cli import KINDS
    from t2i.eval.report.cli import COMMANDS as REPORTS
    from t2i.listing import SECTIONS
    from t2i.training.recipes import RECIPES

    words = {
        "train": RECIPES,
        "report": REPORTS,
        "data": (*KINDS, "filter"),
        "list": SECTIONS,
        "completion": ("bash", "zsh"),
    }
    return {command: tuple(of) for command, of in words.items()} | {"eval": ("tokenizers",)}


def _options(*command: str) -> str:
    from t2i.cli import help_of

    return " ".join(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_of(*command))))


def _lines(cases: Sequence[str] | Iterator[str]) -> str:
    return "\n".join(f"            {case} ;;" for case in cases)
