"""What a sweep comes to: its settings by their loss on validation, as a table and as a plot.

The loss is the bound, or, for models that classify, the error. The test set is left out: settings
are picked on the validation set alone.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments import config as configs
from experiments import grids, records
from experiments.progress import nats
from experiments.run import RESULT, Job

TABLE, TEXT, PLOT = "table.json", "table.md", "sweep.png"
_MOST_PANELS = 12


class Loss(NamedTuple):
    """What settings are ranked by.

    Attributes:
      label: with its unit.
      of: its value in what `result.json` holds; infinite if it is not known.
    """

    label: str
    of: Callable[[Mapping[str, Any]], float]


def loss_of(config: ConfigDict) -> Loss:
    """The loss of runs of this config."""
    if configs.semi_supervised(config):
        return Loss("validation error, %", lambda result: 100 - result["valid_accuracy"])

    def bound(result: Mapping[str, Any]) -> float:
        return math.inf if result["valid_nll"] is None else float(result["valid_nll"])

    return Loss("validation bound, nats", bound)


class Row(NamedTuple):
    """One setting of the swept keys other than the seed.

    Attributes:
      setting: what its runs override, without the seed.
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
    """The settings, the best first, those with a missing run last among equals.

    Args:
      jobs: all runs of the grid.
      failures: why runs failed, by directory.
    """
    rows: dict[str, Row] = {}
    loss = loss_of(jobs[0].config)
    for job in jobs:
        setting = {key: value for key, value in job.overrides.items() if key != "seed"}
        row = rows.setdefault(grids.name(setting), Row(setting, {}, {}))
        path = job.workdir / RESULT
        if path.exists():
            result = records.read_json(path)
            row.losses[result["seed"]] = loss.of(result)
        else:
            row.missing[job.workdir.name] = failures.get(job.workdir, "not finished")
    return sorted(rows.values(), key=lambda row: (row.mean, len(row.missing)))


def write(directory: Path, jobs: Sequence[Job], failures: Mapping[Path, str]) -> str:
    """Writes the table, as JSON and Markdown, and the plot; returns the Markdown."""
    rows = rows_of(jobs, failures)
    keys = grids.varied([row.setting for row in rows])
    loss = loss_of(jobs[0].config)
    text = markdown(rows, keys, loss.label)
    num_samples = configs.final_samples(jobs[0].config)["validation"]
    records.write_json(
        directory / TABLE,
        {
            "loss": f"{loss.label}, {num_samples} discrete samples",
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
    (directory / TEXT).write_text(text, encoding="utf-8")
    plot(directory / PLOT, rows, keys, loss.label)
    return text


def markdown(rows: Sequence[Row], keys: Sequence[str], label: str) -> str:
    """The table, a line a setting; several seeds show as their mean and range.

    Example:
      >>> row = Row({"momentum": 0.9}, {0: 61.5, 1: 62.5}, {})
      >>> print(markdown([row], ["momentum"], "validation bound, nats"))
      | momentum | validation bound, nats | seeds |
      |---|---|---|
      | 0.9 | 62.00 (61.50 to 62.50) | 2 |
      <BLANKLINE>
    """
    head = [*keys, label, "seeds"]
    missing = any(row.missing for row in rows)
    lines = [_line([*head, "missing"] if missing else head), "|---" * (len(head) + missing) + "|"]
    for row in rows:
        losses = row.losses.values()
        shown = nats(row.mean) if losses else ""
        if len(losses) > 1:
            shown += f" ({nats(min(losses))} to {nats(max(losses))})"
        cells = [str(row.setting.get(key, "")) for key in keys] + [shown, str(len(losses))]
        if missing:
            cells.append("; ".join(f"{name}: {why}" for name, why in row.missing.items()))
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plot(path: Path, rows: Sequence[Row], keys: Sequence[str], label: str) -> None:
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
            figure = Figure(figsize=(9, 1 + 0.25 * len(rows)), layout="constrained")
            _ranking(figure.subplots(), rows, keys, label)
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
    """A map for each panel, the first key upwards and the second across, in one colour scale."""
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
