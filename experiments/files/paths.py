"""Paths as users give them, and names that come out of files."""

import os
import re
from pathlib import Path

from experiments.errors import UserError

# The directory of the packages: that of the checkout, unless they are installed elsewhere.
ROOT = Path(__file__).resolve().parents[2]


def path_of(text: str, what: str) -> Path:
    """A path that a user gave, with `~` expanded; no shell does so after `--output=`.

    Args:
      text: the path as given.
      what: where it was given, such as `--workdir`.

    Raises:
      UserError: no file can have that name, or there is no such user.

    Example:
      >>> path_of("runs/a", "--workdir")
      PosixPath('runs/a')
      >>> path_of("~nosuchuser/a", "--workdir")
      Traceback (most recent call last):
      experiments.errors.UserError: --workdir=~nosuchuser/a: there is no user 'nosuchuser'
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise UserError(f"{what}={text}: give a directory or file of this machine, not an address")
    if "\0" in text:
        raise UserError(f"{what}={text!r}: a path has no NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        # It could name a file on disk, but neither be printed nor recorded.
        raise UserError(f"{what}={text!r}: give a path that is valid UTF-8") from None
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = text[1:].split("/", 1)[0]
        missing = f"there is no user {user!r}" if user else "HOME is not set: set it"
        raise UserError(f"{what}={text}: {missing}") from None


def home() -> Path:
    """The project's directory of caches: `$XDG_CACHE_HOME/gumbel`, by default `~/.cache/gumbel`."""
    given = os.environ.get("XDG_CACHE_HOME")
    caches = path_of(given, "XDG_CACHE_HOME") if given else path_of("~/.cache", "caches")
    return caches / "gumbel"


def name_part(text: str, source: object) -> str:
    """A text that came out of a file, as a part of a new file's name.

    Args:
      text: letters, digits, `_`, `-` and `.`, not beginning with a dot.
      source: the file, for the error.

    Raises:
      UserError: it holds anything else, such as a `/` that would lead to another directory.

    Example:
      >>> name_part("gumbel_softmax", "result.json")
      'gumbel_softmax'
      >>> name_part("../x", "result.json")
      Traceback (most recent call last):
      experiments.errors.UserError: result.json: '../x' cannot be part of a file's name
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", text):
        raise UserError(f"{source}: {text[:100]!r} cannot be part of a file's name")
    return text
