"""Reproduces a table or a figure of the paper.

python -m experiments.reproduce table1 --workdir=DIR [--preset=smoke|short|full]

Stopped at any point and started again, it does only what is missing. Figures 3 and 4 are drawn of
what `table1` has trained, figure 5 of what `table2` has trained and of a benchmark that it runs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from experiments import cli, engines, sweep
from experiments.engines import Options
from experiments.engines.compilations import shared_compilations
from experiments.errors import UserError
from experiments.reproduce import figures, presets, speed, table2
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table2 import Table2

_CURVES = {"figure3": ("sbn", "SBN"), "figure4": ("vae", "VAE")}
_TABLES = ("table1", "table2")
_FIGURES = ("figure1", *_CURVES, "figure5")


def main(arguments: argparse.Namespace) -> int:
    """Does what the command line says; returns the exit status."""
    target, results = arguments.target, arguments.results
    if results is None:
        results = arguments.workdir / "results"
    if target in _TABLES:
        table = _table1(arguments, results) if target == "table1" else _table2(arguments, results)
        return _train(table, arguments.engine, arguments.workers)
    path = results / "figures" / f"{target}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if target == "figure1":
        figures.figure1(path)
    elif target == "figure5":
        _figure5(path, _table2(arguments, results), results)
    else:
        _draw_curves(path, *_CURVES[target], _table1(arguments, results))
    print(path)
    return 0


def _table1(arguments: argparse.Namespace, results: Path) -> Table1:
    return Table1(presets.PRESETS[arguments.preset], arguments.workdir, results)


def _table2(arguments: argparse.Namespace, results: Path) -> Table2:
    return Table2(table2.PRESETS[arguments.preset], arguments.workdir, results)


def _train(table: Table1 | Table2, engine: str | None, workers: int | None) -> int:
    """Trains what is missing, wave by wave, and writes the table after each run."""
    table.refuse_another()
    engine, status = engine or engines.default(), 0
    with shared_compilations():
        for wave in filter(lambda wave: wave.jobs, table.waves()):
            print(f"{wave.name}: {len(wave.jobs)} runs", file=sys.stderr)
            sweep.prepare_data(wave.jobs)
            failures, stopped = sweep.train(wave.jobs, engine, Options(workers), table.write)
            for workdir, reason in failures.items():
                print(f"failed: {workdir}: {reason}", file=sys.stderr)
                status = sweep.FAILED
            if stopped:
                print("stopped: the same command goes on", file=sys.stderr)
                return stopped
    table.write()
    text = table.results / f"{table.name}.md"
    print(f"{text.read_text()}table: {text}\nnumbers: {text.with_suffix('.json')}")
    return status


def _draw_curves(path: Path, model: str, title: str, table: Table1) -> None:
    cells = [cell for cell in presets.cells(table.preset) if cell.row.startswith(model)]
    panels = {
        row: {cell.estimator: table.finals(cell) for cell in cells if cell.row == row}
        for row in dict.fromkeys(cell.row for cell in cells)
    }
    if not any(found for panel in panels.values() for found in panel.values()):
        raise _missing(f"no final run of {title}", "table1", table.results)
    figures.curves(path, panels, title=f"{title}, hard single-sample validation bound")


def _figure5(path: Path, table: Table2, results: Path) -> None:
    """Draws both halves; what the benchmark's file holds counts as done, as finished runs do."""
    pictures = table.picture()
    if pictures is None:
        raise _missing("no analogies of gumbel_softmax", "table2", results)
    smoke = table.preset is table2.PRESETS["smoke"]
    options: dict[str, Any] = {}
    if smoke:
        options = {"classes": (5, 10), "turns": 1, "turn_seconds": 0.1}
    measured = speed.write(results / "figure5a.json", table.preset.changes, **options)
    figures.figure5(path, measured, pictures)


def _missing(what: str, table: str, results: Path) -> UserError:
    return UserError(
        f"{what} in {results}: run `reproduce {table}` with the same --workdir, --preset and "
        "--results first"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=[*_TABLES, *_FIGURES])
    parser.add_argument("--workdir", type=cli.path, required=True, help="where the runs train")
    parser.add_argument(
        "--preset",
        choices=list(presets.PRESETS),
        default="full",
        help="full: the paper's protocol, days on one core; short: a tenth of its steps, some "
        "hours; smoke: a few minutes on digits",
    )
    parser.add_argument(
        "--results",
        type=cli.path,
        help="where records, tables and figures go; by default WORKDIR/results",
    )
    parser.add_argument("--engine", choices=list(engines.ENGINES), help="see experiments.sweep")
    parser.add_argument("--workers", type=cli.count, help="runs at once; by default one a core")
    return parser


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: main(_parser().parse_args())))
