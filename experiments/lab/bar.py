"""The progress of a comparison on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar while the block runs; it yields the `progress` that `gumbel.lab.compare` takes."""
    with tqdm(unit="block", disable=None) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.set_description(what)  # and shows it

        yield progress
