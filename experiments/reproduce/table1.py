"""Table 1: picks a setting per cell on validation, trains fresh seeds, collects test bounds."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from experiments.config import Overrides
from experiments.files import markdown_table
from experiments.reproduce import table1_presets as presets
from experiments.reproduce import table1_protocol as protocol
from experiments.reproduce.store import Record
from experiments.reproduce.table import (
    PAPER,
    Table,
    Wave,
    provenance_of,
    shown,
    summary,
)
from experiments.reproduce.table1_order import Batch, batches
from experiments.reproduce.table1_presets import Cell, Part, Preset
from experiments.reproduce.versions import footnote, mark
from experiments.training.job import Job
from gumbel import estimators

NAME = "table1"


class _Round(NamedTuple):
    """A round of picking: its runs, and once all are done, their settings, best first."""

    jobs: list[Job]
    ranked: list[Overrides]


SINGLE = "single-sample bound"


class Table1(Table):
    """The jobs of the table and their results.

    Args:
      preset, workdir, results: see `Table`.
      part: what trains; the table shows all cells in any case.
    """

    name = NAME
    preset: Preset

    def __init__(
        self, preset: Preset, workdir: Path, results: Path, part: Part | None = None
    ) -> None:
        super().__init__(preset, workdir, results)
        self.part = part or Part()
        self._settings: dict[Cell, Overrides] = {}  # picked; a cell that has one keeps it

    def fresh(self) -> Self:
        """See `Table.fresh`."""
        return type(self)(self.preset, self.workdir, self.results, self.part)

    def waves(self) -> Iterator[Wave]:
        """See `Table.waves`."""
        for batch in batches(self.preset, self.part):
            if 0 in batch.seeds:
                yield from self._picking_waves(batch.name, batch.cells)
            yield self._finals_wave(batch)

    def _picking_waves(self, name: str, cells: Sequence[Cell]) -> Iterator[Wave]:
        for number in itertools.count():
            rounds = [list(self._rounds(cell)) for cell in cells]
            jobs = [job for each in rounds if len(each) > number for job in each[number].jobs]
            if not jobs:
                return
            yield self.runs.missing(f"{name}, picking, round {number + 1}", jobs)

    def collect(self) -> dict[str, Any]:
        """See `Table.collect`."""
        return {
            "unit": PAPER[NAME]["unit"],
            "cells": [self._cell(cell) for cell in presets.cells(self.preset)],
        }

    @staticmethod
    def markdown(table: dict[str, Any]) -> str:
        """See `Table.markdown`: ours with its interval, and the paper's in parentheses."""
        entries = {(entry["row"], entry["estimator"]): entry for entry in table["cells"]}
        columns = list(dict.fromkeys(entry["estimator"] for entry in table["cells"]))
        rows = list(dict.fromkeys(entry["row"] for entry in table["cells"]))
        header = ["estimator", *(row.replace("_", ", ") for row in rows)]
        lines = []
        for column in columns:
            cells = [_shown(entries[row, column], table["preset"]["seeds"]) for row in rows]
            lines.append([f"`{column}`", *cells])
        steps = sorted({entry["steps"] for entry in table["cells"] if "steps" in entry})
        lengths = " and ".join(f"{count:,}" for count in steps)
        others = {
            entry["estimator"]: entry["objective"]
            for entry in table["cells"]
            if entry["objective"] != SINGLE
        }
        trained = "".join(f" `{name}` trains a {what}." for name, what in others.items())
        trained += " The others train the single-sample one." if others else ""
        trained += footnote(table["cells"])
        return f"""\
{markdown_table(header, lines)}
Test bound in nats, discrete samples; lower is better. Mean over seeds ± half the width of the 95%
interval; the paper's number in parentheses. Steps: {lengths or "none yet"}.{trained}
"""

    def finals(self, cell: Cell) -> list[Record]:
        """The records of a cell's final runs, by seed."""
        return self.runs.records(self._final_jobs(cell))

    def setting(self, cell: Cell) -> Overrides | None:
        """What was picked for a cell, or None if its runs are not all done or have all failed."""
        if cell not in self._settings:
            *_, last = self._rounds(cell)
            if last.ranked:
                self._settings[cell] = last.ranked[0]
        return self._settings.get(cell)

    def _rounds(self, cell: Cell) -> Iterator[_Round]:
        """The rounds of picking, up to the first that is not done."""
        done: list[list[Overrides]] = []
        while trials := protocol.pick_trials(cell, self.preset, done):
            jobs = self._jobs(cell, "pick", trials)
            ranked = self.runs.ranked(
                jobs, lambda record: record["validation_bound"], protocol.PICKED
            )
            yield _Round(jobs, ranked)
            if not ranked:
                return
            done.append(ranked)

    def _final_jobs(self, cell: Cell) -> list[Job]:
        setting = self.setting(cell)
        if setting is None:
            return []
        return [self._final(cell, setting, seed) for seed in range(self.preset.seeds)]

    def _final(self, cell: Cell, setting: Overrides, seed: int) -> Job:
        trial = protocol.final_trial(self.preset, setting, seed)
        return self._jobs(cell, "final", [trial])[0]

    def _jobs(self, cell: Cell, stage: str, trials: Sequence[Overrides]) -> list[Job]:
        pick_steps = trials[0]["num_steps"] if stage == "pick" else None
        base = protocol.base_config(cell, self.preset, pick_steps=pick_steps)
        return self.runs.jobs(base, f"{stage}/{cell.name}", trials)

    def _finals_wave(self, batch: Batch) -> Wave:
        picked = [(cell, setting) for cell in batch.cells if (setting := self.setting(cell))]
        jobs = [
            self._final(cell, setting, seed) for cell, setting in picked for seed in batch.seeds
        ]
        return self.runs.missing(f"{batch.name}, {batch.seeds_label}", jobs)

    def _cell(self, cell: Cell) -> dict[str, Any]:
        """What the JSON says of a cell."""
        found = self.finals(cell)
        values = [record["test_bound"] for record in found if record["test_bound"] is not None]
        entry: dict[str, Any] = {
            "row": cell.row,
            "estimator": cell.estimator,
            "paper": cell.paper,
            "objective": objective(cell.estimator),
            "setting": self.setting(cell),
            "seeds": len(values),
            "values": values,
        }
        if values:
            entry |= summary(values) | provenance_of(found)
            entry |= self.runs.failures(self._final_jobs(cell))
        elif found:
            entry["missing"] = "not finite"
        else:
            entry["missing"] = self._why_missing(cell, self._final_jobs(cell))
        return entry

    def _why_missing(self, cell: Cell, jobs: Sequence[Job]) -> str:
        """Why a cell has no number of these jobs, or of none as no setting is picked."""
        *_, last = self._rounds(cell)
        return self.runs.why_missing(jobs or last.jobs)


def objective(estimator: str) -> str:
    """What an estimator minimizes, in words; multi-sample ones are at their default."""
    spec = estimators.spec(estimator)
    if not spec.multi_sample:
        return SINGLE
    return f"{spec.options['num_samples'].default}-sample bound"


def bound_of(entry: dict[str, Any], seeds: int) -> str:
    """The bound of a cell of a table's JSON, or why it has none."""
    if "mean" not in entry:
        return str(entry["missing"])
    failed = entry.get("failed", 0)
    return shown(entry["mean"], entry["ci95"], entry["seeds"], seeds, failed=failed)


def _shown(entry: dict[str, Any], seeds: int) -> str:
    paper = "" if entry["paper"] is None else f" ({entry['paper']:.1f})"
    return bound_of(entry, seeds) + mark(entry) + paper
