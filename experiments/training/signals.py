"""Stopping cleanly when asked to: SIGTERM and Ctrl-C become a flag that the loop looks at."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTICE = b"\nstopping at the next checkpoint; Ctrl-C once more quits at once\n"


@dataclass
class Stop:
    """Whether the process was asked to stop, and by which signal."""

    signum: int | None = None

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self.signum is not None

    @property
    def exit_status(self) -> int:
        """What the process should exit with: 128 + signal number, 0 if none has come."""
        return 128 + self.signum if self.signum is not None else 0


@contextlib.contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into the flag `.requested` within the block.

    The first signal says on stderr what will happen. A Ctrl-C after it goes to the handler from
    before, which ends a command and else raises KeyboardInterrupt; further SIGTERMs change nothing.
    On leaving, the handlers from before are back. Outside of the main thread, where Python cannot
    handle signals, the flag just stays False.

    Example:
        >>> with graceful_stop() as stop:
        ...     stop.requested, stop.exit_status
        (False, 0)
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        if not stop.requested:
            stop.signum = signum
            # print() may not be called again from a handler that interrupted it.
            with contextlib.suppress(OSError):
                os.write(2, _NOTICE)
        elif signum == signal.SIGINT:
            if callable(earlier := before.get(signum)):
                earlier(signum, frame)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    for each in _SIGNALS:
        before[each] = signal.getsignal(each)
        signal.signal(each, handle)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            # None stands for a handler that was not set from Python and cannot be put back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
