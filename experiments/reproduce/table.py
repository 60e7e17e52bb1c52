"""What the tables share: jobs by cell and stage, what is picked of them, intervals over seeds."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Self

from ml_collections import ConfigDict

from experiments import config
from experiments.config import Overrides
from experiments.errors import UserError
from experiments.files import ROOT, read_json, write_text
from experiments.reproduce.store import Record, Store
from experiments.sweeps import grids
from experiments.sweeps.engines.attempt import has_failed
from experiments.sweeps.intervals import interval
from experiments.training import records, rundir
from experiments.training.job import Job
from experiments.training.provenance import origin

PAPER: dict[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text())
CONFIGS = ROOT / "configs"
PICK_SEED = 1000  # of picking runs; no final run has it


class Wave(NamedTuple):
    """Jobs that may train at once, for a cell or several."""

    name: str
    jobs: list[Job]


class Runs:
    """The runs of a table, and their records.

    Args:
      directory: where the runs train.
      store: their records.
    """

    # The loss that a run still to be done has in `ranked`; with None, nothing is ranked before all
    # are done.
    assumed: float | None = None

    def __init__(self, directory: Path, store: Store) -> None:
        self.directory, self.store = directory, store

    @classmethod
    def of_table(cls, name: str, workdir: Path, results: Path) -> Self:
        """Those of a table, each in a directory of its name."""
        directory = workdir.absolute() / name
        return cls(directory, Store(results / name, directory))

    def jobs(self, base: ConfigDict, path: str, trials: Sequence[Overrides]) -> list[Job]:
        """A job for each trial over the config, in directories below `path`."""
        return [
            Job(
                config.read(grids.config_at(base, trial)),
                self.directory / path / grids.name(trial),
                trial,
            )
            for trial in trials
        ]

    def missing(self, name: str, jobs: Sequence[Job]) -> Wave:
        """The wave of those jobs that have no record yet.

        Raises:
          UserError: the record or the directory of one is another config's.
        """
        return Wave(name, [job for job in jobs if self.store.record(job) is None])

    def best(
        self, jobs: Sequence[Job], loss: Callable[[Record], float | None], keys: Sequence[str]
    ) -> Overrides | None:
        """What was overridden, of `keys`, by the job with the least loss.

        Args:
          jobs: jobs to pick from.
          loss: the loss of a record; None for a run that does not count.
          keys: keys that are picked.

        Returns:
          None if a job is still to be done, or all have diverged.
        """
        ranked = self.ranked(jobs, loss, keys)
        return ranked[0] if ranked else None

    def ranked(
        self, jobs: Sequence[Job], loss: Callable[[Record], float | None], keys: Sequence[str]
    ) -> list[Overrides]:
        """What was overridden, of `keys`, by each job with a loss, from the least loss on.

        Args:
          jobs, loss, keys: see `best`.

        Returns:
          An empty list if a job is still to be done, or all have diverged. One that failed for
          another reason, such as a lack of memory, is still to be done: its loss is unknown.
        """
        losses = {}
        for index, job in enumerate(jobs):
            record = self.store.record(job)
            if record is None and not self.store.diverged(job):
                if self.assumed is None:
                    return []
                losses[index] = self.assumed
            if record is not None and (value := loss(record)) is not None:
                losses[index] = value
        overrides = [jobs[index].overrides for index in sorted(losses, key=losses.__getitem__)]
        return [{key: each[key] for key in keys if key in each} for each in overrides]

    def records(self, jobs: Sequence[Job]) -> list[Record]:
        """The records of the jobs that are finished."""
        return [record for job in jobs if (record := self.store.record(job))]

    def failures(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Of a cell's final jobs, how many diverged, in training or at the end; empty for none."""
        found = [self.store.record(job) for job in jobs]
        failed = [
            self.store.diverged(job) if record is None else record["test_bound"] is None
            for job, record in zip(jobs, found, strict=True)
        ]
        return {"failed": sum(failed)} if any(failed) else {}

    def why_missing(self, jobs: Sequence[Job]) -> str:
        """Why a table has no number of these jobs: they have failed, or some have not run."""
        done = [
            self.store.record(job) or self.store.diverged(job) or has_failed(job) for job in jobs
        ]
        return "failed" if done and all(done) else "not run"


