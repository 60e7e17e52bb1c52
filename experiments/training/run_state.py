"""One run in training: its directory's files, how far it is, and what went wrong with it."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.data.batches import Purpose, key_for
from experiments.errors import DivergedError
from experiments.files import is_no_space, replacing
from experiments.training import (
    evaluation,
    hosts,
    lengthening,
    origins,
    out_of_memory,
    provenance,
    records,
    rundir,
)
from experiments.training.checkpoints import Checkpoints
from experiments.training.compiled import Compiled
from experiments.training.job import Job
from experiments.training.metrics import MetricsLog
from experiments.training.program import Trace, TrainState
from experiments.training.rundir import (
    CHECKPOINTS,
    CONFIG,
    FAILURE,
    METRICS,
    PICTURE,
    PICTURES,
    RESULT,
)
from experiments.training.trackers import Trackers

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def of_one_run(note: Callable[[Exception], object]) -> Iterator[None]:
    """Notes an error of one run, so that those trained with it continue.

    A full disk concerns all of them, and is raised.
    """
    try:
        yield
    except Exception as error:
        if is_no_space(error):
            raise
        note(out_of_memory.explained(error) or error)


def means_of(trace: Trace, speed: float) -> dict[str, float]:
    """The means of a chunk of steps; the temperature is that of its last step."""
    return {
        "train_cost": float(trace.cost.mean()),
        "temperature": float(trace.temperature[-1]),
        "steps_per_second": speed,
        **{name: float(values.mean()) for name, values in trace.metrics.items()},
    }


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    seconds: np.ndarray  # spent so far, over all the processes of this run


class RunState:
    """A run in training.

    Args:
      job: what to train.
      row: row of the run in the arrays of the runs that train together.
      shorter: the steps of a shorter run in its directory that is to be made longer.

    Attributes:
      step: the last step done.
      error: why it cannot go on, or None.
    """

    checkpoints: Checkpoints
    log: MetricsLog
    trackers: Trackers
    origins: list[dict[str, Any]]

    def __init__(self, job: Job, row: int, shorter: int | None = None) -> None:
        self.job, self.row, self.shorter = job, row, shorter
        self.step, self.seconds_before = 0, 0.0
        self.error: Exception | None = None
        self._out_of_range = False

    def fail(self, error: Exception) -> None:
        """Notes why the run cannot go on."""
        self.error = error

    def open(
        self, stack: contextlib.ExitStack, state: TrainState, here: Mapping[str, Any]
    ) -> TrainState:
        """Opens the files; returns the state of the newest checkpoint, or `state` if there is none.

        Args:
          stack: closes them.
          state: the initial state, for a run without a checkpoint.
          here: what `provenance` gives in this process.
        """
        with of_one_run(self.fail):
            self.step, self.seconds_before, state = hosts.by_first(
                partial(self._opened, stack, state, here)
            )
        return state

    def _opened(
        self, stack: contextlib.ExitStack, state: TrainState, here: Mapping[str, Any]
    ) -> tuple[int, float, TrainState]:
        job, seconds = self.job, np.zeros(())
        checkpoints = Checkpoints(job.workdir / CHECKPOINTS, numerics=provenance.numerics())
        self.checkpoints = stack.enter_context(checkpoints)
        stray = lengthening.stray_checkpoint(job.workdir, self.shorter, job.settings)
        restored = self.checkpoints.restore(like=Saved(state, seconds), without=stray)
        step, (state, seconds) = restored or (0, (state, seconds))
        last = step if restored else None
        if restored:  # a damaged file is refused before anything is written
            origins.read(job.workdir)
            MetricsLog.check(job.workdir)
        self._record(stray)
        log = MetricsLog(job.workdir, last, events="tensorboard" in job.trackers)
        self.log = stack.enter_context(log)
        shown = Trackers(job.trackers, job.workdir, job.settings.flat(), log.kept)
        self.trackers = stack.enter_context(shown)
        self.origins = origins.note(job.workdir, step, here)
        return step, float(seconds), state

    def _record(self, stray: int | None) -> None:
        """Makes the directory that of this run: from now on, no other config may use it."""
        workdir = self.job.workdir
        if stray is not None:
            self.checkpoints.remove(stray)
        if self.shorter:
            lengthening.keep_result(workdir, self.shorter)
        records.write_json(workdir / CONFIG, self.job.settings.flat())
        (workdir / FAILURE).unlink(missing_ok=True)  # of an earlier attempt

    def saved_steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""

        def steps() -> list[int]:  # only the first process has the checkpoints
            return self.checkpoints.steps()

        return hosts.by_first(steps)

    def check(self, trace: Trace, *, finite: bool) -> None:
        """Notes the error of a run whose cost or state is no longer finite."""
        bad = ~np.isfinite(trace.cost)
        if bad.any():
            step = self.step + int(bad.argmax()) + 1
            what = f"the training cost is {trace.cost[bad][0]} at step {step}"
        elif not finite:
            step = self.step + len(trace.cost)
            what = f"a parameter, or another number of the state, is not finite at step {step}"
        else:
            return
        saved = self.saved_steps()
        kept = f"the checkpoint of step {saved[-1]} is kept" if saved else "no checkpoint was due"
        settings = self.job.settings
        fix = f"lower config.learning_rate={settings.learning_rate}"
        if settings.estimator.spec.relaxes:
            fix += " or raise the temperature"
        self.error = DivergedError(f"{what}: {fix}; {kept}")

    def note(self, line: Mapping[str, float]) -> None:
        """Adds a line to the metrics, at the current step of the run."""
        hosts.by_first(partial(self._note, line))

    def _note(self, line: Mapping[str, float]) -> None:
        self.trackers.log(self.log.append(self.step, **line, **self._watch(line)))

    def _watch(self, line: Mapping[str, float]) -> dict[str, float]:
        """Warns, once, that the training cost has left the range of its objective.

        Relaxed samples can reach costs that no discrete ones can. The run continues, because its
        validation bound, with discrete samples, remains valid.

        Args:
          line: line of the metrics.

        Returns:
          What to add to the line: `cost_out_of_range=1` if the cost is out of range.
        """
        cost = line.get("train_cost")
        if cost is None or cost >= 0:  # pixels are discrete, and no KL is negative
            return {}
        if not self._out_of_range:
            self._out_of_range = True
            _log.warning(
                "%s: the training cost is %.2f nats at step %d, and no bound lies below 0: the "
                "relaxed samples have left what discrete ones can do; lower the temperature, or "
                "train with kl=analytic or kl=relaxed",
                self.job.workdir,
                cost,
                self.step,
            )
        return {"cost_out_of_range": 1.0}

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
        arrays: Any = {name: rows.astype(np.uint8) for name, rows in gray.items()}
        with replacing(self.job.workdir / PICTURES) as file:
            np.savez_compressed(file, **arrays)
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
            "overrides": self.job.changes,
            "config": settings.flat(),
            "train_seconds": self.seconds_before + seconds,
        }

        def write() -> dict[str, Any]:
            result["origins"] = self.origins
            self.trackers.finish(result, self.job.workdir / PICTURE)
            records.write_json(self.job.workdir / RESULT, result)
            return rundir.read_result(self.job.workdir)

        return hosts.by_first(write)
