"""Ctrl-C and SIGTERM: finish the step, save a checkpoint and stop, on all processes together."""

from __future__ import annotations

import signal
import threading
import time

import torch
from accelerate import Accelerator

FORWARDED = 1.0  # seconds within which a launcher may forward a signal that the terminal already sent to all processes


class StopRequest:
    """Context manager under which Ctrl-C or SIGTERM requests a stop after the step; a second Ctrl-C stops at once.

    Further SIGTERMs have no effect: schedulers and `accelerate launch` send several.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._requested: float | None = None  # time of the request
        self._before: dict = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            self._before = {s: signal.signal(s, self._request) for s in self.SIGNALS}
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame) -> None:
        now = time.monotonic()
        if self._requested is not None and number == signal.SIGINT and now - self._requested > FORWARDED:
            raise KeyboardInterrupt
        if self._requested is None:
            self._requested = now

    def requested(self, accelerator: Accelerator, finished: bool = False) -> bool:
        """Whether a stop was requested on any process, or any has `finished`; the same result on all of them."""
        stop = self._requested is not None or finished
        if accelerator.num_processes == 1:
            return stop
        flag = torch.tensor(float(stop), device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum") > 0)


def ignore_stop_signals(worker: int) -> None:
    """For data workers: the loop handles signals, needs the workers for its last step, and ends them afterwards."""
    for number in StopRequest.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
