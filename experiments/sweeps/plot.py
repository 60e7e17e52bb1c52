"""The plot of a sweep: the mean loss by swept value, zoomed to where the settings differ."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from experiments.files import replacing
from experiments.sweeps import grids
from experiments.sweeps.intervals import half_width
from experiments.sweeps.report import Row
from experiments.sweeps.window import Window, mark, window

_MOST_PANELS, _MOST_CELLS = 12, 20  # of heat maps, and of one of them along a side
_MOST_TICKS, _LONGEST_TICK = 8, 12  # of names under a curve; more or longer ones become a list
_MOST_LISTED = 60
_LEAST_SEEDS = 3  # of an interval: that of two is 13 standard errors wide
_LABEL_WIDTH = 48  # characters of a line of a setting's label


def draw(path: Path, rows: Sequence[Row], keys: Sequence[str], label: str) -> None:
    """Draws the mean loss by swept value as a PNG; see `figure_of`."""
    with mpl.rc_context({"font.size": 9}), replacing(path) as file:
        figure_of(rows, keys, label).savefig(file, format="png", dpi=120)


def figure_of(rows: Sequence[Row], keys: Sequence[str], label: str) -> Figure:
    """The mean loss by swept value, with 95% intervals over the seeds.

    A curve for one key, a heat map for two, a heat map for each value of the rest for more. A grid
    that leaves out combinations, is too large, or has long names becomes a list of settings, the
    best first. A loss that would squeeze the others is marked at the edge with its value.

    Args:
      rows: the settings, the best first.
      keys: keys that differ between them.
      label: name of the loss, with its unit.
    """
    axes_values = [_values(rows, key) for key in keys]
    whole = math.prod(map(len, axes_values)) == len(rows)
    panels = _panels(rows, keys[2:])
    if len(keys) == 1 and _fits(axes_values[0]):
        figure = Figure(figsize=(5, 3.5), layout="constrained")
        _curve(figure.subplots(), rows, keys[0], label)
    elif len(keys) > 1 and whole and _fits_maps(axes_values, len(panels)):
        across = math.ceil(math.sqrt(len(panels)))
        down = math.ceil(len(panels) / across)
        figure = Figure(figsize=(1 + 3.5 * across, 0.5 + 3 * down), layout="constrained")
        bar = _heat_maps(figure, panels, rows, keys, (down, across))
        bar.set_label(label)
    else:
        listed = rows[:_MOST_LISTED]
        labels = labels_of(listed, keys)
        lines = sum(text.count("\n") + 1 for text in labels)
        longest = max(len(line) for text in labels for line in text.split("\n"))
        size = (5 + 0.07 * longest, 1 + 0.22 * lines)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        list_settings(axes, listed, labels, label)
        if len(keys) == 1:
            axes.set_ylabel(keys[0])
        if len(listed) < len(rows):
            axes.set_title(f"the best {len(listed)} of {len(rows)} settings")
    return figure


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    """The values of a key: numbers in order of size, others as they come."""
    values = list({repr(v): v for v in (row.setting.get(key) for row in rows)}.values())
    return sorted(values) if all(map(_is_number, values)) else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(values: Sequence[Any]) -> bool:
    """Whether the values can stand below a curve, side by side."""
    few = len(values) <= _MOST_TICKS and all(len(str(v)) <= _LONGEST_TICK for v in values)
    return few or all(map(_is_number, values))


def _fits_maps(axes_values: Sequence[Sequence[Any]], panels: int) -> bool:
    """Whether heat maps of the first two keys can be read."""
    return panels <= _MOST_PANELS and max(map(len, axes_values[:2])) <= _MOST_CELLS


def _panels(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, list[Row]]:
    """The rows by their values of these keys, in order of the values."""
    places = {key: [repr(value) for value in _values(rows, key)] for key in keys}

    def place(row: Row) -> list[int]:
        return [places[key].index(repr(row.setting.get(key))) for key in keys]

    panels: dict[str, list[Row]] = {}
    for row in sorted(rows, key=place):
        title = ", ".join(f"{key}={row.setting.get(key)}" for key in keys)
        panels.setdefault(title, []).append(row)
    return panels


def _window(rows: Sequence[Row]) -> Window:
    """Of the means, with room for the intervals of those that lie inside."""
    seen = window(row.mean for row in rows)
    inside = [row for row in rows if not seen.outside(row.mean)]
    ends = [row.mean + sign * _half(row) for row in inside for sign in (-1, 1)]
    return seen.widened([*ends, *(loss for row in inside for loss in row.losses.values())])


def _half(row: Row) -> float:
    """Half the interval of a setting's mean; NaN below three seeds, whose interval says nothing."""
    losses = list(row.losses.values())
    return half_width(losses) if len(losses) >= _LEAST_SEEDS else math.nan


