"""Where a run is logged in addition to its own files: TensorBoard, Weights & Biases, MLflow.

`metrics.jsonl` and `result.json` are the record. A tracker is given what they hold: the config, the
lines of metrics, the picture and the final bounds. One that fails later on is left out with a
warning, and the run continues.
"""

import importlib
import importlib.util
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from absl import flags

from experiments.errors import UserError, one_line
from experiments.files import read_json
from experiments.training import records
from experiments.training.rundir import SWEEP

IDS = "trackers.json"  # in a run's directory: its name at each tracker, for when it resumes
DEFAULT = ("tensorboard",)

_log = logging.getLogger(__name__)


class Backend(NamedTuple):
    """Where the code of a tracker is.

    Attributes:
      module: module whose `start(run)` makes the tracker; imported when it is chosen.
      package: package that the module needs.
      extra: extra of this project that installs the package.
    """

    module: str
    package: str
    extra: str


TRACKERS = {
    "tensorboard": Backend(
        "experiments.training.trackers.tensorboard", "tensorboardX", "experiments"
    ),
    "wandb": Backend("experiments.training.trackers.weights_and_biases", "wandb", "wandb"),
    "mlflow": Backend("experiments.training.trackers.ml_flow", "mlflow", "mlflow"),
}


class Tracked(NamedTuple):
    """What a tracker is told of a run.

    Attributes:
      workdir: its directory.
      name: name to show.
      group: the name of the sweep's directory, or of the one that holds the run.
      config: flat config of the run.
      id: id of the run at this tracker, new for a run that it does not know yet.
      rows: the lines of metrics before those that it will be given.
    """

    workdir: Path
    name: str
    group: str
    config: Mapping[str, Any]
    id: str
    rows: Sequence[Mapping[str, Any]]


class Tracker(Protocol):
    """One place where a run is shown."""

    id: str  # by which the run is found again when it resumes; empty if it needs none

    def log(self, row: Mapping[str, Any]) -> None:
        """Takes a line of the metrics: its step and its scalars, None for one that has no value."""

    def finish(self, result: Mapping[str, Any], picture: Path) -> None:
        """Takes the bounds and other final numbers, and the picture."""

    def close(self) -> None:
        """Leaves the run, finished or not."""


class Trackers:
    """The trackers of one run.

    Args:
      names: names of the trackers.
      workdir: the run's directory.
      config: flat config of the run.
      rows: the lines of metrics so far.

    Raises:
      UserError: one of them cannot be started.
    """

    def __init__(
        self,
        names: Sequence[str],
        workdir: Path,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        self._workdir, self._open = workdir, dict[str, Tracker]()
        path = workdir / IDS
        ids = dict(read_json(path, {str: str})) if path.exists() else {}
        place = workdir.absolute()
        sweeps = [parent for parent in place.parents[:2] if (parent / SWEEP).exists()]
        group = (sweeps or [place.parent])[0].name
        for name in names:
            known = ids.get(name) or uuid.uuid4().hex[:12]
            tracked = Tracked(workdir, place.name, group, config, known, rows)
            try:
                self._open[name] = importlib.import_module(TRACKERS[name].module).start(tracked)
            except Exception as error:
                self.close()
                raise UserError(f"--tracker={name} cannot start: {one_line(error)}") from error
            ids[name] = self._open[name].id
        if any(ids.values()):
            records.write_json(path, ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, row: Mapping[str, Any]) -> None:
        """Hands on a line of the metrics."""
        self._each(lambda tracker: tracker.log(row))

    def finish(self, result: Mapping[str, Any], picture: Path) -> None:
        """Hands on the numbers of `result` that are scalars, and the picture."""
        numbers = {
            key: value
            for key, value in result.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._each(lambda tracker: tracker.finish(numbers, picture))

    def close(self) -> None:
        """Leaves the run at every tracker."""
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever it is, the run matters more
                del self._open[name]
                _log.warning(
                    "%s: --tracker=%s is left out from here on: %s",
                    self._workdir,
                    name,
                    one_line(error),
                )


def define_flags(values: flags.FlagValues) -> None:
    """The flag of commands that train."""
    flags.DEFINE_multi_enum(
        "tracker",
        list(DEFAULT),
        [*TRACKERS, "none"],
        "where to log metrics, pictures and bounds; tensorboard by default",
        flag_values=values,
    )


def trackers_of_flags(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers that the flag names.

    Raises:
      UserError: `none` together with others, or a package that is not installed.

    Example:
      >>> trackers_of_flags(["none"]), trackers_of_flags(["tensorboard"])
      ((), ('tensorboard',))
    """
    unique = tuple(dict.fromkeys(names))
    if "none" in unique:
        if len(unique) > 1:
            raise UserError("--tracker=none is given with another: leave one of them out")
        return ()
    for name in unique:
        backend = TRACKERS[name]
        if not _installed(backend.package):
            raise UserError(
                f"--tracker={name} needs {backend.package}, which is not installed: "
                f"pip install -e '.[{backend.extra}]', or choose another"
            )
    return unique


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module that is imported and has no spec
        return True
