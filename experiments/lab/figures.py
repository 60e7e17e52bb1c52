"""Pictures of comparisons: bias against noise, error by time, and both while a model trains."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.training import plots
from gumbel.comparison import Comparison, Row

_BUDGETS = 60  # points of a curve


def draw(path: Path, found: Comparison, *, title: str) -> None:
    """Draws the rows of all parameters.

    On the left every estimator and temperature: the area of a dot is the time of an estimate, and a
    hollow one has a bias that cannot be told from 0. On the right each estimator at its best
    temperature: the error of the average of as many estimates as fit into a time.

    Args:
      path: of the PNG.
      found: with a row at least.
      title: of the figure.
    """
    rows = found.of_group()
    color_of = plots.colors_of(row.estimator for row in rows)
    with plots.figure_at(path, (12, 5.5)) as figure:
        left, right = figure.subplots(1, 2)
        _bias_and_noise(left, rows, color_of)
        _error_by_time(right, rows, color_of, found.budgets())
        lines = right.get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=7, fontsize=8)
        figure.suptitle(f"{title}; true gradient: {found.reference}", fontsize=9)


def draw_stages(path: Path, stages: Mapping[str, Mapping[int, Comparison]]) -> None:
    """A column a model, by step of its training: the error of one estimate, and at equal time.

    Every estimator is at its best temperature of each stage. The time is a hundred times the median
    of the model's estimates, enough to average noise away, so what remains is mostly bias.

    Args:
      path: of the PNG.
      stages: `{model: {step: comparison}}`.
    """
    names = [row.estimator for each in stages.values() for f in each.values() for row in f.rows]
    color_of = plots.colors_of(sorted(set(names)))
    per_line = 2 * len(stages)  # in the legend
    height = 7.0 + 0.17 * math.ceil(len(color_of) / per_line)
    with plots.figure_at(path, (3.6 * len(stages) + 0.4, height), dpi=110) as figure:
        axes = figure.subplots(2, len(stages), squeeze=False, sharex="col")
        for column, (title, found) in enumerate(stages.items()):
            time = float(np.median([each.budgets()[1] for each in found.values()]))
            _by_stage(axes[0, column], found, color_of, None)
            _by_stage(axes[1, column], found, color_of, time)
            axes[0, column].set_title(title)
            axes[1, column].set_title(f"in {time:.3g} ms", fontsize=9)
            axes[1, column].set(xlabel="step")
            axes[1, column].set_xticks(range(len(found)), [f"{step:,}" for step in found])
        axes[0, 0].set_ylabel("root mean squared error / norm, one estimate")
        axes[1, 0].set_ylabel("the same at equal time")
        ordered = dict(sorted(plots.labeled_lines(axes[0]).items()))
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": per_line}
        figure.legend(ordered.values(), ordered, **place, fontsize=8)
        figure.suptitle("Gradients while a model trains (dashed: biased)", fontsize=10)


def _by_stage(
    axes: Axes,
    found: Mapping[int, Comparison],
    color_of: dict[str, tuple[float, ...]],
    milliseconds: float | None,
) -> None:
    """The relative error by stage: of one estimate, or of as many as fit into a time."""

    def error(row: Row) -> float:
        return row.error if milliseconds is None else row.error_at(milliseconds)

    for name, color in color_of.items():
        points = [
            (place, min((row for row in rows if row.estimator == name), key=error))
            for place, rows in enumerate(each.of_group() for each in found.values())
            if any(row.estimator == name for row in rows)
        ]
        if points:
            style = "-" if points[0][1].unbiased else "--"
            errors = [np.sqrt(error(row)) / max(row.norm, 1e-30) for _, row in points]
            places = [place for place, _ in points]
            line: dict[str, Any] = {"color": color, "linewidth": 1.1, "marker": ".", "label": name}
            axes.plot(places, errors, style, **line)
    axes.set_yscale("log")


def _bias_and_noise(axes: Axes, rows: list[Row], color_of: dict[str, tuple[float, ...]]) -> None:
    norm = max(rows[0].norm, 1e-30)
    times = np.array([row.milliseconds for row in rows])
    biases = np.array([row.bias for row in rows])
    floor = biases[biases > 0].min() / 2 if np.any(biases > 0) else 1e-6
    sizes = 20 + 300 * times / times.max()
    for row, bias, size in zip(rows, biases, sizes, strict=True):
        noise, color = np.sqrt(row.variance) / norm, color_of[row.estimator]
        told = row.bias_interval[0] > 0
        face = color if told else "none"
        y = max(bias, floor) / norm
        axes.scatter(noise, y, s=size, facecolor=face, edgecolor=color, alpha=0.8)
        at = "" if row.temperature is None else f" {row.temperature:g}"
        axes.annotate(f" {row.estimator}{at}", (noise, y), fontsize=6)
    axes.set(xscale="log", yscale="log", xlabel="noise / norm", ylabel="bias / norm")
    axes.set_title("bias and noise of one estimate (area: time; hollow: no bias found)", fontsize=9)


def _error_by_time(
    axes: Axes,
    rows: list[Row],
    color_of: dict[str, tuple[float, ...]],
    budgets: tuple[float, float],
) -> None:
    norm, last = max(rows[0].norm, 1e-30), 10 * budgets[1]
    for name, color in color_of.items():
        row = min(
            (row for row in rows if row.estimator == name),
            key=lambda row: row.error_at(budgets[1]),
        )
        times = np.geomspace(row.milliseconds, max(last, 10 * row.milliseconds), _BUDGETS)
        errors = [row.error_at(time) / norm**2 for time in times]
        style = "-" if row.unbiased else "--"
        axes.plot(times, errors, style, color=color, linewidth=1.2, label=row.label)
    axes.set(xscale="log", yscale="log", xlabel="milliseconds for a gradient")
    axes.set_ylabel("mean squared error / norm squared")
    axes.set_title("error at equal time (dashed: biased)", fontsize=9)