def _interval(
    axes: Axes,
    place: float,
    row: Row,
    seen: Window,
    *,
    upwards: bool,
    style: str = "D",
    color: Any = "C0",
) -> None:
    """A setting's mean with its interval and its seeds; a mark if the mean lies outside."""
    if not row.losses:
        return
    losses = list(row.losses.values())
    if seen.outside(row.mean):
        mark(axes, place, row.mean, seen, upwards=upwards)
        return
    if len(losses) > 1:
        seeds = ([place] * len(losses), losses)
        axes.plot(*(seeds if upwards else seeds[::-1]), "k.", alpha=0.35, markersize=4)
    at = (place, row.mean) if upwards else (row.mean, place)
    half = _half(row)
    bar: dict[str, Any] = {} if math.isnan(half) else {"yerr" if upwards else "xerr": half}
    axes.errorbar(*at, fmt=style, color=color, capsize=3, markersize=5, **bar)


def _curve(axes: Axes, rows: Sequence[Row], key: str, label: str) -> None:
    values = _values(rows, key)
    at = {repr(value): index for index, value in enumerate(values)}
    numeric = all(map(_is_number, values))
    ordered = sorted(rows, key=lambda row: at[repr(row.setting.get(key))])
    places = values if numeric else list(range(len(values)))
    seen = _window(rows)
    if numeric:
        line = [math.nan if seen.outside(row.mean) else row.mean for row in ordered]
        axes.plot(places, line, "-", color="C0", linewidth=1)
    else:
        axes.set_xticks(places, [str(value) for value in values])
        axes.margins(x=0.15)
    if numeric and min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
    for place, row in zip(places, ordered, strict=True):
        _interval(axes, place, row, seen, upwards=True, style="o" if numeric else "D")
    if seen.cut:
        axes.set_ylim(seen.limits())
    axes.set(xlabel=key, ylabel=label)


def _heat_maps(
    figure: Figure,
    panels: Mapping[str, Sequence[Row]],
    rows: Sequence[Row],
    keys: Sequence[str],
    shape: tuple[int, int],
) -> Colorbar:
    """A map for each panel, the first key upwards and the second across, in one color scale."""
    upwards, across = keys[0], keys[1]
    ups, acrosses = _values(rows, upwards), _values(rows, across)
    seen = _window(rows)
    colors = mpl.colormaps["viridis_r"].with_extremes(over="0.85", bad="1.0")
    grid = np.atleast_1d(figure.subplots(*shape, squeeze=False)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    image = None
    for axes, (title, inside) in zip(grid, panels.items(), strict=False):
        cells, done = np.full((len(ups), len(acrosses)), np.nan), set()
        for row in inside:
            place = ups.index(row.setting.get(upwards)), acrosses.index(row.setting.get(across))
            cells[place] = row.mean if math.isfinite(row.mean) else math.nan
            done |= {place} if row.losses else set()
        image = axes.imshow(
            cells, origin="lower", aspect="auto", cmap=colors, vmin=seen.low, vmax=seen.high
        )
        for (up, over), mean in np.ndenumerate(cells):
            unknown = "not finite" if (up, over) in done else "none"
            shown = unknown if np.isnan(mean) else f"{mean:.4g}"
            dark = (seen.low + seen.high) / 2 < mean <= seen.high
            color = "C3" if seen.outside(mean) else "white" if dark else "black"
            axes.text(over, up, shown, ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(range(len(acrosses)), [str(v) for v in acrosses])
        axes.set_yticks(range(len(ups)), [str(v) for v in ups])
        axes.set(xlabel=across, ylabel=upwards, title=title)
    assert image is not None
    return figure.colorbar(image, ax=list(grid), extend="max" if seen.cut else "neither")


def labels_of(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """The settings in words, on lines of a width that can be read."""
    short = {key: key.rpartition(".")[2] for key in keys}
    if len(set(short.values())) < len(keys):
        short = {key: key for key in keys}
    if len(keys) == 1:  # the values say enough
        labels = [str(row.setting.get(keys[0])) for row in rows]
    else:
        labels = [
            grids.label({short[key]: row.setting[key] for key in keys if key in row.setting})
            for row in rows
        ]
    return [textwrap.fill(text, _LABEL_WIDTH, break_on_hyphens=False) for text in labels]


def list_settings(
    axes: Axes,
    rows: Sequence[Row],
    labels: Sequence[str],
    label: str,
    colors: Sequence[Any] | None = None,
) -> None:
    """The settings from the best down, with their intervals.

    Args:
      axes: axes to draw on.
      rows: the settings, the best first.
      labels: labels of the settings.
      label: name of the loss.
      colors: colors of the settings, if they differ.
    """
    seen = _window(rows)
    for place, row in enumerate(rows):
        color = colors[place] if colors else "C0"
        _interval(axes, place, row, seen, upwards=False, color=color)
        if not row.losses:
            at = (0.01, place)
            axes.text(
                *at, "no result", transform=axes.get_yaxis_transform(), va="center", color="C3"
            )
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", alpha=0.3)
    if seen.cut:
        axes.set_xlim(seen.limits())
    axes.set_xlabel(label)
