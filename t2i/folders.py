"""What a name that a user gives may stand for: a folder here, the newest checkpoint of a run, or a model of the Hub."""

from __future__ import annotations

import re
from pathlib import Path

LOCAL = ("checkpoints", "data", "docs", "models", "out", "outputs", "reports", "runs", "shared", "toybox", "weights")


def newest_in_run(folder: str | Path, file: str) -> Path:
    """`folder` itself where it holds `file`; else the newest checkpoint in it that does; else `folder` as it is.

    So the folder of a run stands for its newest checkpoint, also where links are not possible and `latest` is missing.
    """
    folder = Path(folder)
    if (folder / file).is_file() or not folder.is_dir():
        return folder
    checkpoints = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    newest_first = sorted(checkpoints, key=lambda p: int(p.name.split("-")[1]), reverse=True)
    return next((p for p in (folder / "latest", *newest_first) if (p / file).is_file()), folder)


def may_be_on_hub(name: str, bare: bool = False) -> bool:
    """Whether the Hub is worth asking for `name`: not for what exists here, nor for a mistyped path.

    Ids of the Hub are OWNER/NAME; the oldest models' have no owner, and count where `bare` is true. A name is taken for
    a path where its parent folder exists here, or is one that runs, data and reports are usually written to.
    """
    path = Path(name)
    if path.exists() or name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/"):
        return False
    owner, _, rest = name.partition("/")
    if not rest:
        return bare and bool(re.fullmatch(r"[\w.-]+", name)) and owner not in LOCAL
    return "/" not in rest and owner not in LOCAL and not Path(owner).is_dir()
