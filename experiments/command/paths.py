"""Flags that name files and directories."""

from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import path_of


def path(text: str | None, flag: str) -> Path | None:
    """A path given as the flag: after `--output=` no shell expands its `~`."""
    return path_of(text, f"--{flag}") if text else None


def check_output(output: Path | None) -> None:
    """Raises UserError, before the work, if `--output` has no folder or is one."""
    if output and not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no {output.parent}")
    if output and output.is_dir():
        raise UserError(f"--output={output} is a directory: name a file")


def required(value: Any, flag: str, what: str) -> Any:
    """The value of a flag that has to be given.

    Raises:
      UserError: it is not; `what` says what to give.
    """
    if not value:
        raise UserError(f"--{flag} is missing: {what}")
    return value
