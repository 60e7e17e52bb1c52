"""A picture of a comparison: bias against noise, and error by time."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.training import plots
from gumbel.lab import Comparison, Row

_BUDGETS = 60  # points of a curve


def draw(path: Path, found: Comparison, *, title: str) -> None:
    """Draws the rows of all parameters.

    On the left every estimator and temperature: the area of a dot is the time of an estimate, and a
    hollow one has a bias that cannot be told from 0. On the right each estimator at its best
    temperature: the error of the average of as many estimates as fit into a time.

    Args:
      path: path of the PNG.
      found: comparison with at least one finite error.
      title: title of the figure.
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
    _scale(axes)
    axes.set(xlabel="noise / norm", ylabel="bias / norm")
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
    _scale(axes)
    axes.set(xlabel="milliseconds for a gradient", ylabel="mean squared error / norm squared")
    axes.set_title("error at equal time (dashed: biased)", fontsize=9)


def _scale(axes: Axes) -> None:
    """Makes each axis that has a positive value logarithmic: gradients may all be 0."""
    for scale, largest in ((axes.set_xscale, axes.dataLim.x1), (axes.set_yscale, axes.dataLim.y1)):
        if largest > 0:
            scale("log")
