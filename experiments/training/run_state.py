"""One run in training: its directory's files, how far it is, and what went wrong with it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.data.batches import Purpose, key_for
from experiments.errors import UserError
from experiments.settings import Settings
from experiments.training import evaluation, hosts, provenance, records
from experiments.training.checkpoints import Checkpoints
from experiments.training.compiled import Compiled
from experiments.training.metrics import MetricsLog
from experiments.training.program import Trace, TrainState
from experiments.training.rundir import CHECKPOINTS, METRICS, PICTURE, PICTURES, RESULT


class Job(NamedTuple):
    """One run to train.

    Attributes:
      settings: checked.
      workdir: the run's directory.
      overrides: what was changed from the config file, for the record.
    """

    settings: Settings
    workdir: Path
    overrides: Mapping[str, Any]


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    seconds: np.ndarray  # spent so far, over all the processes of this run


class RunState:
    """A run in training.

    Args:
      job: what to train.
      row: of the run in the arrays of the batch that it is trained in.

    Attributes:
      step: the last one done.
      error: why it cannot go on, or None.
    """

    checkpoints: Checkpoints
    log: MetricsLog

    def __init__(self, job: Job, row: int) -> None:
        self.job, self.row = job, row
        self.step, self.seconds_before = 0, 0.0
        self.error: UserError | None = None

    def open(self, stack: contextlib.ExitStack, state: TrainState) -> TrainState:
        """Opens the files; the state of the newest checkpoint, or the one given without any."""
        self.step, self.seconds_before, self.error, state = hosts.by_first(
            lambda: self._opened(stack, state)
        )
        return state

    def _opened(
        self, stack: contextlib.ExitStack, state: TrainState
    ) -> tuple[int, float, UserError | None, TrainState]:
        path = self.job.workdir / CHECKPOINTS
        checkpoints = Checkpoints(path, settings=provenance.numerics())
        self.checkpoints = stack.enter_context(checkpoints)
        step, seconds = 0, np.zeros(())
        try:
            restored = self.checkpoints.restore(like=Saved(state, seconds))
        except UserError as error:
            return 0, 0.0, error, state
        if restored:
            step, (state, seconds) = restored
        log = MetricsLog(self.job.workdir, step if restored else None)
        self.log = stack.enter_context(log)
        return step, float(seconds), None, state

    def saved_steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""

        def steps() -> list[int]:  # only the first process has the checkpoints
            return self.checkpoints.steps()

        return hosts.by_first(steps)

    def append(self, **scalars: float) -> None:
        """Logs the scalars of the last step."""
        hosts.by_first(lambda: self.log.append(self.step, **scalars))

    def check(self, trace: Trace, *, finite: bool) -> None:
        """Notes the error of a run whose cost or state is not finite any more."""
        bad = ~np.isfinite(trace.cost)
        if bad.any():
            step = self.step + int(bad.argmax()) + 1
            what = f"the training cost is {trace.cost[bad][0]} at step {step}"
        elif not finite:
            what = f"a parameter is not finite at step {self.step + len(trace.cost)}"
        else:
            return
        saved = self.saved_steps()
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "no checkpoint was due"
        self.error = UserError(
            f"{what}: lower config.learning_rate={self.job.settings.learning_rate} or raise the "
            f"temperature; {kept}"
        )

    def save(self, state: TrainState, seconds: float) -> None:
        """Writes a checkpoint; `seconds` are those that this process has spent."""
        spent = np.asarray(self.seconds_before + seconds)
        hosts.by_first(lambda: self.checkpoints.save(self.step, Saved(state, spent)))

    def draw(self, compiled: Compiled, state: TrainState) -> None:
        """Draws the run's picture."""
        hosts.by_first(lambda: self._draw(compiled, state))

    def _draw(self, compiled: Compiled, state: TrainState) -> None:
        from experiments.training import plots  # matplotlib takes a second to import

        settings = self.job.settings
        images = jnp.asarray(compiled.dataset.test.images[:10])
        key = key_for(settings.seed, Purpose.PICTURE)
        pixels, picture_key = evaluation.pixels(compiled.program, images, key)
        pictures = compiled.pictures(state.params, pixels, picture_key)
        gray = {name: np.asarray(255 * rows).round() for name, rows in pictures.items()}
        np.savez_compressed(
            self.job.workdir / PICTURES,
            allow_pickle=False,
            **{name: rows.astype(np.uint8) for name, rows in gray.items()},
        )
        plots.run_picture(
            self.job.workdir / PICTURE,
            records.read_metrics(self.job.workdir / METRICS),
            pictures,
            title=f"{settings.task}, {settings.latent}, {settings.estimator.name}",
        )

    def finish(self, numbers: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Writes `result.json`, the mark of a finished run, and returns what it holds."""
        settings = self.job.settings
        result = {
            **numbers,
            "steps": self.step,
            "test_num_samples": settings.test_num_samples,
            "seed": settings.seed,
            "overrides": dict(self.job.overrides),
            "config": settings.flat(),
            "train_seconds": self.seconds_before + seconds,
        }

        def write() -> dict[str, Any]:
            records.write_json(self.job.workdir / RESULT, result)
            return records.read_json(self.job.workdir / RESULT)

        return hosts.by_first(write)
