"""What `experiments.reproduce` makes: the tables, and the figures and measurements beside them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.lab.bar import progress_bar
from experiments.reproduce import (
    figure5a,
    lab_stages,
    recorded_figures,
    step_times,
    survey,
    table1_presets,
    table2,
    toys,
)
from experiments.reproduce.drawing import Drawing
from experiments.reproduce.survey import Survey
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import Part, Preset
from experiments.reproduce.table2 import Table2

TABLES = ("table1", "table2", "survey")
IN_PARTS = ("table1", "survey")  # whose rows and estimators can train apart
DRAWN = (*recorded_figures.CURVES, "figure5", "toys", "lab", "survey_curves")  # from records
ALL = (*TABLES, "figure1", *DRAWN, "step_times")
_SMOKE_TOYS = {"num_steps": 100, "num_draws": 20}
_SMOKE_FIGURE5A: dict[str, Any] = {"classes": (5, 10), "turns": 1, "turn_seconds": 0.1}


def table(
    target: str, preset: str, workdir: Path, results: Path, part: Part | None = None
) -> Table1 | Table2:
    """The table of that name; `part` of it trains where it is one of `IN_PARTS`."""
    if target == "table2":
        return _table2(preset, workdir, results)
    return (_survey if target == "survey" else _table1)(preset, workdir, results, part)


def preset_of(target: str, name: str) -> Preset:
    """The preset of a table of `IN_PARTS`."""
    return survey.preset(name) if target == "survey" else table1_presets.PRESETS[name]


def _survey(preset: str, workdir: Path, results: Path, part: Part | None = None) -> Survey:
    return Survey(preset_of("survey", preset), workdir, results, part)


def _table1(preset: str, workdir: Path, results: Path, part: Part | None = None) -> Table1:
    return Table1(preset_of("table1", preset), workdir, results, part)


def _table2(preset: str, workdir: Path, results: Path) -> Table2:
    return Table2(table2.PRESETS[preset], workdir, results)


def write(target: str, preset: str, workdir: Path, results: Path) -> Path:
    """Makes a target that is not a table, from records of finished runs and own measurements.

    Returns:
      The path of the figure, or of the numbers where there is none.

    Raises:
      UserError: a run that it needs is not finished.
    """
    if target == "step_times":
        return _step_times(_survey(preset, workdir, results))
    path = results / "figures" / f"{target}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if target == "figure1":
        from experiments.reproduce import figures  # matplotlib takes a second to import

        figures.figure1(path)
        return path
    for _ in _measured(target, preset, workdir, results):
        drawing(target, preset, workdir, results).write(path)
    return path


def drawing(target: str, preset: str, workdir: Path, results: Path) -> Drawing:
    """A figure that is drawn from records, which trains and measures nothing.

    Args:
      target: one of `DRAWN`.
      preset, workdir, results: those of the command.

    Raises:
      UserError: a record that it needs is missing.
    """
    if target == "toys":
        return recorded_figures.of_toys(results)
    if target == "lab":
        return recorded_figures.of_lab(results)
    if target == "survey_curves":
        return recorded_figures.survey_curves(_survey(preset, workdir, results))
    if target == "figure5":
        return recorded_figures.figure5(_table2(preset, workdir, results))
    return recorded_figures.curves(target, _table1(preset, workdir, results))


def _measured(target: str, preset: str, workdir: Path, results: Path) -> Iterator[None]:
    """Measures what a figure shows besides runs; yields whenever it can be drawn."""
    smoke = preset == "smoke"
    if target == "lab":
        with progress_bar() as progress:
            for _ in lab_stages.stages(lab_stages.PRESETS[preset], workdir, results, progress):
                yield
        return
    if target == "toys":
        toys.write(results / "toys.json", **(_SMOKE_TOYS if smoke else {}))
    elif target == "figure5":
        table = _table2(preset, workdir, results)
        recorded_figures.analogies(table)  # refused before anything is measured
        options = _SMOKE_FIGURE5A if smoke else {}
        figure5a.write(results / "figure5a.json", table.preset.changes, **options)
    yield


def _step_times(table: Survey) -> Path:
    """Measures; on a few steps where the table is a smoke test."""
    path = table.results / f"{step_times.NAME}.json"
    sizes = {"rounds": 1, "num_steps": 5} if table.preset.name == "smoke" else {}
    step_times.write(path, table.settings_of, table.preset.rows, table.affordable, **sizes)
    return path
