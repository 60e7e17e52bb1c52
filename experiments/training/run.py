"""One training run in one directory: started, stopped, resumed and finished."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments.errors import Stopped
from experiments.files import is_no_space
from experiments.settings import Settings
from experiments.training import hosts, out_of_memory, rundir
from experiments.training.compiled import Compiled
from experiments.training.job import Job
from experiments.training.lengthening import shorter_steps
from experiments.training.loop import Loop, Results
from experiments.training.out_of_memory import OutOfMemoryError
from experiments.training.placement import Placement, PlacementRule, one_device
from experiments.training.run_state import RunState, of_one_run
from experiments.training.rundir import RESULT, claimed
from experiments.training.signals import Stop, graceful_stop
from experiments.training.trackers import DEFAULT as DEFAULT_TRACKERS


class Programs:
    """The program that was compiled last, kept for the next run if that shares it."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[str, Placement], Compiled] | None = None

    def compiled(self, settings: Settings, placement: Placement) -> Compiled:
        """The compiled program of the settings."""
        key = settings.program_key(), placement
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # frees its data and code before the next ones are made
            self._kept = key, Compiled(settings, placement)
        return self._kept[1]


def train(
    settings: Settings,
    workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    progress: bool = True,
    devices: int | None = 1,
    trackers: tuple[str, ...] = DEFAULT_TRACKERS,
) -> dict[str, Any]:
    """Trains to the end and returns what `result.json` holds; a finished run is only read.

    A run resumes from the newest checkpoint in `workdir` and ends with the same numbers. So does a
    run of fewer steps, finished or not, if no schedule depends on the number of steps.

    Args:
      settings: checked.
      workdir: the run's directory; made if absent.
      overrides: what was changed on the command line, for the record.
      progress: show a progress bar (on a terminal) or a line per evaluation.
      devices: how many share each batch; None for all, of all processes. The numbers are the same
        to float32 rounding, and a run may resume on another number of them.
      trackers: where the run is shown, by name.

    Raises:
      UserError: a mistake in the data or the directory; a batch that does not divide among the
        devices; a cost that is not finite.
      Stopped: SIGTERM or Ctrl-C; the state is saved.
    """
    job = Job(settings, Path(workdir), overrides or {}, trackers)
    [result] = train_together(
        [job],
        progress=progress,
        place=lambda settings, _: Placement.of_batch(settings, devices),
    )
    if isinstance(result, Exception):
        raise result
    return result


def train_together(
    jobs: Sequence[Job],
    *,
    stop: Stop | None = None,
    programs: Programs | None = None,
    progress: bool = False,
    place: PlacementRule = one_device,
) -> list[dict[str, Any] | Exception]:
    """Trains runs as one program, each with the numbers that it has alone, to float32 rounding.

    A single run is not vmapped, so its numbers are the same to the bit however it is started.

    Args:
      jobs: jobs whose settings differ only in dynamic hyperparameters.
      stop: looked at while training; by default SIGTERM and Ctrl-C stop the training.
      programs: what was compiled for the jobs before, for these to use.
      progress: see `train`.
      place: gives the placement on devices of that many runs of the settings.

    Returns:
      For each job what `result.json` holds, or why it has none: `InUseError`, a directory that
      belongs to another config, a file that cannot be read or written, a cost that is not finite,
      or whatever kept the jobs that are neither finished nor in use from training together.

    Raises:
      OutOfMemoryError: so many runs need more memory than there is.
      OSError: there is no space left.
      Stopped: `stop` was requested; the states are saved.
    """
    results: Results = {}
    with contextlib.ExitStack() as stack:
        shorter: dict[Path, int | None] = {}
        for job in jobs:
            with of_one_run(partial(results.__setitem__, job.workdir)):
                found = hosts.by_first(partial(_claim, stack, job))
                if found.result is not None:
                    results[job.workdir] = found.result
                else:
                    shorter[job.workdir] = found.shorter
        missing = [job for job in jobs if job.workdir in shorter]
        if missing:
            try:
                with out_of_memory.explaining(len(missing)):
                    settings = missing[0].settings
                    placement = place(settings, len(missing))
                    compiled = (programs or Programs()).compiled(settings, placement)
                    compiled.check_memory()
                    results |= _train_claimed(missing, shorter, compiled, stop, progress=progress)
            except (Stopped, OutOfMemoryError):
                raise
            except Exception as error:
                if is_no_space(error):
                    raise
                results |= {job.workdir: error for job in missing}
    return [results[job.workdir] for job in jobs]


def _train_claimed(
    jobs: Sequence[Job],
    shorter: Mapping[Path, int | None],
    compiled: Compiled,
    stop: Stop | None,
    *,
    progress: bool,
) -> Results:
    """Trains jobs whose directories are claimed and whose program is compiled.

    Args:
      jobs, stop, progress: see `train_together`.
      shorter: by directory, the steps of a shorter run there that is to be made longer.
      compiled: program of the jobs.
    """
    runs = [RunState(job, row, shorter[job.workdir]) for row, job in enumerate(jobs)]
    loop = Loop(runs, compiled, progress=progress)
    with contextlib.nullcontext(stop) if stop is not None else graceful_stop() as asked:
        results = loop.train(asked)
    if stop is None and asked.requested and not any(run.error for run in loop.runs):
        # It came too late to leave anything undone, but is still reported.
        steps = jobs[0].settings.num_steps
        raise Stopped(steps, steps, asked.exit_status)
    return results


class _Claimed(NamedTuple):
    """What was found in a job's directory.

    Attributes:
      result: the result, if the run is finished.
      shorter: the steps of a shorter run there that is to be made longer.
    """

    result: dict[str, Any] | None = None
    shorter: int | None = None


def _claim(stack: contextlib.ExitStack, job: Job) -> _Claimed:
    """Takes a job's directory."""
    stack.enter_context(claimed(job.workdir))
    steps = shorter_steps(job.workdir, job.settings)
    if steps is None and (job.workdir / RESULT).exists():
        result = rundir.read_result(job.workdir, rundir.result_shape(job.settings.task))
        rundir.refuse_another(result["config"], job.settings.flat(), job.workdir)
        return _Claimed(result=result)
    return _Claimed(shorter=steps)
