"""Stopping cleanly: SIGTERM, Ctrl-C and a deadline become a flag that the loop looks at."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTICE = b"\nsaving and stopping after the current steps; a second Ctrl-C quits at once\n"
TIME_IS_UP = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


@dataclass
class Stop:
    """Whether the process is to stop, and why.

    Attributes:
      signum: number of the signal that asked for it, or None.
      deadline: time by `time.monotonic()` at which it is to stop in any case; None for never.
    """

    signum: int | None = None
    deadline: float | None = None

    @property
    def requested(self) -> bool:
        """True once a signal has come or the deadline has passed."""
        return self.signum is not None or self.time_is_up

    @property
    def time_is_up(self) -> bool:
        """True once the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def exit_status(self) -> int:
        """What the process should exit with: 128 + signal number, 75 if time is up, 0 for neither.

        Example:
          >>> Stop().exit_status, Stop(signal.SIGTERM).exit_status, Stop(deadline=0.0).exit_status
          (0, 143, 75)
        """
        if self.signum is not None:
            return 128 + self.signum
        return TIME_IS_UP if self.time_is_up else 0


@contextlib.contextmanager
def graceful_stop(deadline: float | None = None) -> Iterator[Stop]:
    """Turns SIGTERM and SIGINT into the flag `.requested` within the block.

    At the first signal, a notice on stderr says what will happen. A later Ctrl-C goes to the
    previous handler, which ends a command, and otherwise raises KeyboardInterrupt; further SIGTERMs
    change nothing. On leaving, the previous handlers are restored. Outside of the main thread,
    where Python cannot handle signals, they do not set the flag.

    Args:
      deadline: time by `time.monotonic()` from which on the flag is set, too; None for none.

    Example:
      >>> with graceful_stop() as stop:
      ...     stop.requested, stop.exit_status
      (False, 0)
    """
    stop = Stop(deadline=deadline)
    before: dict[int, Any] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.signum is None:
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
