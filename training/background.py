"""Work that a thread does while training goes on, such as writing a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Does pieces of work one after another: in a thread, or, if not `asynchronous`, at once in the caller's.

    The thread ends with the process, at whatever point: work must survive that, as it must survive a kill.
    """

    def __init__(self, asynchronous: bool = False):
        self.asynchronous = asynchronous
        self._last: threading.Thread | None = None  # of the newest piece; it begins by waiting for the one before
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether a piece of work has failed in the thread."""
        return self._error is not None

    @property
    def busy(self) -> bool:
        """Whether work is in progress."""
        return self._last is not None and self._last.is_alive()

    def do(self, work: Callable[[], object]) -> None:
        """Do `work` after all earlier work; an error in the thread is kept for `wait`, and other errors are raised."""
        if not self.asynchronous:
            work()
            return
        self._last = threading.Thread(target=self._run, args=(work, self._last), daemon=True)
        self._last.start()

    def _run(self, work: Callable[[], object], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            work()
        except Exception as error:
            self._error = self._error or error

    def join(self) -> None:
        """Wait until all work is done or has failed."""
        if self._last is not None:
            self._last.join()

    def wait(self) -> None:
        """Wait until all work is done. Raises the first error in the thread, and again at each later call."""
        self.join()
        if self._error is not None:
            raise self._error
