"""What orbax makes of a failure: logs and tracebacks of its threads, reduced to one exception."""

import contextlib
import errno
import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what orbax and asyncio log and print; failures still raise exceptions."""
    loggers = (absl.logging.get_absl_logger(), logging.getLogger("asyncio"))
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def unless_late(unraisable: Any) -> None:
        """Passes on what cannot be raised, but for reads that end after another one has failed."""
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = unless_late
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def one_error(directory: Path) -> Iterator[None]:
    """Orbax's failure to write as one exception, without the tracebacks that its threads log."""
    try:
        with quiet():
            yield
    except ValueError as error:
        with quiet():
            gc.collect()  # what is left of its threads complains when it goes
        for full in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(full) in str(error):
                raise OSError(full, os.strerror(full), str(directory)) from error
        raise
