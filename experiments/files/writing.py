"""Files written atomically: a reader sees the old content or the new one, never a part."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_PARTIAL = ".partial"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` when the block ends without an error.

    It is written beside `path` under a name of its own, so several writers do not disturb each
    other: the last one to finish wins. Its bytes are on disk before it takes the place of `path`.
    A device or a pipe, such as /dev/null, is written to and stays what it is.

    Raises:
      OSError: it cannot be written; the error names `path`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with replacing(Path(folder) / "a.txt") as file:
      ...         _ = file.write(b"all of it")
      ...     [(path.name, path.read_bytes()) for path in Path(folder).iterdir()]
      [('a.txt', b'all of it')]
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with naming(path), path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    with naming(path, partial):
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def remove_partial(directory: Path, *, older_than: float = 0.0) -> None:
    """Removes the files that writers left half-written in a directory when they were killed.

    Args:
      directory: only its own files are removed, not those of directories in it.
      older_than: minimum age in seconds; 0 is for a directory that no other process writes to.
    """
    newest = time.time() - older_than
    for path in directory.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime <= newest:
                path.unlink()


@contextlib.contextmanager
def naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Adds the path to OSErrors that lack one (a full disk, for example).

    Args:
      path: the file that its user knows.
      partial: another name of it, which its user does not know.
    """
    try:
        yield
    except OSError as error:
        unknown = {None} if partial is None else {None, str(partial)}
        if error.errno and error.filename in unknown:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def is_no_space(error: BaseException) -> bool:
    """Whether the disk or the quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
