"""A guard around a command: the user's mistakes become one line on stderr and exit status 2."""

import contextlib
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import absl.logging

from experiments.errors import Stopped, UserError, one_line

FAILED = 1  # of several runs, some have no result
USER_ERROR = 2
INTERRUPTED = 130
CLOSED_PIPE = 141  # what a shell reports for a command that SIGPIPE ends


def guarded(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Runs a command so that the user's mistakes become one line each.

    Args:
      command: returns the exit status, None standing for 0.
      debug: show the traceback too.

    Returns:
      The exit status, as `launch` does; 141, with no message, if nobody reads stdout any more.
    """
    _set_up_logging()
    _escape_what_stdout_lacks()
    try:
        status = command() or 0
        if sys.stdout:
            sys.stdout.flush()
        return status
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads_stdout():  # as of `--help | head`
            _discard_stdout()
            return CLOSED_PIPE
        if debug:
            traceback.print_exc()
        print(f"error: {_message(error)}", file=sys.stderr)
        return USER_ERROR


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file that the system does not name'}: {error.strerror}"
    return one_line(error)


def _escape_what_stdout_lacks() -> None:
    """Makes stdout print characters that its encoding lacks as escapes, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _nobody_reads_stdout() -> bool:
    """Whether stdout is a pipe whose other end is closed; if not, it was a worker's pipe."""
    with contextlib.suppress(OSError):  # where it is no file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    return False


def _discard_stdout() -> None:
    """Points stdout at nothing, so that what is left in its buffer gives no error at the exit."""
    with contextlib.suppress(OSError):  # where it is no file
        target = sys.stdout.fileno()
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), target)


class _Formatter(logging.Formatter):
    """`warning: message`, to go with `error: message`."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _set_up_logging() -> None:
    """Warnings on stderr, one line each; nothing below a warning."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    absl.logging.set_verbosity(absl.logging.WARNING)
