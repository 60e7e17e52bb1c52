"""One training run in one directory: started, stopped, resumed and finished."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import config as configs
from experiments import records, validation
from experiments.compiled import Compiled, prepared_dataset
from experiments.errors import UserError
from experiments.loop import Loop, Stopped
from experiments.members import Job
from experiments.signals import Stop, graceful_stop
from experiments.workdir import CONFIG, METRICS, PICTURE, RESULT, InUseError, claimed

__all__ = [
    "CONFIG",
    "METRICS",
    "PICTURE",
    "RESULT",
    "InUseError",
    "Job",
    "Programs",
    "Stopped",
    "prepared_dataset",
    "train",
    "train_together",
]


class Programs:
    """The program that was compiled last, for the next run if that shares it."""

    def __init__(self) -> None:
        self._kept: tuple[str, Compiled] | None = None

    def compiled(self, config: ConfigDict) -> Compiled:
        """The compiled program of a config."""
        key = configs.program_key(config)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # its data and code may go before the next ones come
            self._kept = key, Compiled(config)
        return self._kept[1]


def train(
    config: ConfigDict,
    workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains to the end and returns what `result.json` holds; a finished run is only read.

    The run goes on from the newest checkpoint in `workdir` if there is one, to the same numbers.

    Args:
      config: see `experiments.config`; validated here.
      workdir: the run's directory; made if absent.
      overrides: what was changed on the command line, for the record.
      progress: show a progress bar (on a terminal) or a line per evaluation.

    Raises:
      UserError: a mistake in the config, the data or the directory; a cost that is not finite.
      Stopped: SIGTERM or Ctrl-C; the state is saved.
    """
    job = Job(config, Path(workdir), overrides or {})
    [result] = train_together([job], progress=progress)
    if isinstance(result, UserError):
        raise result
    return result


def train_together(
    jobs: Sequence[Job],
    *,
    stop: Stop | None = None,
    programs: Programs | None = None,
    progress: bool = False,
) -> list[dict[str, Any] | UserError]:
    """Trains runs as one program, each with the numbers that it has alone, to float32 rounding.

    A single run is not vmapped, so its numbers are the same to the bit however it is started.

    Args:
      jobs: whose configs differ in traced numbers alone.
      stop: looked at while training; by default SIGTERM and Ctrl-C stop the training.
      programs: what was compiled for the jobs before, for these to use.
      progress: as for `train`.

    Returns:
      For each job what `result.json` holds, or why it has none: `InUseError`, a directory that
      belongs to another config, a cost that is not finite.

    Raises:
      UserError: a mistake in the config or the data.
      Stopped: `stop` was requested; the states are saved.
    """
    for job in jobs:
        validation.validate(job.config)
    results: dict[Path, dict[str, Any] | UserError] = {}
    with contextlib.ExitStack() as stack:
        missing = []
        for job in jobs:
            try:
                stack.enter_context(claimed(job.workdir, job.config))
            except UserError as error:
                results[job.workdir] = error
                continue
            if (job.workdir / RESULT).exists():
                results[job.workdir] = records.read_json(job.workdir / RESULT)
            else:
                missing.append(job)
        if missing:
            compiled = (programs or Programs()).compiled(missing[0].config)
            compiled.check_memory(missing[0].config, len(missing))
            # Only now, when nothing was refused: a mended command must find the directory free.
            for job in missing:
                records.write_json(job.workdir / CONFIG, configs.flatten(job.config))
            loop = Loop(missing, compiled, progress=progress)
            with contextlib.nullcontext(stop) if stop is not None else graceful_stop() as asked:
                results |= loop.train(asked)
    return [results[job.workdir] for job in jobs]
