"""Checkpoints that are either restored bit for bit or refused.

Orbax writes them, each in a temporary directory that is renamed when complete, so a process
killed while saving leaves the earlier ones whole. What orbax does not notice is damage after the
fact, so a SHA-256 digest of every leaf is stored beside the state and checked on restoring.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from experiments.errors import UserError, one_line

_log = logging.getLogger(__name__)

PyTree = Any
_Settings = dict[str, str | bool]


class _Leaf(NamedTuple):
    """What a leaf looks like from outside: where it hangs in the tree, its dtype and shape."""

    path: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ",".join(map(str, self.shape))
        return f"{self.path or 'state'} {self.dtype}[{sizes}]"


class Checkpoints:
    """The last few states of one run, kept in one directory.

    A state is any pytree whose leaves are jax or numpy arrays, or numbers. Typed PRNG keys are
    refused: store `jax.random.key_data(key)`. Saving is synchronous: when `save` returns, the
    checkpoint is complete on disk.

    Args:
        directory: where the checkpoints live; made if absent.
        keep: how many of the newest checkpoints stay, at least 1.
        read_only: leave the directory as it is, which another process may be writing to; it has to
            exist.
        settings: JSON data by name, stored in each checkpoint. A checkpoint with other settings is
            refused, one without any is not. None stores and compares none.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        ...     checkpoints.save(100, {"weights": np.arange(3.0)})
        ...     checkpoints.restore(like={"weights": np.zeros(3)})
        (100, {'weights': array([0., 1., 2.])})
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 3,
        *,
        read_only: bool = False,
        settings: Mapping[str, str | bool] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()  # orbax refuses a relative path, but late
        self._read_only = read_only
        self._settings = dict(settings or {})
        with _quiet():  # orbax warns that what is read-only is read-only
            self._manager = checkpoint_managers.CheckpointManager(
                self.directory,
                options=checkpoint_managers.CheckpointManagerOptions(
                    save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                    preservation_policy=checkpoint_managers.LatestN(keep),
                    cleanup_tmp_directories=not read_only,
                    create=not read_only,
                    read_only=read_only,
                    enable_async_checkpointing=False,
                    lightweight_initialize=True,
                ),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release orbax's resources; the checkpoints stay."""
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree) -> None:
        """Write `state` as the checkpoint of `step`, and drop those beyond `keep`.

        Saving the newest step once more does nothing.

        Raises:
            ValueError: `step` lies before the newest checkpoint.
            TypeError: a leaf is neither an array nor a number, or is a typed PRNG key.
            OSError: there is no space left.
        """
        newest = max(self.steps(), default=-1)
        if step < newest:
            raise ValueError(f"step {step} lies before the newest checkpoint, {newest}")
        if step == newest:
            return
        leaves = _describe(state)
        data = b"".join(np.asarray(value).tobytes() for value in jax.tree.leaves(state))
        digest = _digest(step, leaves, self._settings, data)
        record = {"leaves": leaves, "settings": self._settings, "sha256": digest}
        # One array of bytes, not one array a leaf: when one read of many fails, orbax's threads
        # write tracebacks to stderr that no caller can catch.
        stored = {"bytes": np.frombuffer(data, np.uint8)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(stored), record=ocp.args.JsonSave(record)
        )
        with _one_error(self.directory):
            self._manager.save(step, args=items)

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Load the newest whole checkpoint into the structure of `like`.

        Damaged checkpoints are renamed to `damaged-STEP` (unless `read_only`), each with a warning,
        and the one before is tried.

        Args:
            like: a state of the structure, dtypes and shapes to load; its values do not matter.
                Where it has a jax array (or a `jax.ShapeDtypeStruct`) the result has one, on the
                same devices; elsewhere a numpy array or a number.

        Returns:
            `(step, state)`, or None if there is no checkpoint at all.

        Raises:
            UserError: every checkpoint is damaged, or the newest whole one holds another structure
                than `like` or was written under other settings.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                leaves, settings, arrays = self._load(step)
            except Exception as error:  # whatever orbax makes of damaged files
                _log.warning(
                    "checkpoint %s is damaged (%s): falling back to the one before it",
                    self.directory / str(step),
                    textwrap.shorten(one_line(error), 160),
                )
                continue
            self._refuse_other(settings, step)
            state = self._fill(step, like, leaves, arrays)
            if not self._read_only:
                self._set_aside([later for later in steps if later > step])
            return step, state
        if steps:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged: delete that directory to start"
                " anew"
            )
        return None

    def _load(self, step: int) -> tuple[list[_Leaf], _Settings, list[np.ndarray]]:
        """Read the checkpoint of `step` and hold it against its digest."""
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(), record=ocp.args.JsonRestore()
            ),
        )
        leaves = [_Leaf(path, dtype, tuple(shape)) for path, dtype, shape in items.record["leaves"]]
        settings = items.record.get("settings", {})  # older checkpoints have none
        data = np.asarray(items.state["bytes"]).tobytes()
        if _digest(step, leaves, settings, data) != items.record["sha256"]:
            raise ValueError("its data does not match its SHA-256 digest")
        arrays, start = [], 0
        for leaf in leaves:
            size = math.prod(leaf.shape)
            array = np.frombuffer(data, leaf.dtype, size, start)
            arrays.append(array.reshape(leaf.shape).copy())
            start += array.nbytes
        return leaves, settings, arrays

    def _refuse_other(self, settings: _Settings, step: int) -> None:
        """Raises UserError if a checkpoint was written under other settings than ours."""
        ours = self._settings
        names = [name for name in ours if settings.get(name, ours[name]) != ours[name]]
        if names:
            written = [f"{name}={settings[name]}" for name in names]
            found = [f"{name}={ours[name]}" for name in names]
            variables = [f"{name.upper()}={settings[name]}" for name in names]
            raise UserError(
                f"checkpoint {self.directory / str(step)} was written with {', '.join(written)},"
                f" this process has {', '.join(found)}: set {' '.join(variables)} to resume, or"
                " take another --workdir"
            )

    def _fill(
        self, step: int, like: PyTree, leaves: list[_Leaf], arrays: list[np.ndarray]
    ) -> PyTree:
        """Hang the loaded arrays into the tree of `like`."""
        wanted_leaves = _describe(like)
        if wanted_leaves != leaves:
            saved, wanted = _first_difference(leaves, wanted_leaves)
            raise UserError(
                f"checkpoint {self.directory / str(step)} is of another model or version: it has"
                f" {saved}, this run has {wanted}; take another --workdir, or the config and code"
                " that wrote it"
            )
        targets, structure = jax.tree.flatten(like)
        return jax.tree.unflatten(structure, map(_like, targets, arrays))

    def _set_aside(self, steps: list[int]) -> None:
        """Rename damaged checkpoints, so that the run can write those steps again."""
        for step in steps:
            target = self.directory / f"damaged-{step}"
            shutil.rmtree(target, ignore_errors=True)
            (self.directory / str(step)).rename(target)
        if steps:
            self._manager.reload()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What orbax logs is not shown; its exceptions tell."""
    logger = absl.logging.get_absl_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _one_error(directory: Path) -> Iterator[None]:
    """Orbax's failure to write as one exception, without the tracebacks that its threads log."""
    try:
        with _quiet():
            yield
    except ValueError as error:
        if "No space left on device" not in str(error):
            raise
        full = errno.ENOSPC
        raise OSError(full, os.strerror(full), str(directory)) from error


