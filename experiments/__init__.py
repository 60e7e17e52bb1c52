"""Models, data, training, evaluation and tables built on `gumbel`.

A command, `python -m experiments.NAME`, imports this package before anything else. From then on,
Ctrl-C ends it at once with status 130. Nothing is lost, because files are written atomically and
a run resumes from its last checkpoint. While a run trains, `training.signals` saves it first.
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


# The program's name under `python -m`, while it looks for the module.
_IS_COMMAND = sys.argv[:1] == ["-m"]
if _IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)

# jax 0.9 logs two errors of 2,000 characters about CPU features for each program that it loads from
# its cache. They are harmless; real failures raise exceptions.
with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # its import says it better
    if _IS_COMMAND and importlib.metadata.version("jaxlib").startswith("0.9."):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if _IS_COMMAND:
    try:
        import jax  # noqa: F401
    except ValueError as error:  # of a setting in the environment, such as JAX_ENABLE_X64=maybe
        print(f"error: {str(error).splitlines()[0]}: check the environment", file=sys.stderr)
        sys.exit(2)