class Table:
    """What a table of the paper has, whatever its cells are.

    Args:
      preset: how much to do.
      workdir: where the runs train.
      results: where the records of finished runs, the JSON and the Markdown go.
    """

    name: str

    def __init__(self, preset: Any, workdir: Path, results: Path) -> None:
        self.preset, self.workdir, self.results = preset, workdir, results
        self.runs = Runs.of_table(self.name, workdir, results)

    def fresh(self) -> Self:
        """The same table, before it has looked at any run."""
        return type(self)(self.preset, self.workdir, self.results)

    def waves(self) -> Iterator[Wave]:
        """What to train, in priority order, generated lazily: each wave needs those before."""
        raise NotImplementedError

    def refuse_another(self) -> None:
        """Raises UserError if the results have this table by another preset."""
        path = self.results / f"{self.name}.json"
        if not path.exists():
            return
        theirs = read_json(path, {"preset": {"name": str}})["preset"]
        if theirs["name"] != self.preset.name:
            raise UserError(
                f"{path} is of --preset={theirs['name']}: give that, or another --results"
            )

    def claim_results(self) -> None:
        """Raises UserError if the table could not be written, before any run is trained."""
        with self._results_locked():
            self.collect()

    def _results_locked(self) -> AbstractContextManager[None]:
        return rundir.locked(self.results, wait=True, flag="results", name=f".{self.name}.lock")

    def collect(self) -> dict[str, Any]:
        """What the JSON says of the finished runs, besides the preset."""
        raise NotImplementedError

    @staticmethod
    def markdown(table: dict[str, Any]) -> str:
        """The table as Markdown, of what the JSON holds."""
        raise NotImplementedError

    def write(self) -> dict[str, Any]:
        """Writes the table from the finished runs; returns what its JSON holds.

        Processes that share the results take turns, so a table never lacks a run that another
        process has finished.

        Raises:
          UserError: the results have this table by another preset.
        """
        with self._results_locked():
            self.refuse_another()
            path = self.results / f"{self.name}.json"
            table: dict[str, Any] = records.plain(
                {"preset": self.preset._asdict(), **self.collect()}
            )
            records.write_json(path, table)
            write_text(path.with_suffix(".md"), self.markdown(table))
        return table


def provenance_of(found: Sequence[Record]) -> dict[str, Any]:
    """Where the numbers of a cell come from, of the records of its final runs.

    A record from before runs named all their processes names the last one.
    """
    origins = [each for record in found for each in record.get("origins") or [origin(record)]]
    return {
        "steps": found[0]["steps"],
        "test_num_samples": found[0]["test_num_samples"],
        "devices": sorted({each["device"] for each in origins}),
        "jax": sorted({each["jax"] for each in origins}),
        "commits": sorted({_commit(each["git"]) for each in origins if each["git"]}),
    }


def _commit(git: dict[str, Any]) -> str:
    return f"{git['commit']}{'+changes' if git.get('dirty') else ''}"


def summary(values: Sequence[float]) -> dict[str, Any]:
    """What a table's JSON says of the values of several seeds."""
    return {"mean": statistics.fmean(values), "ci95": interval(values), "values": list(values)}


def shown(
    mean: float, ci95: Sequence[float] | None, seeds: int, of: int, *, failed: int = 0
) -> str:
    """A mean with half the width of its interval, and of how many seeds where some are missing.

    Args:
      mean, ci95: of the seeds that there are.
      seeds: how many there are.
      of: how many there should be.
      failed: how many of those that are missing diverged.

    Example:
      >>> shown(60.0, [57.5, 62.5], 3, 3), shown(60.0, [57.5, 62.5], 2, 3), shown(60.0, None, 1, 3)
      ('60.0 ± 2.5', '60.0 ± 2.5, 2 of 3 seeds', '60.0, one seed')
      >>> shown(60.0, [57.5, 62.5], 2, 3, failed=1)
      '60.0 ± 2.5, 2 of 3 seeds, 1 diverged'
    """
    diverged = f", {failed} diverged" if failed else ""
    if ci95 is None:
        return f"{mean:.1f}, one seed{diverged}"
    partly = f", {seeds} of {of} seeds" if seeds < of else ""
    return f"{mean:.1f} ± {(ci95[1] - ci95[0]) / 2:.1f}{partly}{diverged}"
