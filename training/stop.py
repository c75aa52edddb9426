"""Ctrl-C and SIGTERM: finish the step, save, and stop, on all processes together."""

from __future__ import annotations

import signal
import threading

import torch
from accelerate import Accelerator


class StopRequest:
    """A context in which the first Ctrl-C (or SIGTERM) asks for a stop, and the second stops at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._asked = False
        self._before: dict = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {s: signal.signal(s, self._ask) for s in self.SIGNALS}
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def requested(self, accelerator: Accelerator, finished: bool = False) -> bool:
        """Whether any process was asked to stop, or has `finished`; the same answer on all of them."""
        asked = self._asked or finished
        if accelerator.num_processes == 1:
            return asked
        flag = torch.tensor(float(asked), device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum") > 0)
