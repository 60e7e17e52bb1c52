"""Trains one model with one estimator.

python -m experiments.train --config=configs/sbn.py --workdir=DIR [--config.KEY=VALUE ...]

The numbers are the same on any number of devices and machines, to float32 rounding. So flags, not
the config, say where a run trains, and it may resume elsewhere.
"""

import hashlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments import config as configs
from experiments import tasks
from experiments.config import Overrides, cli
from experiments.errors import Stopped
from experiments.settings import Settings
from experiments.training import hosts, placement, run, rundir, trackers
from experiments.training.compilations import keep_compilations

_log = logging.getLogger(__name__)


def define_flags(values: flags.FlagValues) -> None:
    """The flags that say where the run trains, and where it is logged."""
    placement.define_flags(values, "by default 1, or those of all processes")
    hosts.define_flags(values)
    trackers.define_flags(values)


def main(
    config: ConfigDict,
    workdir: Path,
    overrides: Overrides,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Trains one model with one estimator; rerun the same command to resume a stopped run.

    Args:
      config: config of the run.
      workdir: directory of the run.
      overrides: overrides of the config.
      given: values of the flags; defaults for those left out.
    """
    names = trackers.trackers_of_flags(given.get("tracker", trackers.DEFAULT))
    settings = configs.read(config)
    for key, why in configs.unread(settings).items():
        if key in overrides:
            _log.warning("--config.%s does nothing: %s", key, why)
    if coarse := configs.coarse_schedule(settings):
        _log.warning("%s", coarse)
    keep_compilations()
    hosts.join(given)
    devices = placement.count_of(given.get("devices"), None if hosts.several() else 1)
    hosts.refuse_differing("the config", _digest(settings))
    try:
        finished = hosts.by_first(lambda: rundir.result_of(workdir, settings) is not None)
        result = run.train(settings, workdir, overrides, devices=devices, trackers=names)
    except Stopped:
        raise
    except Exception as error:
        hosts.leave_alone(error)
        raise
    if not hosts.is_first():
        return 0
    if finished:
        print(f"{workdir} holds a finished run: choose another --workdir to train again")
    print(summary(settings, result))
    print(f"numbers: {workdir / rundir.RESULT}")
    if (workdir / rundir.PICTURE).exists():
        print(f"picture: {workdir / rundir.PICTURE}")
    return 0


def _digest(settings: Settings) -> bytes:
    return hashlib.sha256(repr(sorted(settings.flat().items())).encode()).digest()


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
    sys.exit(cli.run(main, define_flags=define_flags))
