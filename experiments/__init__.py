"""Models, data, training, evaluation and tables built on `gumbel`.

A command, `python -m experiments.NAME`, imports this package before anything else. From here on
Ctrl-C ends it at once with status 130: nothing is lost by that, as files are written in one step
and a run resumes from its last checkpoint. While a run trains, `training.signals` has it saved
first.
"""

import contextlib
import importlib.metadata
import os
import signal
import sys
from types import FrameType


def leave(signum: int, frame: FrameType | None) -> None:
    """Ends the process. An exception instead would be swallowed where another package calls us."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(128 + signum)


# What `python -m` has for the program's name while it looks for the module.
_IS_COMMAND = sys.argv[:1] == ["-m"]
if _IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)

# jax 0.9 logs two errors of 2,000 characters about CPU features for each program that it loads from
# its cache. They are harmless; real failures raise exceptions.
with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # its import says so better
    if _IS_COMMAND and importlib.metadata.version("jaxlib").startswith("0.9."):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
