"""Prevents two runs in one folder: the folder's `.lock` identifies the process that is training in it.

The lock of a process that has ended is taken over. A process is identified by its PID and creation time.
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
    """Lock on a run's folder. `take` raises FileExistsError, naming the process that is training there."""

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
        """Remove the lock if this process still holds it."""
        with contextlib.suppress(OSError):
            if _holder(self.path.read_text()) == self._own:
                self.path.unlink()

    def _lives(self, holder: dict) -> bool:
        if holder["host"] != self._own["host"]:
            return True  # cannot be checked from this host
        try:
            return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 2
        except psutil.Error:
            return False


def _holder(text: str) -> dict | None:
    """The process that a lock names; None for a truncated lock."""
    try:
        holder = json.loads(text)
        return {"host": str(holder["host"]), "pid": int(holder["pid"]), "started": float(holder["started"])}
    except (ValueError, TypeError, KeyError):
        return None
