"""A sweep as a table on a terminal: the best settings so far, the runs under way, and failures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments import tasks
from experiments.sweeps import grids
from experiments.sweeps.progress import Standing, nats
from experiments.training.job import Job

_MOST, _MOST_FAILURES = 12, 5


def view(
    jobs: Sequence[Job],
    standings: Sequence[Standing],
    failures: Mapping[Path, str],
    footer: str,
) -> RenderableType:
    """The table, what failed and why, and a last line.

    Settings are ranked as in the report, by the task's loss: by the mean of their finished runs,
    then by that of the others, and after those the settings with a failed run.

    Args:
      jobs: all runs of the sweep.
      standings: standings of the jobs.
      failures: why runs failed, by directory.
      footer: the last line.

    Example:
      >>> from rich.console import Console
      >>> Console(width=40).print(view([], [], {}, "0/0 runs"))
      0/0 runs
    """
    parts: list[RenderableType] = []
    if jobs:
        parts.append(_table(jobs, standings, failures))
    lost = [(job, failures[job.workdir]) for job in jobs if job.workdir in failures]
    for job, reason in lost[:_MOST_FAILURES]:
        parts.append(Text(f"failed: {grids.label(job.overrides)}: {reason}", style="red"))
    if len(lost) > _MOST_FAILURES:
        parts.append(Text(f"and {len(lost) - _MOST_FAILURES} more failed", style="red"))
    return Group(*parts, Text(footer))


def _table(
    jobs: Sequence[Job], standings: Sequence[Standing], failures: Mapping[Path, str]
) -> Table:
    settings: dict[str, list[tuple[Job, Standing]]] = {}
    for setting, job, there in zip(grids.settings_of(jobs), jobs, standings, strict=True):
        settings.setdefault(grids.label(setting), []).append((job, there))
    ranked = sorted(settings.items(), key=lambda item: _rank(item[1], failures))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold")
    label = tasks.load(jobs[0].settings.task).ranking.label
    measure = label.removeprefix("validation ").partition(",")[0]
    for name in (measure, "done", "failed", "step"):
        table.add_column(name, justify="right", no_wrap=True)
    for text, runs in ranked[:_MOST]:
        going = [s.step for job, s in runs if not s.done and job.workdir not in failures]
        table.add_row(
            text,
            _loss([standing for _, standing in runs]),
            f"{sum(s.done for _, s in runs)}/{len(runs)}",
            str(sum(job.workdir in failures for job, _ in runs) or ""),
            f"{min(going)}" if any(going) else "",
        )
    if len(ranked) > _MOST:
        table.add_row(f"and {len(ranked) - _MOST} more settings", "", "", "", "")
    return table


def _known(standings: Sequence[Standing]) -> list[float]:
    """The losses of the finished runs, or else of those under way."""
    ended = [s for s in standings if s.done] or standings
    return [s.loss for s in ended if math.isfinite(s.loss)]


def _rank(
    runs: Sequence[tuple[Job, Standing]], failures: Mapping[Path, str]
) -> tuple[bool, bool, float]:
    standings = [standing for _, standing in runs]
    losses = _known(standings)
    failed = any(job.workdir in failures for job, _ in runs)
    done = any(s.done for s in standings)
    return failed, not (done and losses), statistics.fmean(losses) if losses else math.inf


def _loss(standings: Sequence[Standing]) -> str:
    losses = _known(standings)
    if not losses:
        return ""
    text = nats(statistics.fmean(losses))
    return text if any(s.done for s in standings) else f"({text})"
