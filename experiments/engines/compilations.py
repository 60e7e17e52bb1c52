"""Compiled programs kept on disk for the life of a sweep, so that each is compiled once."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@contextlib.contextmanager
def shared_compilations() -> Iterator[None]:
    """Has the processes that are started within the block share what they compile.

    The directory is this machine's own and goes with the block: programs compiled for one CPU need
    not run on another. Where the environment names a directory for jax, that is used as it is.
    """
    if _DIRECTORY in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="gumbel-", ignore_cleanup_errors=True) as directory:
        ours = {_DIRECTORY: directory, _LEAST_SECONDS: "0.5"}
        before = dict(os.environ)
        os.environ.update(ours | {key: before[key] for key in ours if key in before})
        try:
            yield
        finally:
            for key in set(ours) - set(before):
                del os.environ[key]
