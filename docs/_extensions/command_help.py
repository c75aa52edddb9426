"""Sphinx extension: the directive `command-help`, the help of every `t2i` command, or of every recipe."""

from __future__ import annotations

import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from t2i.cli import COMMANDS, help_of
from t2i.training.recipes import RECIPES


class CommandHelp(SphinxDirective):
    """`command-help:: commands` or `command-help:: recipes`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}  # of the terminal that the help is laid out for
        of_recipes = self.arguments[0] == "recipes"
        names = [("train", name) for name in RECIPES] if of_recipes else [tuple(name.split()) for name in COMMANDS]
        return [self._section(name) for name in names]

    def _section(self, command: tuple[str, ...]) -> nodes.section:
        title = " ".join(("t2i", *command))
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        section += nodes.title(title, title)
        section += nodes.literal_block(text=help_of(*command), language="text")
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
