"""One run at a time in a folder: the process that trains in it is named in the folder's `.lock`.

The lock of a process that has ended is taken over. A process is identified by its number and its time of creation.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import psutil

from t2i.files import alone

LOCK = ".lock"


class RunLock:
    """The lock of a run's folder. `take` raises FileExistsError, naming the process that trains there."""

    def __init__(self, run: Path):
        self.path = run / LOCK
        self._own = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}

    def take(self) -> None:
        with alone(self.path) as file:
            if (holder := _holder(file.read())) and self._lives(holder):
                elsewhere = holder["host"] != self._own["host"]
                unless = f"; if it no longer runs, remove {self.path}" if elsewhere else ""
                raise FileExistsError(
                    f"{self.path.parent} is being trained by process {holder['pid']} on {holder['host']}: wait for it "
                    f"or stop it, or choose another --output-dir{unless}"
                )
            file.seek(0)
            file.truncate()
            file.write(json.dumps(self._own) + "\n")

    def release(self) -> None:
        """Remove the lock, if it is still this process's."""
        with contextlib.suppress(OSError):
            if _holder(self.path.read_text()) == self._own:
                self.path.unlink()

    def _lives(self, holder: dict) -> bool:
        if holder["host"] != self._own["host"]:
            return True  # as far as this host can tell
        try:
            return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 2
        except psutil.Error:
            return False


def _holder(text: str) -> dict | None:
    """The process that a lock names; None for a lock that was cut short."""
    try:
        holder = json.loads(text)
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "started": float(holder["started"])}
    except (ValueError, TypeError, KeyError):
        return None
