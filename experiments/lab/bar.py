"""The progress of a comparison: a bar on a terminal, or else a line for each thing measured."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar while the block runs; it yields the `progress` that `gumbel.lab.compare` takes."""
    with tqdm(unit="block", disable=None) as bar:
        last = ""

        def progress(what: str, done: int, total: int) -> None:
            nonlocal last
            if bar.disable:  # stderr is no terminal
                if what != last:
                    print(f"measuring: {what}", file=sys.stderr, flush=True)
                last = what
                return
            bar.total, bar.n = total, done
            bar.set_description(what)  # and shows it

        yield progress
