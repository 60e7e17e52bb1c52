"""A directory for temporary files; if its process is killed, the next one removes it."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from experiments.files.paths import home


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new directory below the project's cache, which the block's temporary files go to.

    It is removed afterwards. What killed processes left is removed by the next one. Where the cache
    cannot be written, the system's temporary directory is used.

    Example:
      >>> with scratch() as directory:
      ...     Path(tempfile.mkdtemp()).parent == directory
      True
      >>> directory.exists()
      False
    """
    parent = home() / "tmp"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        directory = Path(tempfile.mkdtemp(dir=parent))
    except OSError:
        directory = Path(tempfile.mkdtemp(prefix="gumbel-"))
    before = tempfile.tempdir
    lock = filelock.FileLock(directory / ".lock", timeout=0)
    try:
        with lock:
            tempfile.tempdir = str(directory)
            yield directory
    finally:
        tempfile.tempdir = before
        shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Removes the directories that no process holds."""
    for directory in parent.iterdir():
        with contextlib.suppress(OSError, filelock.Timeout):
            # One that has just been made is not locked yet.
            if time.time() - directory.stat().st_mtime > 60:
                with filelock.FileLock(directory / ".lock", timeout=0):
                    shutil.rmtree(directory, ignore_errors=True)
