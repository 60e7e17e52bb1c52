"""Checkpoints that are either restored bit for bit or refused.

Orbax writes them in its own layout, which its tools read, each in a temporary directory that is
renamed when complete, so a process killed while saving leaves the earlier ones whole. What orbax
does not notice is damage after the fact, so a SHA-256 digest of all leaves is stored beside the
state and checked on restoring.
"""

import gc
import logging
import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Self

import jax
import numpy as np

from experiments.errors import UserError, one_line
from experiments.training import hosts, orbax_errors
from experiments.training import leaves as of_leaves
from experiments.training.leaves import Leaf, Numerics, PyTree

_log = logging.getLogger(__name__)
# As damage does; any other error of the system says nothing of the file itself.
_LACKS_A_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


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
      numerics: settings of jax and XLA, stored in each checkpoint. A checkpoint with others is
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
        numerics: Numerics | None = None,
    ) -> None:
        import orbax.checkpoint as ocp  # takes half a second to import
        from orbax.checkpoint import checkpoint_managers

        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()  # orbax refuses a relative path, but late
        self._read_only = read_only
        self._numerics = dict(numerics or {})
        self._args = ocp.args
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        alone = hosts.orbax_options()
        with orbax_errors.quiet():  # orbax warns that what is read-only is read-only
            self._manager = checkpoint_managers.CheckpointManager(
                self.directory,
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(**alone),
                    "record": ocp.JsonCheckpointHandler(**alone),
                },
                options=checkpoint_managers.CheckpointManagerOptions(
                    save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                    preservation_policy=checkpoint_managers.LatestN(keep),
                    cleanup_tmp_directories=not read_only,
                    create=False,
                    read_only=read_only,
                    enable_async_checkpointing=False,
                    lightweight_initialize=True,
                    **alone,
                ),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases orbax's resources; the checkpoints stay."""
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree) -> None:
        """Writes `state` as the checkpoint of `step`, and drops those beyond `keep`.

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
        leaves = of_leaves.described(state)
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        digest = of_leaves.digest(step, leaves, self._numerics, arrays)
        record = {"leaves": leaves, "settings": self._numerics, "sha256": digest}
        # Orbax stores no empty arrays; the record has their shapes.
        stored = jax.tree.map(lambda leaf: np.asarray(leaf) if np.size(leaf) else None, state)
        args = self._args
        items = args.Composite(state=args.StandardSave(stored), record=args.JsonSave(record))
        with orbax_errors.one_error(self.directory):
            self._manager.save(step, args=items)

    @orbax_errors.quiet()  # asyncio reports failed tasks at any time, or when they are collected
    def restore(self, like: PyTree, *, without: int | None = None) -> tuple[int, PyTree] | None:
        """Loads the newest whole checkpoint into the structure of `like`.

        Damaged checkpoints are renamed to `damaged-STEP` (unless `read_only`), each with a warning,
        and the one before is tried.

        Args:
          like: a state of the structure, dtypes and shapes to load; its values do not matter.
            Where it has a jax array (or a `jax.ShapeDtypeStruct`) the result has one, on the
            same devices; elsewhere a numpy array or a number.
          without: step of a checkpoint that is passed over.

        Returns:
          `(step, state)`, or None if there is no checkpoint at all.

        Raises:
          OSError: the system refuses to read a file that is there.
          UserError: every checkpoint is damaged, or the newest whole one holds another structure
              than `like` or was written under other settings of jax and XLA.
        """
        steps = [step for step in self.steps() if step != without]
        for step in reversed(steps):
            try:
                leaves, numerics, arrays = self._load(step)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # whatever orbax makes of damaged files
                if isinstance(error, OSError) and not isinstance(error, _LACKS_A_FILE):
                    raise  # no permission, too many open files, a lost mount: the files may be fine
                _log.warning(
                    "checkpoint %s is damaged (%s)%s",
                    self.directory / str(step),
                    textwrap.shorten(one_line(error), 160),
                    ": falling back to the one before it" if step != steps[0] else "",
                )
            else:
                self._refuse_other(numerics, step)
                state = self._fill(step, like, leaves, arrays)
                if not self._read_only:
                    self._set_aside([later for later in steps if later > step])
                if step != steps[-1]:
                    gc.collect()  # of what is left of reading the damaged ones
                return step, state
            gc.collect()
        if steps:
            what = f"every checkpoint in {self.directory} is damaged"
            raise UserError(f"{what}: delete that directory to start anew")
        return None

    def _load(self, step: int) -> tuple[list[Leaf], Numerics, list[np.ndarray]]:
        """Reads the checkpoint of `step` and compares it with its digest."""
        args = self._args
        wanted = args.Composite(state=args.StandardRestore(), record=args.JsonRestore())
        items = self._manager.restore(step, args=wanted)
        record, found = items.record, of_leaves.named(items.state)
        leaves = [Leaf(name, dtype, tuple(shape)) for name, dtype, shape in record["leaves"]]
        if "bytes" in found and not any(leaf.name in found for leaf in leaves):
            raise UserError(
                f"checkpoint {self.directory / str(step)} was written by version 0.1: finish the"
                " run with that, or take another --workdir"
            )
        arrays = [
            np.asarray(found[leaf.name]) if leaf.name in found else np.zeros(leaf.shape, leaf.dtype)
            for leaf in leaves
        ]
        same = [
            Leaf(leaf.name, a.dtype.name, a.shape) for leaf, a in zip(leaves, arrays, strict=True)
        ]
        digest = of_leaves.digest(step, same, record["settings"], arrays)
        if digest != record["sha256"]:
            raise ValueError("its data does not match its SHA-256 digest")
        return leaves, record["settings"], arrays

    def _refuse_other(self, numerics: Numerics, step: int) -> None:
        """Raises UserError if a checkpoint was written under other settings of jax and XLA."""
        ours = self._numerics
        names = [name for name in ours if numerics.get(name, ours[name]) != ours[name]]
        if names:
            written = [f"{name}={numerics[name]}" for name in names]
            found = [f"{name}={ours[name]}" for name in names]
            variables = [f"{name.upper()}={shlex.quote(str(numerics[name]))}" for name in names]
            raise UserError(
                f"checkpoint {self.directory / str(step)} was written with {', '.join(written)},"
                f" this process has {', '.join(found)}: set {' '.join(variables)} to resume, or"
                " take another --workdir"
            )

    def _fill(self, step: int, like: PyTree, saved: list[Leaf], arrays: list[np.ndarray]) -> PyTree:
        """Puts the loaded arrays into the structure of `like`."""
        wanted = of_leaves.described(like)
        if wanted != saved:
            theirs, ours = of_leaves.first_difference(saved, wanted)
            raise UserError(
                f"checkpoint {self.directory / str(step)} is of another model or version: it has"
                f" {theirs}, this run has {ours}; take another --workdir, or the config and code"
                " that wrote it"
            )
        return of_leaves.filled(like, arrays)

    def remove(self, step: int) -> None:
        """Removes the checkpoint of `step`."""
        aside = self.directory / f"replaced-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        # Renamed first, so that a kill cannot leave half of a checkpoint.
        (self.directory / str(step)).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        self._manager.reload()

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints, so that the run can write those steps again."""
        for step in steps:
            target = self.directory / f"damaged-{step}"
            shutil.rmtree(target, ignore_errors=True)
            (self.directory / str(step)).rename(target)
        if steps:
            self._manager.reload()
