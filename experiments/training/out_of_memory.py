"""Out-of-memory errors, in one line."""

import contextlib
from collections.abc import Iterator

import jax

from experiments.errors import UserError

_ADVICE = "lower config.batch_size or the sizes of the model"


class OutOfMemoryError(UserError):
    """The device, or this machine, has less memory than a program needs."""


def explained(error: Exception, runs: int = 1, advice: str = _ADVICE) -> OutOfMemoryError | None:
    """The error as one line if it says that memory is short, else None."""
    together = f"{runs} runs together need" if runs > 1 else "this run needs"
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        where = f"the device {jax.devices()[0].device_kind}"
    elif isinstance(error, MemoryError):
        where = "this machine"
    else:
        return None
    return OutOfMemoryError(f"{where} is out of memory: {together} more than it has; {advice}")


@contextlib.contextmanager
def explaining(runs: int = 1, advice: str = _ADVICE) -> Iterator[None]:
    """Turns an out-of-memory error of a device or of this machine into one line.

    Args:
      runs: how many train together.
      advice: what to change.

    Raises:
      OutOfMemoryError: instead of theirs.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if (ours := explained(error, runs, advice)) is None:
            raise
        raise ours from error
