"""Text tables."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A heading and rows in aligned columns, one line per row, never wrapped or truncated.

    The heading is bold if standard output is a terminal, unless NO_COLOR is set.

    Args:
        rows: rows, each as long as `head`.
        right: indices of the right-aligned columns.
    """
    from rich.console import Console  # slow to import, and --help does not need it
    from rich.table import Table

    terminal = sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(
        file=io.StringIO(), width=100_000, force_terminal=terminal, markup=False, emoji=False, highlight=False
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
