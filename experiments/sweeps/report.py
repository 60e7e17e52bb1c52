"""The report of a sweep: its settings ranked by validation loss, as a table and a plot.

The loss is the task's: the bound, or the error of a classifier. The test set is left out: settings
are picked on the validation set alone.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import tasks
from experiments.errors import UserError
from experiments.files import markdown_table, write_text
from experiments.sweeps import grids
from experiments.sweeps.progress import how_far, nats
from experiments.tasks.base import BOUND, Ranking
from experiments.training import records, rundir
from experiments.training.job import Job

TABLE, TEXT, PLOT, CURVES = "table.json", "table.md", "sweep.png", "schedules.png"
FILES = (TABLE, TEXT, PLOT, CURVES)
_MOST_SHOWN = 40  # settings, on a terminal


class Row(NamedTuple):
    """One setting of the swept keys other than the seed.

    Attributes:
      setting: the values of the keys that the sweep overrides and that its runs read, without the
        seed; see `grids.settings_of`.
      losses: `{seed: loss}` of its finished runs.
      missing: `{run's directory name: why}` of the others.
    """

    setting: dict[str, Any]
    losses: dict[int, float]
    missing: dict[str, str]

    @property
    def mean(self) -> float:
        """Over the seeds; infinite if no run has finished."""
        return statistics.fmean(self.losses.values()) if self.losses else math.inf


def rows_of(jobs: Sequence[Job], failures: Mapping[Path, str]) -> list[Row]:
    """The settings, the best first.

    Settings with a failed run come after all others: otherwise, those whose bad seeds diverge would
    benefit. Of equals, those with a missing run come last.

    Args:
      jobs: all runs of the grid.
      failures: why runs failed, by directory.
    """
    rows: dict[str, Row] = {}
    failed: set[str] = set()
    task = jobs[0].settings.task
    ranking = tasks.load(task).ranking
    shape = {"seed": int, **rundir.validation_shape(task)}
    for job, setting in zip(jobs, grids.settings_of(jobs), strict=True):
        name = grids.name(setting)
        row = rows.setdefault(name, Row(setting, {}, {}))
        try:
            result = rundir.result_of(job.workdir, job.settings, shape)
        except UserError as error:  # of this run alone
            row.missing[job.workdir.name] = str(error)
            continue
        if result is None:
            row.missing[job.workdir.name] = failures.get(job.workdir) or how_far(job)
            if job.workdir in failures:
                failed.add(name)
        else:
            row.losses[result["seed"]] = ranking.loss(result)

    def place(name: str) -> tuple[bool, float, int]:
        return name in failed, rows[name].mean, len(rows[name].missing)

    return [rows[name] for name in sorted(rows, key=place)]


def write(directory: Path, jobs: Sequence[Job], failures: Mapping[Path, str]) -> str:
    """Writes the table, as JSON and Markdown, and the plots; returns the Markdown.

    Where the temperature is swept, a second plot has its schedules and the bounds over the steps.
    """
    rows = rows_of(jobs, failures)
    keys = grids.varied([row.setting for row in rows])
    ranking = tasks.load(jobs[0].settings.task).ranking
    from experiments.sweeps import curves, plot  # matplotlib takes a second to import

    label = _loss(ranking, jobs)
    text = markdown(rows, keys, label)
    records.write_json(
        directory / TABLE,
        {
            "loss": label,
            "keys": keys,
            "rows": [
                {
                    "overrides": row.setting,
                    "mean": row.mean,
                    "by_seed": {str(seed): value for seed, value in row.losses.items()},
                    "missing": row.missing,
                }
                for row in rows
            ],
        },
    )
    write_text(directory / TEXT, text)
    plot.draw(directory / PLOT, rows, keys, label)
    if any(key.startswith("temperature.") for key in keys):
        curves.draw(directory / CURVES, jobs, rows, keys, label)
    return text


def _loss(ranking: Ranking, jobs: Sequence[Job]) -> str:
    """What the settings are ranked by, and of a bound, by how many samples."""
    if ranking is not BOUND:
        return ranking.label
    return (
        f"{ranking.label}, {samples(job.settings.final_num_samples['validation'] for job in jobs)}"
    )


def samples(counts: Iterable[int]) -> str:
    """The numbers of samples of bounds, in words.

    Example:
      >>> samples([1, 1]), samples([100, 20])
      ('1 discrete sample', '20 or 100 discrete samples')
    """
    known = sorted(set(counts))
    plural = "" if known == [1] else "s"
    return f"{' or '.join(map(str, known))} discrete sample{plural}"


def shown(text: str, path: Path) -> str:
    """The head of a table, for the terminal, and where the rest of a long one is."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= _MOST_SHOWN + 3:
        return text
    rest = len(lines) - 2 - _MOST_SHOWN
    return "".join([*lines[: 2 + _MOST_SHOWN], f"and {rest} more settings in {path}\n"])


def plots_in(directory: Path) -> list[Path]:
    """The plots that `write` has drawn."""
    return [path for name in (PLOT, CURVES) if (path := directory / name).exists()]


def markdown(rows: Sequence[Row], keys: Sequence[str], label: str) -> str:
    """The table, a line a setting; several seeds show as their mean and range.

    Example:
      >>> row = Row({"momentum": 0.9}, {0: 61.5, 1: 62.5}, {})
      >>> print(markdown([row], ["momentum"], "validation bound, nats"))
      | momentum | validation bound, nats | seeds |
      | --- | --- | --- |
      | 0.9 | 62.00 (61.50 to 62.50) | 2 |
      <BLANKLINE>
    """
    head = [*keys, label, "seeds"]
    missing = any(row.missing for row in rows)
    lines = []
    for row in rows:
        losses = row.losses.values()
        shown = nats(row.mean) if losses else ""
        if len(losses) > 1:
            shown += f" ({nats(min(losses))} to {nats(max(losses))})"
        cells = [str(row.setting.get(key, "")) for key in keys] + [shown, str(len(losses))]
        if missing:
            cells.append("; ".join(f"{name}: {why}" for name, why in row.missing.items()))
        lines.append(cells)
    return markdown_table([*head, "missing"] if missing else head, lines)
