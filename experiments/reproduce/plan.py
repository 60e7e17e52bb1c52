"""What a table still has to train, by wave: known before anything is trained or picked."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.reproduce.store import Store
from experiments.reproduce.table import Runs, Table, Wave
from experiments.settings import Settings
from experiments.sweeps.engines import Options, vmapped
from experiments.training import rundir
from experiments.training.job import Job


class Group(NamedTuple):
    """Runs that train as one program.

    Attributes:
      settings: settings of the first run; the others differ only in dynamic hyperparameters.
      runs: number of runs.
      steps: steps that the group still has to take, from its checkpoints on.
    """

    settings: Settings
    runs: int
    steps: int


class PlannedWave(NamedTuple):
    """What a wave has done and has to do.

    Attributes:
      name: name of the wave.
      done: runs with a record.
      failed: runs that have diverged.
      left: runs to train.
      groups: the groups in which they train.
    """

    name: str
    done: int
    failed: int
    left: list[Job]
    groups: list[Group]

    @property
    def steps(self) -> int:
        """The steps that all the runs are to take."""
        return sum(group.runs * group.steps for group in self.groups)


class _Planned(Runs):
    """The runs of a table that is only planned; its waves are noted.

    A choice among runs that are not all done falls on the best of those that are, or else on the
    first: the choice changes neither the number of runs nor what they take.
    """

    assumed = math.inf

    def __init__(self, runs: Runs) -> None:
        store = Store(runs.store.records_dir, runs.store.runs_dir, writes=False)
        super().__init__(runs.directory, store)
        self.noted: list[tuple[str, list[Job], list[Job]]] = []
        self._seen: set[str] = set()

    def missing(self, name: str, jobs: Sequence[Job]) -> Wave:
        """The wave, without the runs that one before it has trained already."""
        new = [job for job in jobs if str(job.workdir) not in self._seen]
        self._seen |= {str(job.workdir) for job in new}
        wave = super().missing(name, new)
        self.noted.append((name, new, wave.jobs))
        return wave


def waves(table: Table, engine: str, options: Options) -> list[PlannedWave]:
    """All waves of a table, done or not, in the order in which they train.

    Args:
      table: table to plan; it is not changed.
      engine: `vmap` trains runs of one program together, the others train each alone.
      options: options of the engine.
    """
    ours = table.fresh()
    ours.runs = planned = _Planned(ours.runs)
    for _ in ours.waves():
        pass
    found = []
    for name, jobs, missing in planned.noted:
        failed = [job for job in missing if planned.store.diverged(job)]
        left = [job for job in missing if job not in failed]
        groups = _groups(left, engine, options)
        found.append(PlannedWave(name, len(jobs) - len(missing), len(failed), left, groups))
    return found


def _groups(jobs: Sequence[Job], engine: str, options: Options) -> list[Group]:
    together = [[job] for job in jobs]
    if engine == "vmap" and jobs:
        together = vmapped.grouped(jobs, vmapped.limits_of(jobs, options))
    return [Group(of[0].settings, len(of), max(map(_steps_left, of))) for of in together]


def _steps_left(job: Job) -> int:
    saved = rundir.saved_steps(job.workdir)
    return max(0, job.settings.num_steps - (saved[-1] if saved else 0))
