"""Reproduces a table or a figure of the paper.

python -m experiments.reproduce table1 --workdir=DIR [--preset=smoke|short|full]

`survey` is Table 1's rows under every registered estimator, for equal steps and at equal cost,
`toys` the cost and the variance of each on the toys of the control-variate papers, and `lab` their
gradients on the four models of Table 1 while they train. `survey_curves` draws the runs of
`survey`, by step and by second; the seconds come from `step_times`.

Rerun the same command to resume. Figures 3 and 4 are drawn from the runs of `table1`, figure 5 from
the runs of `table2` and a benchmark that the command itself runs.

With `--slice=SECONDS` a table is trained for so long and ends with status 75 until it is done; with
`--plan` nothing is trained, and the command says what there is to train.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import command
from experiments.errors import UserError, suggestion
from experiments.files import path_of
from experiments.reproduce import (
    figure5a,
    plan,
    stages,
    step_times,
    survey,
    table1_presets,
    table2,
    waves,
)
from experiments.reproduce.survey import Survey
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table2 import Table2
from experiments.reproduce.waves import Slice
from experiments.sweeps import engines
from experiments.sweeps.engines import Options
from experiments.training.compilations import keep_compilations
from gumbel.lab import Comparison

_CURVES = {"figure3": ("sbn", "SBN"), "figure4": ("vae", "VAE")}
_TABLES = ("table1", "table2", "survey")
_TARGETS = (*_TABLES, "figure1", *_CURVES, "figure5", "toys", "lab", "step_times", "survey_curves")


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "the directory for the runs", **define)
    flags.DEFINE_enum(
        "preset",
        "full",
        list(table1_presets.PRESETS),
        "full (default): the paper's protocol, days; short: a tenth of the steps, hours; smoke: a "
        "few steps on digits, minutes",
        **define,
    )
    flags.DEFINE_string(
        "results",
        None,
        "the directory for records, tables and figures; WORKDIR/results by default",
        **define,
    )
    flags.DEFINE_bool("plan", False, "of a table: say what there is to train, and stop", **define)
    flags.DEFINE_float(
        "steps_per_second",
        None,
        "with --plan: the speed to plan with, in run-steps a second; measured by default",
        **define,
    )
    flags.DEFINE_float(
        "slice",
        None,
        "of a table: seconds after which training stops, with checkpoints, status 75 and more to "
        "come: rerun the same command to resume",
        **define,
    )
    flags.DEFINE_bool(
        "thin",
        False,
        "of a table: remove from WORKDIR, at the end, all that neither a resume nor the table "
        "needs: runs that have a record, and all but the newest checkpoint of the others",
        **define,
    )
    engines.define_flags(values)


def main(given: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Reproduces TARGET: a table or a figure of the paper, or what goes beyond it.

    Rerun the same command to resume. Figures 3 and 4 need the runs of table1, figure 5 those of
    table2.
    """
    began = time.monotonic()
    [target] = arguments
    if target not in _TARGETS:
        raise UserError(f"unknown target {target!r}: {suggestion(target, _TARGETS)}")
    _check_flags(target, given)
    directory = command.required(given["workdir"], "workdir=DIR", "name a directory for the runs")
    workdir = path_of(directory, "--workdir")
    results = command.path(given["results"], "results") or workdir / "results"
    preset = given["preset"]
    keep_compilations()
    if target == "step_times":
        _step_times(_survey(preset, workdir, results))
        return 0
    if target in _TABLES:
        return _table_as_given(_table(target, preset, workdir, results), given, began)
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
    print(path)
    return 0


def _table(target: str, preset: str, workdir: Path, results: Path) -> Table1 | Table2:
    if target == "survey":
        return _survey(preset, workdir, results)
    return (_table1 if target == "table1" else _table2)(preset, workdir, results)


def _survey(preset: str, workdir: Path, results: Path) -> Survey:
    return Survey(survey.preset(preset), workdir, results)


def _table1(preset: str, workdir: Path, results: Path) -> Table1:
    return Table1(table1_presets.PRESETS[preset], workdir, results)


def _table2(preset: str, workdir: Path, results: Path) -> Table2:
    return Table2(table2.PRESETS[preset], workdir, results)


def _check_flags(target: str, given: Mapping[str, Any]) -> None:
    """Refuses the flags of a slice and of a plan where they say nothing."""
    for flag in ("plan", "slice", "thin"):
        if given[flag] and target not in _TABLES:
            raise UserError(f"--{flag} is for {', '.join(_TABLES)}: leave it out for {target}")
    if given["steps_per_second"] is not None and not given["plan"]:
        raise UserError("--steps_per_second is for --plan: leave it out, or give both")
    for flag in ("slice", "steps_per_second"):
        value = given[flag]
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{flag}={value:g}: give a finite number over 0")


def _table_as_given(table: Table1 | Table2, given: Mapping[str, Any], began: float) -> int:
    """Plans or trains a table as the flags say.

    Args:
      table: to be planned or trained.
      given: the flags.
      began: when the command did, by `time.monotonic()`.
    """
    engine, options, seconds = given["engine"], Options.of_flags(given), given["slice"]
    engine = engine or engines.default()
    if given["plan"]:
        table.refuse_another()
        speed = given["steps_per_second"]
        planned = plan.text(table, engine, options, steps_per_second=speed, slice_seconds=seconds)
        print(planned, end="")
        return 0
    deadline = None if seconds is None else began + seconds
    return waves.train(table, engine, options, Slice(deadline, given["thin"]))


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


def _step_times(table: Survey) -> None:
    """Measures; on a few steps where the table is a smoke test."""
    path = table.results / f"{step_times.NAME}.json"
    sizes = {"rounds": 1, "num_steps": 5} if table.preset.name == "smoke" else {}
    step_times.write(path, table.settings_of, table.preset.rows, table.affordable, **sizes)
    print(f"numbers: {path}")


def _draw_survey(path: Path, table: Survey) -> None:
    from experiments.reproduce import figures

    panels = table.curves()
    if not any(panels.values()):
        raise _missing("no final run", "survey", table.results)
    figures.survey(path, panels, table.seconds)


def _lab(path: Path, preset: stages.Preset, workdir: Path, results: Path) -> None:
    """Draws what there is after each stage."""
    from experiments.lab import figures

    found: dict[str, dict[int, Comparison]] = {}
    with tqdm(unit="block", disable=None) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.set_description(what)

        for stage in stages.stages(preset, workdir, results, progress):
            title = stage.row.replace("_", ", ")
            found.setdefault(title, {})[stage.step] = stage.found
            figures.draw_stages(path, found)


def _missing(what: str, table: str, results: Path) -> UserError:
    return UserError(
        f"{what} in {results}: run `reproduce {table}` with the same --workdir, --preset and "
        "--results first"
    )


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags, takes="TARGET"))
