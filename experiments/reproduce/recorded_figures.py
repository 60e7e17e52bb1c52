"""The figures that are drawn from records: what each shows, and how it is drawn."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.reproduce import figure5a, lab_stages, table1_presets, toys
from experiments.reproduce.drawing import Drawing
from experiments.reproduce.store import Record
from experiments.reproduce.survey import Survey
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table2 import Table2

CURVES = {"figure3": ("sbn", "SBN"), "figure4": ("vae", "VAE")}
Panels = Mapping[str, Mapping[str, Sequence[Record]]]


def curves(target: str, table: Table1) -> Drawing:
    """Figure 3 or 4: the final runs of Table 1."""
    from experiments.reproduce import figures  # matplotlib takes a second to import

    model, title = CURVES[target]
    cells = [cell for cell in table1_presets.cells(table.preset) if cell.row.startswith(model)]
    panels = {
        row: {cell.estimator: table.finals(cell) for cell in cells if cell.row == row}
        for row in dict.fromkeys(cell.row for cell in cells)
    }
    lines = _lines(panels)
    if not lines:
        raise _missing(f"no final run of {title}", "table1", table.results)
    title = f"{title}, hard single-sample validation bound"
    return Drawing(lines, lambda path: figures.curves(path, panels, title=title))


def survey_curves(table: Survey) -> Drawing:
    """The final runs of the survey, by step and by second."""
    from experiments.reproduce import figures_beyond

    panels = table.curves()
    lines = _lines(panels)
    if not lines:
        raise _missing("no final run", "survey", table.results)
    for row, name in table.times.seconds:
        if f"{row}-{name}" in lines:
            lines[f"{row}-{name}"].append(table.times.seconds[row, name])
    return Drawing(lines, lambda path: figures_beyond.survey(path, panels, table.times))


def figure5(table: Table2) -> Drawing:
    """Figure 5: what the benchmark measured, and the analogies of a run of Table 2."""
    from experiments.reproduce import figures

    measured = figure5a.read(table.results / "figure5a.json")
    pictures = analogies(table)
    lines = {
        "speed": {key: measured[key] for key in ("device", "rows", "ratios")},
        "analogies": hashlib.sha256(pictures.read_bytes()).hexdigest(),
    }
    return Drawing(lines, lambda path: figures.figure5(path, measured, pictures))


def analogies(table: Table2) -> Path:
    """The arrays of the analogies; refused where the run is not done."""
    pictures = table.picture()
    if pictures is None:
        raise _missing("no analogies of gumbel_softmax", "table2", table.results)
    return pictures


def of_toys(results: Path) -> Drawing:
    """The toys, as `toys.json` has them."""
    from experiments.reproduce import figures_beyond

    rows = toys.read(results / "toys.json")
    lines = {
        f"{row['estimator']}, t = {row['target']}": [
            row[key] for key in ("steps", "cost", "log_variance")
        ]
        for row in rows
    }
    return Drawing(lines, lambda path: figures_beyond.toys(path, rows, toys.TARGETS))


def of_lab(results: Path) -> Drawing:
    """The laboratory's comparisons, as far as they are recorded."""
    from experiments.reproduce import figures_beyond

    found = lab_stages.recorded(results)
    lines = {
        f"{row}-{step}": [dataclasses.asdict(measured) for measured in comparison.of_group()]
        for row, of_row in found.items()
        for step, comparison in of_row.items()
    }
    return Drawing(lines, lambda path: figures_beyond.lab(path, found))


def _lines(panels: Panels) -> dict[str, list[Any]]:
    """The curves of the seeds of each cell that has any."""
    return {
        f"{row}-{name}": [
            [(point["step"], point["validation_bound"]) for point in record["curve"]]
            for record in found
        ]
        for row, panel in panels.items()
        for name, found in panel.items()
        if found
    }


def _missing(what: str, table: str, results: Path) -> UserError:
    return UserError(
        f"{what} in {results}: run `reproduce {table}` with the same --workdir, --preset and "
        "--results first"
    )
