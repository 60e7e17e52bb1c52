"""The picture of swept temperature schedules: what each did over the steps, and what it came to."""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.errors import UserError
from experiments.files import replacing
from experiments.sweeps import grids
from experiments.sweeps.plot import labels_of, list_settings
from experiments.sweeps.report import Row, samples
from experiments.sweeps.window import window
from experiments.training import records
from experiments.training.job import Job
from experiments.training.rundir import METRICS

Curve = dict[int, float]  # by step

_log = logging.getLogger(__name__)

_MOST = 20  # settings, the colors that can be told apart
_SETTLED = 0.2  # of the steps: before, bounds fall too fast to compare


def draw(
    path: Path, jobs: Sequence[Job], rows: Sequence[Row], keys: Sequence[str], label: str
) -> None:
    """Draws the picture as a PNG; see `figure_of`."""
    with mpl.rc_context({"font.size": 9}), replacing(path) as file:
        figure_of(jobs, rows, keys, label).savefig(file, format="png", dpi=120)


def figure_of(jobs: Sequence[Job], rows: Sequence[Row], keys: Sequence[str], label: str) -> Figure:
    """Temperatures and validation bounds over the steps, and the final losses with intervals.

    A setting has one color in all three. Over the steps a line is the mean over its seeds.

    Args:
      jobs: all runs of the sweep; those under way show as far as they are.
      rows: the settings, the best first.
      keys: keys that differ between them.
      label: name of the loss, with its unit.
    """
    shown = rows[:_MOST]
    labels, colors = labels_of(shown, keys), [mpl.colormaps["tab20"](i) for i in range(len(shown))]
    logs = _logs(jobs)
    lines = sum(text.count("\n") + 1 for text in labels)
    figure = Figure(figsize=(10, 4.2 + 0.22 * lines), layout="constrained")
    parts = figure.add_gridspec(2, 2, height_ratios=(3.4, 0.8 + 0.22 * lines))
    temperatures = figure.add_subplot(parts[0, 0])
    bounds = figure.add_subplot(parts[0, 1])
    for row, color in zip(shown, colors, strict=True):
        mine = logs.get(grids.name(row.setting), [])
        _line(temperatures, [_curve(log, "temperature") for log in mine], color)
        _line(bounds, [_curve(log, "validation_bound") for log in mine], color)
    temperatures.set(xlabel="step", ylabel="temperature", yscale="log")
    temperatures.yaxis.set_major_formatter("{x:g}")
    temperatures.yaxis.set_minor_formatter("{x:g}")
    _zoom(bounds)
    counts = samples(job.settings.monitor_num_samples for job in jobs)
    bounds.set(xlabel="step", ylabel=f"validation bound, nats, {counts}")
    final = figure.add_subplot(parts[1, :])
    list_settings(final, shown, labels, label, colors)
    if len(keys) == 1:
        final.set_ylabel(keys[0])
    if len(shown) < len(rows):
        final.set_title(f"the best {len(shown)} of {len(rows)} settings")
    return figure


def _logs(jobs: Sequence[Job]) -> dict[str, list[list[dict[str, Any]]]]:
    """The metrics of each setting's runs that have begun, by the setting's name."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for job, setting in zip(jobs, grids.settings_of(jobs), strict=True):
        if (job.workdir / METRICS).exists():
            try:
                log = records.read_metrics(job.workdir / METRICS)
            except UserError as error:
                _log.warning("%s; the picture leaves this run out", error)
                continue
            found.setdefault(grids.name(setting), []).append(log)
    return found


def _curve(log: Sequence[Mapping[str, Any]], name: str) -> Curve:
    return {row["step"]: row[name] for row in log if row.get(name) is not None}


def _line(axes: Axes, curves: Sequence[Curve], color: Any) -> None:
    """The mean of the curves, at the steps that all of them have."""
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [statistics.fmean(curve[step] for curve in curves) for step in steps]
    if steps:
        axes.plot(steps, means, color=color, linewidth=1.2)


def _zoom(axes: Axes) -> None:
    """Limits the losses to those that have settled and are no outliers."""
    points = [np.asarray(line.get_xydata()) for line in axes.lines]
    last = max((each[-1, 0] for each in points), default=0.0)
    settled = [loss for each in points for step, loss in each if step >= _SETTLED * last]
    if len({loss for loss in settled if math.isfinite(loss)}) > 1:
        axes.set_ylim(window(settled).limits())
