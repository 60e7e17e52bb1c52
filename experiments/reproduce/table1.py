"""Table 1: picks a setting a cell on validation, trains it on fresh seeds, collects the tests."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.overrides import Overrides
from experiments.reproduce import protocol
from experiments.reproduce.protocol import Cell, Preset
from experiments.reproduce.runs import PAPER, Table, Wave, interval, provenance, shown
from experiments.reproduce.store import Record
from experiments.run import Job

NAME = "table1"
_BIASED = "†"


class Table1(Table):
    """The jobs of the table and what they have come to."""

    name = NAME
    preset: Preset

    def waves(self) -> Iterator[Wave]:
        """What to train, in order of worth; to be asked for the next when one is done.

        The paper's 28 cells come first, with one seed each, a row at a time; then the columns that
        it left out; then the other seeds.
        """
        preset = self.preset
        for columns in (preset.columns, preset.extra_columns):
            for name, rows in self._groups():
                cells = [Cell(row, estimator) for row in rows for estimator in columns]
                yield self._wave(f"{name}, picking", cells, self._firsts)
                yield self._wave(f"{name}, picking by long runs", cells, self._finalists)
                yield self._wave(f"{name}, picking the schedule", cells, self._schedules)
                yield self._finals_wave(name, cells, 0)
        for seed in range(1, preset.seeds):
            for name, rows in self._groups():
                cells = [cell for cell in protocol.cells(preset) if cell.row in rows]
                yield self._finals_wave(name, cells, seed)

    def _groups(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The rows that train together, with a name for them."""
        rows, size = self.preset.rows, self.preset.rows_at_once
        for first in range(0, len(rows), size):
            group = rows[first : first + size]
            yield " and ".join(group), group

    def write(self) -> dict[str, Any]:
        """Writes the table from the finished runs; returns what its JSON holds."""
        table = {
            "unit": PAPER[NAME]["unit"],
            "cells": [self._cell(cell) for cell in protocol.cells(self.preset)],
        }
        return self.write_files(table, markdown)

    def finals(self, cell: Cell) -> list[Record]:
        """The records of a cell's final runs, by seed."""
        setting = self.setting(cell)
        if setting is None:
            return []
        jobs = [self._final(cell, setting, seed) for seed in range(self.preset.seeds)]
        return self.runs.records(jobs)

    def setting(self, cell: Cell) -> Overrides | None:
        """What was picked for a cell, or None if its runs are not all done or have all failed."""
        setting = self._best(self._firsts(cell))
        for stage in (self._finalists, self._schedules):
            if jobs := stage(cell):
                setting = self._best(jobs)
        return setting

    def _firsts(self, cell: Cell) -> list[Job]:
        return self._jobs(cell, "pick", protocol.first_points(cell, self.preset))

    def _finalists(self, cell: Cell) -> list[Job]:
        firsts = self._firsts(cell)
        if self._best(firsts) is None:
            return []
        found = [
            self._best([job for job in firsts if protocol.biased(job.overrides) == biased])
            for biased in (False, True)
        ]
        settings = [setting for setting in found if setting]
        points = protocol.finalist_points(self.preset, settings) if len(settings) > 1 else []
        return self._jobs(cell, "pick", points)

    def _schedules(self, cell: Cell) -> list[Job]:
        first = self._best(self._firsts(cell))
        if first is None:
            return []
        return self._jobs(cell, "pick", protocol.schedule_points(cell, self.preset, first))

    def _final(self, cell: Cell, setting: Overrides, seed: int) -> Job:
        return self._jobs(cell, "final", [protocol.final_point(cell, self.preset, setting, seed)])[
            0
        ]

    def _jobs(self, cell: Cell, stage: str, points: Sequence[Overrides]) -> list[Job]:
        base = protocol.base_config(cell, self.preset, picking=stage == "pick")
        return self.runs.jobs(base, f"{stage}/{cell.name}", points)

    def _best(self, jobs: Sequence[Job]) -> Overrides | None:
        return self.runs.best(jobs, lambda record: record["valid_nll"], protocol.PICKED)

    def _wave(self, name: str, cells: Sequence[Cell], jobs_of: Callable[[Cell], list[Job]]) -> Wave:
        return self.runs.missing(name, [job for cell in cells for job in jobs_of(cell)])

    def _finals_wave(self, name: str, cells: Sequence[Cell], seed: int) -> Wave:
        def job_of(cell: Cell) -> list[Job]:
            setting = self.setting(cell)
            return [] if setting is None else [self._final(cell, setting, seed)]

        return self._wave(f"{name}, seed {seed}", cells, job_of)

    def _cell(self, cell: Cell) -> dict[str, Any]:
        """What the JSON says of a cell."""
        found = self.finals(cell)
        values = [record["test_nll"] for record in found if record["test_nll"] is not None]
        entry: dict[str, Any] = {
            "row": cell.row,
            "estimator": cell.estimator,
            "paper": cell.paper,
            "objective": "5-sample bound" if cell.estimator == "vimco" else "single-sample",
            "setting": self.setting(cell),
            "seeds": len(values),
            "values": values,
        }
        if values:
            entry |= {
                "mean": statistics.fmean(values),
                "ci95": interval(values),
                **provenance(found),
            }
        else:
            entry["missing"] = "not run" if entry["setting"] is None else "no final run"
        return entry


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown: ours with its interval, and the paper's in brackets."""
    entries = {(entry["row"], entry["estimator"]): entry for entry in table["cells"]}
    columns = list(dict.fromkeys(entry["estimator"] for entry in table["cells"]))
    rows = list(dict.fromkeys(entry["row"] for entry in table["cells"]))
    lines = ["| estimator | " + " | ".join(row.replace("_", ", ") for row in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    for column in columns:
        cells = [_shown(entries[row, column], table["preset"]["seeds"]) for row in rows]
        lines.append(f"| `{column}` | " + " | ".join(cells) + " |")
    steps = sorted({entry["steps"] for entry in table["cells"] if "steps" in entry})
    lines += [
        "",
        "Test bound in nats by discrete samples, lower is better: mean over seeds, half the width",
        f"of its 95 % interval, the paper's number in brackets. Steps: {steps or 'none yet'}.",
        "`vimco` trains a 5-sample objective; the others a single-sample one.",
    ]
    if any(protocol.biased(entry["setting"] or {}) for entry in entries.values()):
        lines.append(f"{_BIASED} the signal alone is normalized, not the correction: biased.")
    return "\n".join(lines) + "\n"


def _shown(entry: dict[str, Any], seeds: int) -> str:
    paper = "" if entry["paper"] is None else f" ({entry['paper']:.1f})"
    if "mean" not in entry:
        return f"{entry['missing']}{paper}"
    mark = _BIASED if protocol.biased(entry["setting"]) else ""
    return shown(entry["mean"], entry["ci95"], entry["seeds"], seeds) + mark + paper
