"""The plot of a sweep: the mean loss by swept value."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from experiments.sweeps import grids
from experiments.sweeps.report import Row

_MOST_PANELS = 12
_MOST_RANKED = 60


def draw(path: Path, rows: Sequence[Row], keys: Sequence[str], label: str) -> None:
    """Draws the mean loss by swept value.

    A curve for one key, a heat map for two, a heat map for each value of the rest for more; a
    grid that leaves out combinations, or is too large for that, as settings in order.
    """
    axes_values = [_values(rows, key) for key in keys]
    whole = math.prod(map(len, axes_values)) == len(rows)
    panels = _panels(rows, keys[2:])
    with mpl.rc_context({"font.size": 9}):
        if len(keys) == 1:
            figure = Figure(figsize=(5, 3.5), layout="constrained")
            _curve(figure.subplots(), rows, keys[0], label)
        elif len(keys) > 1 and whole and len(panels) <= _MOST_PANELS:
            across = math.ceil(math.sqrt(len(panels)))
            down = math.ceil(len(panels) / across)
            figure = Figure(figsize=(1 + 3.5 * across, 0.5 + 3 * down), layout="constrained")
            bar = _heat_maps(figure, panels, rows, keys, (down, across))
            bar.set_label(label)
        else:
            best = rows[:_MOST_RANKED]
            figure = Figure(figsize=(9, 1 + 0.25 * len(best)), layout="constrained")
            axes = figure.subplots()
            _ranking(axes, best, keys, label)
            if len(best) < len(rows):
                axes.set_title(f"the best {len(best)} of {len(rows)} settings")
        figure.savefig(path, dpi=120)


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    """The values of a key: numbers in order of size, others as they come."""
    values = list({repr(v): v for v in (row.setting.get(key) for row in rows)}.values())
    return sorted(values) if all(map(_is_number, values)) else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """The losses to tell apart: the few nats between good settings, whatever the worst come to."""
    means = [row.mean for row in rows if math.isfinite(row.mean)]
    if not means:
        return 0.0, 1.0
    low = min(means)
    return low, low + max(2 * (statistics.median(means) - low), 0.01)


def _curve(axes: Axes, rows: Sequence[Row], key: str, label: str) -> None:
    values = _values(rows, key)
    at = {repr(value): index for index, value in enumerate(values)}
    numeric = all(map(_is_number, values))
    ordered = sorted(rows, key=lambda row: at[repr(row.setting.get(key))])
    places = values if numeric else list(range(len(values)))
    style = "o-" if numeric else "D"
    axes.plot(places, [_finite(row.mean) for row in ordered], style)
    for place, row in zip(places, ordered, strict=True):
        if len(row.losses) > 1:
            axes.plot([place] * len(row.losses), list(row.losses.values()), "k.", alpha=0.4)
    if not numeric:
        axes.set_xticks(places, [str(value) for value in values])
    elif min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
    low, high = _scale(rows)
    worst = max((row.mean for row in rows if math.isfinite(row.mean)), default=low)
    if worst - low > 10 * (high - low):  # it would flatten the rest: leave it outside
        axes.set_ylim(low - 0.2 * (high - low), high + (high - low))
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
    low, high = _scale(rows)
    grid = np.atleast_1d(figure.subplots(*shape, squeeze=False)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    image = None
    for axes, (title, inside) in zip(grid, panels.items(), strict=False):
        cells = np.full((len(ups), len(acrosses)), np.nan)
        for row in inside:
            place = ups.index(row.setting.get(upwards)), acrosses.index(row.setting.get(across))
            cells[place] = _finite(row.mean)
        image = axes.imshow(
            cells, origin="lower", aspect="auto", cmap="viridis_r", vmin=low, vmax=high
        )
        for (up, over), mean in np.ndenumerate(cells):
            shown = "none" if np.isnan(mean) else f"{mean:.4g}"
            color = "white" if mean > (low + high) / 2 else "black"
            axes.text(over, up, shown, ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(range(len(acrosses)), [str(v) for v in acrosses])
        axes.set_yticks(range(len(ups)), [str(v) for v in ups])
        axes.set(xlabel=across, ylabel=upwards, title=title)
    assert image is not None
    return figure.colorbar(image, ax=list(grid), extend="max")


def _ranking(axes: Axes, rows: Sequence[Row], keys: Sequence[str], label: str) -> None:
    """The settings from the best down, with their seeds."""
    for place, row in enumerate(rows):
        axes.plot(list(row.losses.values()), [place] * len(row.losses), "k.", alpha=0.4)
        if row.losses:
            axes.plot(row.mean, place, "D", color="C0")
    short = {key: key.rpartition(".")[2] for key in keys}
    if len(set(short.values())) < len(keys):
        short = {key: key for key in keys}
    labels = [
        grids.label({short[key]: row.setting[key] for key in keys if key in row.setting})
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(label)


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.nan
