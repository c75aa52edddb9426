"""Signatures of calls that hand their options on to another call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)


def takes_options_of(call: Callable, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Decorate a function with **options: its signature, which help() shows and callers ask, names those of `call`.

    Args:
        without: options that the function does not hand on.
    """

    def named(function: F) -> F:
        own = inspect.signature(function)
        mine = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        handed_on = [p for n, p in inspect.signature(call).parameters.items() if n not in (*own.parameters, *without)]
        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in handed_on]
        function.__signature__ = own.replace(parameters=[*mine, *options])  # pyright: ignore
        return function

    return named
