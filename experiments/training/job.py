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
      overrides: what was changed from the config file; in a sweep, by its grid.
      trackers: where the run is shown, by name; see `experiments.training.trackers`.
      common: what else was changed, in all runs of a sweep.
    """

    settings: Settings
    workdir: Path
    overrides: Mapping[str, Any]
    trackers: tuple[str, ...] = trackers.DEFAULT
    common: Mapping[str, Any] = {}

    @property
    def changes(self) -> dict[str, Any]:
        """All that was changed from the config file, for the record."""
        return {**self.common, **self.overrides}
