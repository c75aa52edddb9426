"""Signatures of calls that pass their options on to another call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)


def takes_options_of(call: Callable, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Decorate a function with **options: its signature, for help() and inspection, names those of `call`.

    Args:
        without: options that the function does not pass on.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        passed_on = [p for n, p in inspect.signature(call).parameters.items() if n not in (*own.parameters, *without)]
        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in passed_on]
        function.__signature__ = own.replace(parameters=[*named, *options])  # pyright: ignore
        return function

    return decorate
