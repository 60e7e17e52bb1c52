"""The errors that users see, and the wording of their messages."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

# How messages name the types of values, for config keys and JSON alike.
TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a tuple",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class UserError(Exception):
    """Bad input or a missing resource: what is wrong, where, and how to fix it.

    The message is one line. The launcher prints it as that line, without a traceback, and exits
    with status 2.
    """


class DivergedError(UserError):
    """A cost or a parameter that is no longer finite: the settings of this run do not train."""


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop and did
    """The run saved its state and left, because a signal asked it to.

    The launcher prints the message, and exits with this status.

    Args:
      step, num_steps: where it stopped, and where it was to end.
      exit_status: exit status of the process.
      failed: why runs that trained with it had failed before, by their directories.
    """

    def __init__(
        self,
        step: int,
        num_steps: int,
        exit_status: int,
        failed: Mapping[Path, Exception] = MappingProxyType({}),
    ) -> None:
        super().__init__(f"stopped at step {step} of {num_steps}: rerun the same command to resume")
        self.exit_status, self.failed = exit_status, failed


def one_line(error: BaseException) -> str:
    r"""An exception's message on one line, or its type's name if it has none.

    Example:
      >>> one_line(ValueError("bad\n  header"))
      'bad header'
      >>> one_line(KeyError())
      'KeyError'
    """
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word: str, valid: Iterable[str]) -> list[str]:
    """Up to three valid words that `word` may stand for, also by the last part of a dotted key.

    The last part may be abbreviated to its initials, or to one of its words.

    Example:
      >>> nearest("gumbel_sofmax", ["sf", "gumbel_softmax", "st"])
      ['gumbel_softmax']
      >>> nearest("rate", ["temperature.rate", "seed"])
      ['temperature.rate']
      >>> nearest("lr", ["temperature.learning_rate", "learning_rate"])
      ['learning_rate', 'temperature.learning_rate']
    """
    ends = {key: key.rpartition(".")[2] for key in sorted(valid, key=len)}
    last = word.rpartition(".")[2]
    by_end = {end: key for key, end in reversed(ends.items())}  # the shortest key of each end
    same_end = [key for key, end in ends.items() if end == last]
    close = difflib.get_close_matches(word, ends, n=3, cutoff=0.6)
    close_end = [by_end[end] for end in difflib.get_close_matches(last, by_end, n=3, cutoff=0.75)]
    parts = {key: end.split("_") for key, end in ends.items()}
    initials = [key for key, words in parts.items() if "".join(w[:1] for w in words) == last]
    one_word = [key for key, words in parts.items() if last in words]
    found = [*same_end, *close, *close_end, *initials] or one_word
    return list(dict.fromkeys(found))[:3]


def suggestion(word: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown word.

    Example:
      >>> suggestion("gumbel_sofmax", ["sf", "gumbel_softmax", "st"])
      'did you mean gumbel_softmax?'
      >>> suggestion("xyz", ["sf", "st"])
      'choose one of sf, st'
    """
    valid = list(valid)
    near = nearest(word, valid)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(valid)}"


def short(value: Any) -> str:
    """The `repr` of a value, truncated if it is long.

    Example:
      >>> short((200, 200)), len(short((2,) * 1_000_000))
      ('(200, 200)', 80)
    """
    text = repr(value[:100] if isinstance(value, str | tuple | list) else value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def refuse(key: str, value: Any, fix: str) -> NoReturn:
    """Raises the UserError about a config key's value."""
    raise UserError(f"config.{key}={short(value)}: {fix}")


def refuse_empty(flag: str, given: Sequence[str] | None, valid: Iterable[str]) -> None:
    """Raises UserError if a flag that takes a list of names is given with none in it."""
    if given is not None and not any(given):
        raise UserError(f"--{flag}= is empty: name some of {', '.join(valid)}, or leave it out")


def check_choice(key: str, value: Any, choices: Iterable[str]) -> None:
    """Raises UserError unless the value of a config key is one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise UserError(
            f"config.{key}={short(value)} is not known: {suggestion(str(value)[:80], choices)}"
        )
