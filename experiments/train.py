"""Trains one model with one estimator.

python -m experiments.train --config=configs/sbn.py --workdir=DIR [--config.KEY=VALUE ...]
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import config as configs
from experiments import tasks
from experiments.config import Overrides, cli
from experiments.settings import Settings
from experiments.training import run, rundir, trackers
from experiments.training.compilations import keep_compilations
from experiments.training.loop import Stopped

_log = logging.getLogger(__name__)


def main(
    config: ConfigDict, workdir: str, overrides: Overrides, given: Mapping[str, Any] | None = None
) -> int:
    """Trains one model with one estimator; rerun the same command to resume a stopped run.

    Args:
      config: of the run.
      workdir: its directory.
      overrides: of the config.
      given: the flags; their defaults if None.
    """
    shown = trackers.chosen((given or {}).get("tracker", trackers.DEFAULT))
    settings = configs.read(config)
    for key, why in configs.unread(settings).items():
        if key in overrides:
            _log.warning("--config.%s does nothing: %s", key, why)
    keep_compilations()
    finished = rundir.is_finished(Path(workdir), settings.num_steps)
    try:
        result = run.train(settings, workdir, overrides, shown_by=shown)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    if finished:
        print(f"{workdir} holds a finished run: choose another --workdir to train again")
    print(summary(settings, result))
    print(f"numbers: {Path(workdir) / rundir.RESULT}\npicture: {Path(workdir) / rundir.PICTURE}")
    return 0


def summary(settings: Settings, result: Mapping[str, Any]) -> str:
    """The result of a run, a line for the bounds and one for each metric of the task."""
    samples = settings.final_num_samples
    test, validation = result["test_bound"], result["validation_bound"]
    bounds = f"test {_shown(test)} ({samples['test']}-sample bound, nats)"
    lines = [f"{bounds}, validation {_shown(validation)} ({samples['validation']}-sample)"]
    metrics = tasks.load(settings.task).metrics
    for name, unit in metrics.units.items() if metrics else ():
        test, validation = result[f"test_{name}"], result[f"validation_{name}"]
        lines.append(f"{name}: test {_shown(test)} {unit}, validation {_shown(validation)} {unit}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    """A number of a result; those that are not finite were recorded as null."""
    return "not finite" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(cli.run(main, define_flags=trackers.define_flags))
