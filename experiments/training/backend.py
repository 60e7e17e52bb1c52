"""The devices that jax finds; one line if its backend cannot start."""

from collections.abc import Callable

import jax

from experiments.errors import UserError, one_line


def devices() -> list[jax.Device]:
    """The devices of all processes.

    Raises:
      UserError: jax cannot start its backend.
    """
    return _asked(jax.devices)


def local_devices() -> list[jax.Device]:
    """The devices of this process.

    Raises:
      UserError: jax cannot start its backend.
    """
    return _asked(jax.local_devices)


def _asked(question: Callable[[], list[jax.Device]]) -> list[jax.Device]:
    try:
        return question()
    except (RuntimeError, AssertionError) as error:  # AssertionError: no plugin for the platform
        reason = one_line(error) if str(error) else "JAX_PLATFORMS names none that is installed"
        raise UserError(
            f"jax cannot start its backend ({reason}): fix that, or set JAX_PLATFORMS=cpu"
        ) from error
