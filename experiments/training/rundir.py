"""A run's directory: the names of its files, and checks against other configs and processes."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock

from experiments import config, tasks
from experiments.errors import UserError
from experiments.files import Maybe, Shape, read_json, remove_partial
from experiments.settings import Settings

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
ORIGINS, SWEEP = "origins.json", "sweep.json"
FAILURE = "failure.json"  # of the last attempt at a run of a sweep, if that failed
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
PICTURE, PICTURES = "picture.png", "pictures.npz"  # the latter: its rows of images as uint8


# What is read of a `config.json`, of the `result.json` of any task, and of a `sweep.json`.
CONFIG_SHAPE: Shape = {"task": str, "num_steps": int}
RESULT_SHAPE: Shape = {
    "config": {str: object},
    "steps": int,
    "seed": int,
    "validation_bound": float | None,
    "test_bound": float | None,
    "overrides": Maybe({str: object}),
}
SWEEP_SHAPE: Shape = {"config": {str: object}, "grid": [{str: object}]}


class InUseError(UserError):
    """Another process holds the directory."""


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """Claims the directory for this process within the block.

    Raises:
      InUseError: another process holds it.
      UserError: it cannot be used, or is that of a sweep.
    """
    refuse_name(workdir)
    with locked(workdir):
        if (workdir / SWEEP).exists():
            raise UserError(f"--workdir={workdir} is that of a sweep: choose another directory")
        _check_kinds(workdir)
        remove_partial(workdir)
        yield


def refuse_name(workdir: Path) -> None:
    r"""Raises UserError if checkpoints could not be read back from below such a path.

    Orbax searches its directories by patterns, in which `[`, `]` and `\` have another meaning.
    """
    if found := sorted(set(str(workdir.absolute())) & set("[]\\")):
        raise UserError(
            f"--workdir={workdir}: no checkpoint can be read from a path with {' '.join(found)} in "
            "it: choose another directory"
        )


def _check_kinds(workdir: Path) -> None:
    """Raises UserError if a file of a run stands where a directory belongs, or the other way."""
    for name in (CHECKPOINTS, TENSORBOARD):
        path = workdir / name
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, and a run keeps a directory there: delete it")
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"{path} is not writable: make it so, or take another --workdir")
    for name in (CONFIG, METRICS, RESULT, ORIGINS, PICTURE, PICTURES):
        if (workdir / name).is_dir():
            raise UserError(f"{workdir / name} is a directory, and a run keeps a file there")


def read_config(workdir: Path) -> dict[str, Any]:
    """The flat config in a run's directory."""
    fix = f"choose another directory, or delete {workdir} if it has nothing but a run"
    found: dict[str, Any] = read_json(workdir / CONFIG, CONFIG_SHAPE, fix)
    return found


def result_shape(task: str) -> Shape:
    """The shape of a `result.json` of a task."""
    metrics = tasks.load(task).metrics
    names = metrics.units if metrics else ()
    own = {f"{split}_{name}": float | None for split in ("validation", "test") for name in names}
    return RESULT_SHAPE | own


def validation_shape(task: str) -> Shape:
    """The numbers of the validation set in a `result.json` of a task."""
    return {key: t for key, t in result_shape(task).items() if key.startswith("validation_")}


def read_result(workdir: Path, shape: Shape = RESULT_SHAPE) -> dict[str, Any]:
    """What the `result.json` of a finished run holds."""
    fix = "delete it, and the run finishes again"
    found: dict[str, Any] = read_json(workdir / RESULT, shape, fix)
    return found


def recorded_config(workdir: Path) -> dict[str, Any] | None:
    """The flat config of the run in a directory, or None if there is no run.

    Raises:
      UserError: a file is damaged; or there is what a run would write over, and nothing says that
        it is a run's, and of which config.
    """
    if (workdir / CONFIG).exists():
        return read_config(workdir)
    if (workdir / RESULT).exists():
        found: dict[str, Any] = read_result(workdir)["config"]
        return found
    if saved_steps(workdir):
        raise UserError(
            f"{workdir} has checkpoints but no {CONFIG}, so nothing says of which config they are: "
            f"choose another directory, or delete {workdir}"
        )
    refuse_overwriting(workdir, CONFIG, (METRICS, PICTURE, PICTURES, TENSORBOARD))
    return None


def refuse_overwriting(directory: Path, mark: str, names: Iterable[str]) -> None:
    """Raises UserError if there are files of these names in a directory that lacks our mark."""
    for path in (directory / name for name in names):
        if path.exists():
            raise UserError(
                f"{path} would be written over, and may not be ours, as {directory} has no {mark}: "
                "choose another directory, or move it away"
            )


def result_of(
    workdir: Path, settings: Settings, shape: Shape = RESULT_SHAPE
) -> dict[str, Any] | None:
    """What the `result.json` of a run with these settings holds.

    Returns:
      None if the run is not finished, or the directory has the run of another config.

    Raises:
      UserError: the file is damaged.
    """
    if not (workdir / RESULT).is_file():
        return None
    found = read_result(workdir, {"config": {str: object}, **shape})
    return None if config.differing(found["config"], settings.flat()) else found


def saved_steps(workdir: Path) -> list[int]:
    """The steps of a run's checkpoints by the names of their directories, in rising order."""
    found = (workdir / CHECKPOINTS).glob("[0-9]*")
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def read_sweep(directory: Path) -> dict[str, Any]:
    """What the `sweep.json` of a sweep's directory holds."""
    fix = "delete it, and the same command writes it again"
    found: dict[str, Any] = read_json(directory / SWEEP, SWEEP_SHAPE, fix)
    return found


@contextlib.contextmanager
def locked(
    workdir: Path, *, wait: bool = False, flag: str = "workdir", name: str = ".lock"
) -> Iterator[None]:
    """Locks the directory, made if absent, against other processes within the block.

    The lock of a killed process is free.

    Args:
      workdir: the directory.
      wait: wait until the other process is done, instead of raising `InUseError`.
      flag: flag that names the directory, for the error.
      name: name of the lock file.
    """
    lock = filelock.FileLock(workdir / name, timeout=-1 if wait else 0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except filelock.Timeout:
        raise InUseError(
            f"--{flag}={workdir} is in use by another process: wait for it, or choose another"
            f"{_if_gone(workdir / name)}"
        ) from None
    except OSError as error:
        raise UserError(f"--{flag}={workdir} cannot be used ({error.strerror})") from error
    with held:
        yield


def _if_gone(lock: Path) -> str:
    """What to do if the process that holds a lock is gone.

    The lock file of a file system without locks names the process. It is free after a kill on this
    machine, and not after one on another.
    """
    try:
        holder = " of ".join(lock.read_text(encoding="utf-8").split()[:2])
    except (OSError, UnicodeDecodeError):
        holder = ""
    return f"; if process {holder} is gone, delete {lock}" if holder else ""


def refuse_another(theirs: dict[str, Any], ours: dict[str, Any], workdir: Path) -> None:
    """Raises UserError if the flat config that a directory belongs to is not ours."""
    if difference := config.difference(theirs, ours):
        raise UserError(
            f"--workdir={workdir} belongs to another config ({difference}): "
            "choose another directory, or delete it"
        )
