"""A run made longer: the same config except for more steps, from the last checkpoint.

It gives the same numbers as a run of that length from the start, so it is refused where
anything before the old end depends on the number of steps.
"""

import logging
from pathlib import Path

from experiments import config, tasks
from experiments.errors import UserError
from experiments.settings import SCHEDULES, Settings
from experiments.training import rundir

_log = logging.getLogger(__name__)


def depends_on_num_steps(settings: Settings) -> str | None:
    """What of the settings depends on `num_steps`, as `key=value`; None if nothing does.

    Example:
      >>> from experiments import config
      >>> mine = config.base("structured_prediction")
      >>> depends_on_num_steps(config.read(mine)) is None
      True
      >>> mine.learning_rate_schedule = "cosine"
      >>> depends_on_num_steps(config.read(mine))
      'learning_rate_schedule=cosine'
    """
    if "share" in SCHEDULES[settings.temperature.name]:
        return f"temperature.name={settings.temperature.name}"
    if settings.learning_rate_schedule != "constant":
        return f"learning_rate_schedule={settings.learning_rate_schedule}"
    return tasks.load(settings.task).depends_on_num_steps(settings)


def shorter_steps(workdir: Path, settings: Settings) -> int | None:
    """The number of steps that the directory's run was to take, if ours is the same but longer.

    Returns:
      None if the directory has no run yet, or one of this length.

    Raises:
      UserError: it belongs to another config, or to one that depends on the number of steps; or a
        file is damaged.
    """
    theirs, ours = rundir.recorded_config(workdir), settings.flat()
    if theirs is None:
        return None
    steps = int(theirs["num_steps"])
    if config.differing(theirs, ours).keys() - {"num_steps"} or steps > settings.num_steps:
        rundir.refuse_another(theirs, ours, workdir)
    if steps == settings.num_steps:
        return None
    if reason := depends_on_num_steps(settings):
        raise UserError(
            f"--workdir={workdir} has a run of {steps} steps that cannot be made longer: its "
            f"config.{reason} depends on config.num_steps; choose another directory"
        )
    return steps


def stray_checkpoint(workdir: Path, steps: int | None, settings: Settings) -> int | None:
    """The step of a checkpoint at which a longer run saves none; it resumes from the one before.

    At its end, a run logs and saves, which may be between the steps at which a longer one does.

    Args:
      workdir: the run's directory.
      steps: the steps of the shorter run, if the directory has one.
      settings: of the longer run.
    """
    if not steps or steps % settings.eval_every == 0:
        return None
    saved = rundir.saved_steps(workdir)
    if saved == [steps]:
        _log.warning(
            "%s: the only checkpoint is of step %d, at which a longer run saves none: starting "
            "from step 0",
            workdir,
            steps,
        )
    return steps if steps in saved else None


def keep_result(workdir: Path, steps: int) -> None:
    """Keeps the result of a run of `steps` steps, if it has one, as `result-STEPS.json`."""
    result = workdir / rundir.RESULT
    if result.exists():
        result.replace(result.with_name(f"{result.stem}-{steps}.json"))
