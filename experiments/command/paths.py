"""Flags that name files and directories."""

from pathlib import Path
from typing import TypeVar

from experiments.errors import UserError
from experiments.files import path_of

Value = TypeVar("Value")


def required(value: Value | None, flag: str, fix: str) -> Value:
    """The value of a flag that has to be given.

    Args:
      value: value of the flag.
      flag: the flag as the error shows it, such as `workdir=DIR`.
      fix: what to give.

    Raises:
      UserError: there is no value, or an empty one.
    """
    if not value:
        raise UserError(f"--{flag} is missing: {fix}")
    return value


def required_path(text: str | None, flag: str, fix: str) -> Path:
    """The path that a flag has to name, with `~` expanded; see `required` and `files.path_of`."""
    return path_of(required(text, flag, fix), f"--{flag.partition('=')[0]}")


def optional_path(text: str | None, flag: str) -> Path | None:
    """The path that a flag names, with `~` expanded; None if it names none."""
    return path_of(text, f"--{flag}") if text else None


def output_file(text: str | None) -> Path | None:
    """The file that `--output` names, if any; see `check_output`."""
    output = optional_path(text, "output")
    if output:
        check_output(output)
    return output


def check_output(output: Path) -> None:
    """Raises UserError, before the work, if the file of `--output` could not be written."""
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no {output.parent}")
    if output.is_dir():
        raise UserError(f"--output={output} is a directory: name a file")
