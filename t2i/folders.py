"""Resolution of names given by a user: a local folder, the newest checkpoint of a run, or a model on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

LOCAL = ("checkpoints", "data", "docs", "models", "out", "outputs", "reports", "runs", "shared", "toybox", "weights")


EMBEDDED = Path(__file__).parent / "pipelines" / "weights"  # by name: toybox/dalle, toybox/vqgan


def user_cache() -> Path:
    """The folder for what is computed once for a user's data: `$XDG_CACHE_HOME/t2i`, by default ~/.cache/t2i.

    Where several machines train together, all must see it.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2i"


def embedded_folder(name: str | Path) -> Path:
    """The folder of embedded weights by their name, such as "toybox/vqgan", or else the path `name`."""
    is_name = re.fullmatch(r"[\w-]+/[\w-]+", str(name)) and (EMBEDDED / name).is_dir()
    return EMBEDDED / name if is_name else Path(name)


def newest_in_run(folder: str | Path, file: str) -> Path:
    """`folder` itself if it contains `file`, else the newest checkpoint in it that does, else `folder`.

    So a run's folder stands for its newest checkpoint, even if `latest` is missing where links are not supported. A
    name of embedded weights stands for their folder.
    """
    folder = embedded_folder(folder)
    if (folder / file).is_file() or not folder.is_dir():
        return folder
    checkpoints = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    newest_first = sorted(checkpoints, key=lambda p: int(p.name.split("-")[1]), reverse=True)
    return next((p for p in (folder / "latest", *newest_first) if (p / file).is_file()), folder)


def may_be_on_hub(name: str, bare: bool = False) -> bool:
    """Whether `name` may be an id on the Hub, and not a local or mistyped path.

    Hub ids are OWNER/NAME; those of the oldest models have no owner, and are accepted if `bare`. A name counts as a
    path if its parent folder exists, or is one that runs, data and reports are usually written to.
    """
    path = Path(name)
    if path.exists() or name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/"):
        return False
    owner, _, rest = name.partition("/")
    if not rest:
        return bare and bool(re.fullmatch(r"[\w.-]+", name)) and owner not in LOCAL
    return "/" not in rest and owner not in LOCAL and not Path(owner).is_dir()
