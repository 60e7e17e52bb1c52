"""Pictures made from recorded metrics and from a model's images."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from experiments.files import replacing


@contextlib.contextmanager
def figure_at(
    path: Path, size: tuple[float, float], *, right: bool = False, dpi: int = 120
) -> Iterator[Figure]:
    """A figure in the project's style, which is written to `path` when the block ends.

    Args:
      path: path of the PNG.
      size: width and height, in inches.
      right: whether axes have a right spine.
      dpi: dots per inch.
    """
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": right}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=dpi)


def colors_of(names: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """A color for each name, as far apart as so many can be."""
    unique = list(dict.fromkeys(names))
    colors = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(unique)))
    return dict(zip(unique, map(tuple, colors), strict=True))


def styles_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A color and a style for each name's line: all colors solid, then dashed, then dotted.

    After that, styles repeat.
    """
    colors = [f"C{index}" for index in range(10) if index != 7]  # but gray
    styles = itertools.cycle(itertools.product(("-", "--", ":"), colors))
    unique = dict.fromkeys(names)
    return {
        name: {"color": color, "linestyle": line}
        for name, (line, color) in zip(unique, styles, strict=False)
    }


def labeled_lines(panels: Iterable[Axes]) -> dict[str, Artist]:
    """What panels have drawn under a label, by label, for one legend of them all."""
    lines: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    return lines


def run_picture(
    path: Path,
    metrics: Sequence[Mapping[str, Any]],
    rows: Mapping[str, ArrayLike],
    *,
    title: str,
) -> None:
    """A run at a glance: its curves above, named rows of images below.

    Args:
      path: path of the PNG.
      metrics: the lines of `metrics.jsonl`.
      rows: `{name: images [N, H, W]}` with pixels in [0, 1].
      title: title of the picture.
    """
    with figure_at(path, (7, 7.5), right=True) as figure:
        curves, grid = figure.subplots(2, 1, height_ratios=(1, 1.3))
        draw_curves(curves, metrics)
        curves.set_title(title)
        draw_grid(grid, rows)


def draw_curves(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """The train cost and the hard validation bound by step, with the temperature if it changes."""
    curves = {"train_cost": "train cost", "validation_bound": "validation bound, hard"}
    points = {name: _points(metrics, name) for name in curves}
    for name, label in curves.items():
        if points[name]:
            axes.plot(*zip(*points[name], strict=True), label=label, linewidth=1.2)
    axes.set(xlabel="step", ylabel="nats")
    # The start is far above everything that follows: show what follows.
    settled = [cost for _, cost in points["train_cost"]]
    if len(settled) > 1:
        low, high = min(settled), max(settled[1:])
        bounds = [bound for step, bound in points["validation_bound"] if step > 0]
        low, high = min([low, *bounds]), max([high, *bounds])
        axes.set_ylim(low - 0.05 * (high - low) - 0.1, high + 0.1 * (high - low) + 0.1)
    temperatures = _points(metrics, "temperature")
    if len({value for _, value in temperatures}) > 1:
        right = axes.twinx()
        right.plot(
            *zip(*temperatures, strict=True), color="gray", linestyle=":", label="temperature"
        )
        right.set_ylabel("temperature")
        right.set_ylim(bottom=0)
        right.legend(loc="lower left", frameon=False)
    if axes.lines:
        axes.legend(loc="upper right", frameon=False)


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """The steps that have a value of this name, with it."""
    return [(row["step"], row[name]) for row in metrics if row.get(name) is not None]


def draw_grid(axes: Axes, rows: Mapping[str, ArrayLike]) -> None:
    """Named rows of images, one image of the grid."""
    padded = [
        np.pad(np.asarray(images), ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
        for images in rows.values()
    ]
    height = padded[0].shape[1]
    axes.imshow(
        np.concatenate([np.concatenate(list(images), axis=1) for images in padded], axis=0),
        cmap="gray_r",
        vmin=0,
        vmax=1,
    )
    axes.set_xticks([])
    axes.set_yticks([height * (index + 0.5) for index in range(len(padded))], list(rows))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
