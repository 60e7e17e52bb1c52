"""The figures: the distribution, the curves of Table 1's final runs, speed and analogies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import gumbel
from experiments.files import read_arrays
from experiments.reproduce.figure5a import ESTIMATORS
from experiments.reproduce.store import Record
from experiments.training import plots

PROBABILITIES = (0.05, 0.1, 0.3, 0.15, 0.1, 0.2, 0.1)
TEMPERATURES = (0.1, 0.5, 1.0, 10.0)


def figure1(path: Path, *, seed: int = 0, num_samples: int = 10_000) -> None:
    """The mean and single samples of the Gumbel-Softmax distribution, as the temperature grows.

    Args:
      path: path of the PNG.
      seed: seed of the samples.
      num_samples: number of samples in the mean.
    """
    logits = jnp.log(jnp.asarray(PROBABILITIES))
    mean_key, sample_key = jax.random.split(jax.random.key(seed))
    repeated = jnp.broadcast_to(logits, (num_samples, len(logits)))

    exact = jnp.asarray(PROBABILITIES)
    columns = [("categorical", exact, _three(sample_key, logits, None))]
    for temperature in TEMPERATURES:
        mean = gumbel.gumbel_softmax(mean_key, repeated, temperature).mean(axis=0)
        samples = _three(sample_key, logits, temperature)
        columns.append((f"temperature {temperature:g}", mean, samples))
    with plots.figure_at(path, (10, 5.5)) as figure:
        axes = figure.subplots(4, len(columns), sharex=True, sharey=True)
        for index, (title, mean, samples) in enumerate(columns):
            for row, values in enumerate((mean, *samples)):
                axes[row, index].bar(np.arange(len(logits)), values, color=f"C{min(row, 1)}")
            axes[0, index].set_title(title)
        axes[0, 0].set_ylabel("expectation")
        axes[2, 0].set_ylabel("samples")
        axes[0, 0].set_ylim(0, 1)


def _three(
    key: Array, logits: Float[Array, " K"], temperature: float | None
) -> Float[Array, "3 K"]:
    """Three samples; those of one key are the same draws at every temperature."""
    repeated = jnp.broadcast_to(logits, (3, len(logits)))
    if temperature is None:
        return gumbel.gumbel_max(key, repeated)
    return gumbel.gumbel_softmax(key, repeated, temperature)


def curves(path: Path, panels: Mapping[str, Mapping[str, Sequence[Record]]], *, title: str) -> None:
    """The validation bound by step: one panel per row, one line per estimator, its seeds a band.

    Args:
      path: path of the PNG.
      panels: `{row: {estimator: records of its final runs}}`.
      title: title of the figure.
    """
    # One style per estimator, whichever of them a panel has.
    style_of = plots.styles_of(name for panel in panels.values() for name in panel)
    with plots.figure_at(path, (5 * len(panels) + 1.5, 4)) as figure:
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (row, panel) in zip(all_axes, panels.items(), strict=True):
            _panel(axes, panel, style_of)
            axes.set(title=row.replace("_", ", "), xlabel="step", ylabel="validation bound, nats")
            axes.xaxis.set_major_formatter("{x:,.0f}")
        lines = plots.labeled_lines(all_axes)
        if lines:  # beside the panels, whose curves leave no corner free
            style: dict[str, Any] = {"frameon": False, "fontsize": 8}
            figure.legend(lines.values(), lines.keys(), loc="outside right upper", **style)
        figure.suptitle(title)


def steps_and_bounds(found: Sequence[Record]) -> tuple[list[int], np.ndarray]:
    """The steps that all seeds have, and the bounds of each seed."""
    lines = [{row["step"]: row["validation_bound"] for row in record["curve"]} for record in found]
    steps = sorted(set.intersection(*map(set, lines)))
    return steps, np.asarray([[line[step] for step in steps] for line in lines])


def show_the_end(axes: Axes, panel: Mapping[str, Sequence[Record]]) -> None:
    """Limits the axis to what follows the first steps, which are far above."""
    bounds = [steps_and_bounds(found)[1].mean(axis=0) for found in panel.values()]
    tails = [line[max(1, len(line) // 10) :] for line in bounds]
    if tails:
        axes.set_ylim(min(map(np.min, tails)) - 1, max(map(np.max, tails)) + 1)


def figure5(path: Path, measured: Mapping[str, Any], pictures: Path) -> None:
    """Speed by number of classes, and analogies: a style a row, a class a column.

    Args:
      path: path of the PNG.
      measured: result of `figure5a.read`.
      pictures: an npz of rows of images, each a digit and its style in every class.
    """
    with plots.figure_at(path, (9, 9)) as figure:
        axes = figure.subplot_mosaic(
            [["speed", "ratio"], ["analogies", "analogies"]], height_ratios=(1, 1.6)
        )
        _draw_speed(axes["speed"], axes["ratio"], measured)
        rows = read_arrays(pictures, "delete it, to have it made of the run again")
        plots.draw_grid(axes["analogies"], {name: rows[name] / 255 for name in rows})
        axes["analogies"].set_title("a test digit, and its style in every class")


def _panel(
    axes: Axes,
    found_by_name: Mapping[str, Sequence[Record]],
    style_of: Mapping[str, Mapping[str, Any]],
) -> None:
    panel = {name: found for name, found in found_by_name.items() if found}
    for name, found in panel.items():
        steps, bounds = steps_and_bounds(found)
        axes.plot(steps, bounds.mean(axis=0), label=name, linewidth=1.2, **style_of[name])
        low, high = bounds.min(axis=0), bounds.max(axis=0)
        axes.fill_between(steps, low, high, alpha=0.2, color=style_of[name]["color"])
    if panel:
        show_the_end(axes, panel)
    else:
        axes.text(0.5, 0.5, "no final run yet", ha="center", transform=axes.transAxes)
        axes.set_axis_off()


def _draw_speed(speeds: Axes, ratios: Axes, measured: Mapping[str, Any]) -> None:
    """Steps per second by number of classes, and the ratios."""
    for name in ESTIMATORS:
        rows = [row for row in measured["rows"] if row["estimator"] == name]
        speeds.plot(
            [row["num_classes"] for row in rows],
            [row["steps_per_second"] for row in rows],
            marker="o",
            label=name,
        )
    speeds.set(xscale="log", yscale="log", xlabel="classes", ylabel="steps per second")
    speeds.set_title(f"speed, {measured['device']['kind']}")
    for key, label in (
        ("speedup", "measured"),
        ("flop_ratio", "by arithmetic alone"),
        ("paper", "the paper's"),
    ):
        points = [(r["num_classes"], r[key]) for r in measured["ratios"] if r[key] is not None]
        style = "none" if key == "paper" else "-"
        ratios.plot(*zip(*points, strict=True), marker="o", linestyle=style, label=label)
    ratios.set(xscale="log", yscale="log", xlabel="classes", ylabel="times")
    ratios.set_title("Gumbel-Softmax over marginalization")
    counts = sorted({row["num_classes"] for row in measured["rows"]})
    for axes in (speeds, ratios):
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.legend(frameon=False)
