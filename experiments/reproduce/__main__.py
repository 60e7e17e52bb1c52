"""Reproduces a table or a figure of the paper.

python -m experiments.reproduce table1 --workdir=DIR [--preset=smoke|short|full]

Stopped at any point and started again, it does only what is missing.
"""

import argparse
import sys
from pathlib import Path

from experiments import cli, engines, sweep
from experiments.engines import Options
from experiments.engines.compilations import shared_compilations
from experiments.errors import UserError
from experiments.reproduce import figures, protocol
from experiments.reproduce.table1 import JSON, TEXT, Table1

_FIGURES = {"figure3": ("sbn", "SBN"), "figure4": ("vae", "VAE")}


def main(arguments: argparse.Namespace) -> int:
    """Does what the command line says; returns the exit status."""
    preset = protocol.PRESETS[arguments.preset]
    results = arguments.results
    if results is None:
        results = Path("results") if arguments.preset == "full" else arguments.workdir / "results"
    table = Table1(preset, arguments.workdir, results)
    if arguments.target == "table1":
        return _table1(table, arguments.engine, arguments.workers)
    path = results / "figures" / f"{arguments.target}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if arguments.target == "figure1":
        figures.figure1(path)
    else:
        model, title = _FIGURES[arguments.target]
        rows = [row for row in preset.rows if row.startswith(model)]
        cells = protocol.cells(preset)
        panels = {
            row: {c.estimator: table.finals(c) for c in cells if c.row == row} for row in rows
        }
        if not any(found for panel in panels.values() for found in panel.values()):
            raise UserError(
                f"{results} has no final run of {title}: run `reproduce table1` with the same "
                "--workdir, --preset and --results first"
            )
        figures.curves(path, panels, title=f"{title}, hard single-sample validation bound")
    print(path)
    return 0


def _table1(table: Table1, engine: str | None, workers: int | None) -> int:
    """Trains what is missing, wave by wave, and writes the table after each."""
    engine, status = engine or engines.default(), 0
    with shared_compilations():
        for wave in filter(lambda wave: wave.jobs, table.waves()):
            print(f"{wave.name}: {len(wave.jobs)} runs", file=sys.stderr)
            failures, stopped = sweep.train(wave.jobs, engine, Options(workers))
            table.write()
            for workdir, reason in failures.items():
                print(f"failed: {workdir}: {reason}", file=sys.stderr)
                status = sweep.FAILED
            if stopped:
                print("stopped: the same command goes on", file=sys.stderr)
                return stopped
    table.write()
    print((table.results / TEXT).read_text(), end="")
    print(f"table: {table.results / TEXT}\nnumbers: {table.results / JSON}")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=["table1", "figure1", *_FIGURES])
    parser.add_argument("--workdir", type=Path, required=True, help="where the runs train")
    parser.add_argument(
        "--preset",
        choices=list(protocol.PRESETS),
        default="full",
        help="full: the paper's protocol; short: an hour or so; smoke: a few minutes on digits",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="where records, tables and figures go; by default results/ for the full preset and "
        "WORKDIR/results for the others",
    )
    parser.add_argument("--engine", choices=list(engines.ENGINES), help="see experiments.sweep")
    parser.add_argument("--workers", type=int, help="runs at once; by default one a core")
    return parser


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: main(_parser().parse_args())))
