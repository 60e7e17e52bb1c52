"""What `experiments.reproduce` makes: the tables, and the figures and measurements beside them."""

from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.lab.bar import progress_bar
from experiments.reproduce import figure5a, stages, step_times, survey, table1_presets, table2
from experiments.reproduce.survey import Survey
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import Part, Preset
from experiments.reproduce.table2 import Table2
from gumbel.lab import Comparison

_CURVES = {"figure3": ("sbn", "SBN"), "figure4": ("vae", "VAE")}
TABLES = ("table1", "table2", "survey")
IN_PARTS = ("table1", "survey")  # whose rows and estimators can train apart
ALL = (*TABLES, "figure1", *_CURVES, "figure5", "toys", "lab", "step_times", "survey_curves")


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
    """Makes what is no table, from the records of finished runs and measurements of its own.

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
    elif target == "toys":
        _toys(path, results, smoke=preset == "smoke")
    elif target == "lab":
        _lab(path, stages.PRESETS[preset], workdir, results)
    elif target == "survey_curves":
        _draw_survey(path, _survey(preset, workdir, results))
    elif target == "figure5":
        _figure5(path, _table2(preset, workdir, results), results)
    else:
        _draw_curves(path, *_CURVES[target], _table1(preset, workdir, results))
    return path


def _draw_curves(path: Path, model: str, title: str, table: Table1) -> None:
    from experiments.reproduce import figures

    cells = [cell for cell in table1_presets.cells(table.preset) if cell.row.startswith(model)]
    panels = {
        row: {cell.estimator: table.finals(cell) for cell in cells if cell.row == row}
        for row in dict.fromkeys(cell.row for cell in cells)
    }
    if not any(found for panel in panels.values() for found in panel.values()):
        raise _missing(f"no final run of {title}", "table1", table.results)
    figures.curves(path, panels, title=f"{title}, hard single-sample validation bound")


def _figure5(path: Path, table: Table2, results: Path) -> None:
    """Draws both halves; what the benchmark's file holds counts as done, as finished runs do."""
    from experiments.reproduce import figures

    pictures = table.picture()
    if pictures is None:
        raise _missing("no analogies of gumbel_softmax", "table2", results)
    smoke = table.preset is table2.PRESETS["smoke"]
    options: dict[str, Any] = {}
    if smoke:
        options = {"classes": (5, 10), "turns": 1, "turn_seconds": 0.1}
    measured = figure5a.write(results / "figure5a.json", table.preset.changes, **options)
    figures.figure5(path, measured, pictures)


def _toys(path: Path, results: Path, *, smoke: bool) -> None:
    from experiments.reproduce import toys

    sizes = {"num_steps": 100, "num_draws": 20} if smoke else {}
    toys.draw(path, toys.write(results / "toys.json", **sizes))


def _step_times(table: Survey) -> Path:
    """Measures; on a few steps where the table is a smoke test."""
    path = table.results / f"{step_times.NAME}.json"
    sizes = {"rounds": 1, "num_steps": 5} if table.preset.name == "smoke" else {}
    step_times.write(path, table.settings_of, table.preset.rows, table.affordable, **sizes)
    return path


def _draw_survey(path: Path, table: Survey) -> None:
    from experiments.reproduce import figures

    panels = table.curves()
    if not any(panels.values()):
        raise _missing("no final run", "survey", table.results)
    figures.survey(path, panels, table.times)


def _lab(path: Path, preset: stages.Preset, workdir: Path, results: Path) -> None:
    """Draws what there is after each stage."""
    from experiments.lab import figures

    found: dict[str, dict[int, Comparison]] = {}
    with progress_bar() as progress:
        for stage in stages.stages(preset, workdir, results, progress):
            title = stage.row.replace("_", ", ")
            found.setdefault(title, {})[stage.step] = stage.found
            figures.draw_stages(path, found)


def _missing(what: str, table: str, results: Path) -> UserError:
    return UserError(
        f"{what} in {results}: run `reproduce {table}` with the same --workdir, --preset and "
        "--results first"
    )
