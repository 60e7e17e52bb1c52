"""What there is to train: a run's settings and where it is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.settings import Settings
from experiments.training import trackers


class Job(NamedTuple):
    """One run to train.

    Attributes:
      settings: checked.
      workdir: the run's directory.
      overrides: what was changed from the config file, for the record.
      trackers: where the run is shown, by name; see `experiments.training.trackers`.
    """

    settings: Settings
    workdir: Path
    overrides: Mapping[str, Any]
    trackers: tuple[str, ...] = trackers.DEFAULT