def _describe(state: PyTree) -> list[_Leaf]:
    """The leaves of `state` as seen from outside, in the tree's own order."""
    leaves = []
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path)
        array = value if hasattr(value, "dtype") else np.asarray(value)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{name} is a typed PRNG key: store jax.random.key_data of it")
        if array.dtype.kind in "OSU":
            raise TypeError(f"{name} is a {type(value).__name__}, not an array or a number")
        leaves.append(_Leaf(name, array.dtype.name, tuple(array.shape)))
    return leaves


def _digest(step: int, leaves: list[_Leaf], settings: _Settings, data: bytes) -> str:
    """SHA-256 over the step, the leaves' paths, dtypes and shapes, the settings, and the bytes."""
    head = [step, leaves, *([settings] if settings else [])]
    text = json.dumps(head, sort_keys=True).encode()
    return hashlib.sha256(text + b"\0" + data).hexdigest()


def _like(target: Any, array: np.ndarray) -> Any:
    """`array` as the kind of leaf that `target` is."""
    if isinstance(target, jax.Array):
        # An uncommitted array stays free to follow the others, as it was in the first run.
        return jax.device_put(array, target.sharding if target.committed else None)
    if isinstance(target, jax.ShapeDtypeStruct):
        return jax.device_put(array, target.sharding)
    if isinstance(target, np.ndarray):
        return array
    return type(target)(array.item())


def _first_difference(saved: list[_Leaf], wanted: list[_Leaf]) -> tuple[str, str]:
    """The first leaf in which two descriptions differ, in words, from both sides."""
    saved_by_path = {leaf.path: leaf for leaf in saved}
    wanted_by_path = {leaf.path: leaf for leaf in wanted}
    for path in [*saved_by_path, *wanted_by_path]:
        mine, theirs = saved_by_path.get(path), wanted_by_path.get(path)
        if mine != theirs:
            return str(mine or f"no {path}"), str(theirs or f"no {path}")
    return "its leaves in one order", "them in another"
