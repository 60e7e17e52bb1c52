"""The figures that the paper does not have: every estimator, unbiased ones apart from biased."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from experiments.reproduce.figures import show_the_end, steps_and_bounds
from experiments.reproduce.step_times import BESIDE, StepTimes
from experiments.reproduce.store import Record
from experiments.training import plots
from gumbel import estimators
from gumbel.lab import Comparison, Row

Styles = Mapping[str, Mapping[str, Any]]


def survey(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[Record]]], times: StepTimes
) -> None:
    """The hard validation bound of every estimator, by step and by second.

    Args:
      path: path of the PNG.
      panels: see `figures.curves`.
      times: times of a step; an estimator without one has no line by second, and without any there
        are no such panels.
    """
    lines = 2 if times.seconds else 1
    names = {name for panel in panels.values() for name in panel}

    def draw(half: SubFigure, style_of: Styles) -> np.ndarray:
        axes = half.subplots(lines, len(panels), squeeze=False, sharey="col")
        _draw_survey(axes, panels, times, style_of)
        return axes

    size = (4 * len(panels) + 2, 5.5 * lines + 2)
    with plots.figure_at(path, size, dpi=110) as figure:
        _in_halves(figure, names, "on the rows of Table 1", draw)


def toys(path: Path, rows: Sequence[Mapping[str, Any]], targets: Sequence[float]) -> None:
    """The toys by step, a column a target: the expected cost, and the log variance.

    Args:
      path: path of the PNG.
      rows: result of `toys.write`.
      targets: t of each column.
    """

    def draw(half: SubFigure, style_of: Styles) -> np.ndarray:
        axes = half.subplots(2, len(targets), sharex=True)
        for column, target in enumerate(targets):
            for row in rows:
                if row["target"] != target or row["estimator"] not in style_of:
                    continue
                style = {"linewidth": 1, **style_of[row["estimator"]]}
                axes[0, column].plot(row["steps"], row["cost"], label=row["estimator"], **style)
                axes[1, column].plot(row["steps"], row["log_variance"], **style)
            axes[0, column].axhline(target**2, color="0.7", linewidth=0.8)
            axes[0, column].set_title(f"t = {target}")
            axes[1, column].set(xlabel="step", ylim=(-30, None))
        axes[0, 0].set_ylabel("E[(b - t)^2]; gray: the optimum")
        axes[1, 0].set_ylabel("log variance of the estimate")
        return axes

    with plots.figure_at(path, (13, 14), dpi=110) as figure:
        names = {row["estimator"] for row in rows}
        _in_halves(figure, names, "on (b - t)^2 of a Bernoulli variable", draw)


def lab(path: Path, stages: Mapping[str, Mapping[int, Comparison]]) -> None:
    """A column a model, by step of its training: the error of one estimate, and at equal time.

    Every estimator is at its best temperature of each stage. The time is a hundred times the median
    of the model's estimates, enough to average noise away, so what remains is mostly bias.

    Args:
      path: path of the PNG.
      stages: `{row: {step: comparison}}`.
    """
    names = {row.estimator for each in stages.values() for f in each.values() for row in f.rows}

    def draw(half: SubFigure, style_of: Styles) -> np.ndarray:
        axes = half.subplots(2, len(stages), squeeze=False, sharex="col")
        for column, (name, found) in enumerate(stages.items()):
            time = float(np.median([each.budgets()[1] for each in found.values()]))
            _by_stage(axes[0, column], found, style_of, None)
            _by_stage(axes[1, column], found, style_of, time)
            axes[0, column].set_title(name.replace("_", ", "))
            axes[1, column].set_title(f"in {time:.3g} ms", fontsize=9)
            axes[1, column].set(xlabel="step")
            axes[1, column].set_xticks(range(len(found)), [f"{step:,}" for step in found])
        axes[0, 0].set_ylabel("root mean squared error / norm, one estimate")
        axes[1, 0].set_ylabel("the same at equal time")
        return axes

    with plots.figure_at(path, (3.6 * len(stages) + 2, 14), dpi=110) as figure:
        _in_halves(figure, names, "while a model trains", draw)


def _in_halves(
    figure: Figure,
    names: Iterable[str],
    title: str,
    draw: Callable[[SubFigure, Styles], np.ndarray],
) -> None:
    """Draws unbiased estimators above, biased ones below, each beside `gumbel_softmax`.

    Args:
      figure: figure to draw on.
      names: names of all estimators.
      title: what follows "Biased estimators".
      draw: draws the estimators that have a style; returns the axes, with the labels in the first
        row.
    """
    grid = figure.add_gridspec(2)
    for index, kind in enumerate(("Unbiased", "Biased")):
        half, unbiased = figure.add_subfigure(grid[index]), index == 0
        of_kind = [name for name in sorted(names) if estimators.spec(name).unbiased == unbiased]
        style_of = {**plots.styles_of(of_kind), BESIDE: {"color": "black", "linewidth": 2}}
        labeled = plots.labeled_lines(draw(half, style_of)[0])
        ordered = dict(sorted(labeled.items()))
        place: dict[str, Any] = {"loc": "outside right upper", "fontsize": 8}
        half.legend(ordered.values(), ordered, **place)
        half.suptitle(f"{kind} estimators {title}")


def _draw_survey(
    axes: np.ndarray,
    panels: Mapping[str, Mapping[str, Sequence[Record]]],
    times: StepTimes,
    style_of: Styles,
) -> None:
    """Draws the estimators that have a style."""
    for column, (row, found) in enumerate(panels.items()):
        for name in [name for name in style_of if name in found]:
            steps, bounds = steps_and_bounds(found[name])
            mean, style = bounds.mean(axis=0), {"linewidth": 1, **style_of[name]}
            axes[0, column].plot(steps, mean, label=name, **style)
            if (row, name) in times.seconds:  # from the second point on, as 0 has no logarithm
                seconds = np.asarray(steps[1:]) * times.seconds[row, name]
                axes[1, column].plot(seconds, mean[1:], **style)
        axes[0, column].set(title=row.replace("_", ", "), xlabel="step")
        show_the_end(axes[0, column], found)
    cores = f", CPU cores: {times.cores}" if times.cores else ""
    for below in axes[1:].flat:
        below.set(xlabel=f"seconds of training{cores}", xscale="log")
        below.xaxis.set_major_formatter("{x:g}")
        below.xaxis.set_minor_formatter("")
    for side in axes[:, 0]:
        side.set_ylabel("single-sample validation bound, nats")


def _by_stage(
    axes: Axes,
    found: Mapping[int, Comparison],
    style_of: Styles,
    milliseconds: float | None,
) -> None:
    """The relative error by stage: of one estimate, or of as many as fit into a time."""

    def error(row: Row) -> float:
        return row.error if milliseconds is None else row.error_at(milliseconds)

    for name, style in style_of.items():
        points = [
            (place, min((row for row in rows if row.estimator == name), key=error))
            for place, rows in enumerate(each.of_group() for each in found.values())
            if any(row.estimator == name for row in rows)
        ]
        if points:
            errors = [np.sqrt(error(row)) / max(row.norm, 1e-30) for _, row in points]
            places = [place for place, _ in points]
            line: dict[str, Any] = {"linewidth": 1.1, "marker": ".", "label": name, **style}
            axes.plot(places, errors, **line)
    axes.set_yscale("log")
