"""Parsing of command-line options into dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar, get_type_hints

import docstring_parser
import tyro
from tyro.conf import Fixed, SuppressFixed

from t2i.checks import UsageError, nearest, shortened

T = TypeVar("T")
Hidden = SuppressFixed[Fixed[T]]  # a field of a dataclass that is no option
LONGEST = 400  # maximum length of an error message, in characters


def parse(default: T, args: Sequence[str], prog: str, description: str = "") -> T:
    """Override the fields of a dataclass with `--field-name value`; fields of nested dataclasses have no prefix.

    Raises a one-line UsageError where tyro would print a box and exit, and for an option that is given twice although
    only the last value would count; --help prints and exits as usual.
    """
    stderr = io.StringIO()
    _check_repeated(default, args)
    if {"-h", "--help"} & set(args):
        _join_help_lines(default)
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(
                type(default),
                default=default,
                args=list(args),
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        text = _usage_error(stderr.getvalue(), default, args, prog)
        raise UsageError(text if len(text) <= LONGEST else text[:LONGEST] + "…") from None


def _join_help_lines(default: object) -> None:
    """Join the lines of attribute docstrings, which tyro would break where the source does.

    They are appended to the class docstrings, which take precedence and whose lines tyro joins.
    """
    for config in (c for c in type(default).__mro__ if dataclasses.is_dataclass(c)):
        if "\n\nArgs:" in (config.__doc__ or ""):
            continue  # they are there already
        helps = {p.arg_name: p.description for p in docstring_parser.parse_from_object(config).params if p.description}
        arguments = "".join(f"\n    {name}: {' '.join(text.split())}" for name, text in helps.items())
        config.__doc__ = f"{inspect.getdoc(config)}\n\nArgs:{arguments}"
    for part in vars(default).values():
        if dataclasses.is_dataclass(part):
            _join_help_lines(part)


def as_option(message: str, default: object) -> str:
    """Replace the field name (of the dataclass `default` or one in it) that begins a message by the option's name."""
    field, _, rest = message.partition(" ")
    flag = f"--{field.replace('_', '-')}"
    return f"{flag} {rest}" if flag in _options(default) else message


def _given(args: Sequence[str]) -> list[str]:
    """The options among arguments, as `--field-name`, up to a lone --."""
    end = list(args).index("--") if "--" in args else len(args)
    return [arg.split("=")[0].replace("_", "-") for arg in args[:end] if re.match(r"--[A-Za-z]", arg)]


def _options(default: object) -> dict[str, str | None]:
    """{spelling of an option: its name, or None if it may be repeated} for a dataclass and the dataclasses in it."""
    found: dict[str, str | None] = {}
    hints = get_type_hints(type(default), include_extras=True)
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            found |= _options(value)
            continue
        marks = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Positional in marks:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        negated = [f"--no-{flag[2:]}"] if isinstance(value, bool) else []
        found |= dict.fromkeys([flag, *aliases, *negated], None if tyro.conf.UseAppendAction in marks else flag)
    return found


def _check_repeated(default: object, args: Sequence[str]) -> None:
    names = _options(default)
    for flag, times in Counter(names.get(flag) for flag in _given(args)).items():
        if flag is not None and times > 1:
            raise UsageError(f"{flag} is given {times} times, and only one of them could count: give it once")


def _usage_error(box: str, default: object, args: Sequence[str], prog: str) -> str:
    """Convert a tyro error box (title, error and further help, separated by rules) to one line."""
    options = list(_options(default))
    if unknown := [flag for flag in _given(args) if flag not in options]:
        near = nearest(unknown[0], options, cutoff=0.6)
        hint = f"did you mean {near}? " if near else ""
        return f"unknown option {unknown[0]}: {hint}{prog} --help lists the options"
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    parts = [" ".join(re.sub(r"[│╭╮╰╯─|+]+ ?", " ", part).split()) for part in re.split(r"[-─]{5,}", text)]
    parts = [part for part in parts if part]
    message = re.sub(r"^Error parsing [A-Za-z][\w.]*: ", "", parts[1] if len(parts) > 1 else " ".join(parts))
    if (named := as_option(message, default)) != message:
        return named
    if extra := re.match(r"Unrecognized options: (.*)", message):
        word = extra[1].split(", ")[0]
        quotes = "" if word.startswith("-") else "; a prompt of several words needs quotes"
        return f"unexpected argument {shortened(word)}{quotes}; {prog} --help lists the options"
    flag = re.search(r"Error parsing (\S+):", message)
    if flag and (number := re.search(r"(invalid literal for int|could not convert string to float).*?'(.*)", message)):
        kind = "a whole number" if number[1].startswith("invalid") else "a number"
        return f"{flag[1]} must be {kind}, not {shortened(number[2].removesuffix(chr(39)))}"
    if flag and "integer string conversion" in message:
        return f"{flag[1]} must be a whole number of fewer digits"
    if choice := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", message):
        known = [name.strip(" '") for name in choice[3].split(",") if name.strip(" '") not in ("", "None")]
        near = nearest(choice[1], known)
        return f"{choice[2]} {choice[1]!r}: {f'did you mean {near}? ' if near else ''}there are {', '.join(known)}"
    return message
