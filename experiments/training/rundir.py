"""A run's directory: the names of its files, and holding it against other configs and processes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from experiments.errors import UserError
from experiments.settings import Settings
from experiments.training import records

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
SWEEP = "sweep.json"
CHECKPOINTS = "checkpoints"
PICTURE, PICTURES = "picture.png", "pictures.npz"  # the latter: its rows of images as uint8


class InUseError(UserError):
    """Another process holds the directory."""


@contextlib.contextmanager
def claimed(workdir: Path, settings: Settings) -> Iterator[None]:
    """Makes the directory this process's within the block, unless it is another config's.

    Raises:
      InUseError: another process holds it.
      UserError: it cannot be used, belongs to another config, or is that of a sweep.
    """
    with locked(workdir):
        if (workdir / SWEEP).exists():
            raise UserError(f"--workdir={workdir} is that of a sweep: choose another directory")
        if (workdir / CONFIG).exists():
            theirs = records.read_json(workdir / CONFIG)
            refuse_another(theirs, settings.flat(), workdir)
        yield


@contextlib.contextmanager
def locked(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the directory, made if absent, against other processes within the block.

    A lock that is left behind by a killed process is free.

    Args:
      workdir: the directory.
      wait: until the other process is done, instead of raising `InUseError`.
    """
    lock = filelock.FileLock(workdir / ".lock", timeout=-1 if wait else 0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except filelock.Timeout:
        raise InUseError(
            f"--workdir={workdir} is in use by another process: wait for it, or choose another"
        ) from None
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used ({error.strerror})") from error
    with held:
        yield


def refuse_another(theirs: dict[str, Any], ours: dict[str, Any], workdir: Path) -> None:
    """Raises UserError if the flat config that a directory belongs to is not ours."""
    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differing:
        shown = ", ".join(f"{k}={theirs.get(k)!r}" for k in differing[:4])
        raise UserError(
            f"--workdir={workdir} belongs to another config ({shown}): "
            "choose another directory, or delete it"
        )
