"""The one kind of error that a user is meant to read."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing resource: what is wrong, where, and how to mend it.

    The message is one line. The launcher prints it as that line, without a traceback, and exits
    with status 2.
    """


def one_line(error: BaseException) -> str:
    r"""An exception's message on one line, or its type's name where it has none.

    Example:
      >>> one_line(ValueError("bad\n  header"))
      'bad header'
      >>> one_line(KeyError())
      'KeyError'
    """
    return " ".join(str(error).split()) or type(error).__name__


def nearest(word: str, valid: Iterable[str]) -> str:
    """The valid words nearest to a wrong one, as the mend of an error message.

    Example:
      >>> nearest("gumbel_sofmax", ["sf", "gumbel_softmax", "st"])
      'did you mean gumbel_softmax?'
      >>> nearest("xyz", ["sf", "st"])
      'choose one of sf, st'
    """
    valid = list(valid)
    near = difflib.get_close_matches(word, valid, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(valid)}"
