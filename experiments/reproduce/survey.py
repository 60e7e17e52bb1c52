"""Table 1's rows under every registered estimator, for equal steps and at equal cost.

It has Table 1's protocol and its records: what either has trained, the other does not train again.
At equal cost an estimator whose step takes K times the passes of a single forward and backward pass
gets 1/K of the steps, at the setting that was picked for it.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import config, tasks
from experiments.config import Overrides
from experiments.files import markdown_table
from experiments.reproduce import step_times, table1
from experiments.reproduce import table1_presets as presets
from experiments.reproduce import table1_protocol as protocol
from experiments.reproduce.ranking import best_of, ranks
from experiments.reproduce.store import Record
from experiments.reproduce.table import Runs, Wave, provenance_of, summary
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_order import batches
from experiments.reproduce.table1_presets import Cell, Part, Preset
from experiments.reproduce.versions import footnote, mark
from experiments.settings import Settings
from experiments.tasks.functional import objective, params_of
from experiments.training.dynamic import dynamic_of
from experiments.training.job import Job
from gumbel import estimators
from gumbel.layouts import layout
from gumbel.passes import count_passes
from gumbel.samplers import Pass

NAME = "survey"
# Steps of more passes train at equal cost only, as 50,000 of them take days, and at the setting of
# another estimator of several samples.
MAX_COST = 32
LENDER = "rloo"
_IMAGE_SHAPE = (28, 28)  # the passes do not depend on it


class Share(NamedTuple):
    """What an estimator gets at equal cost.

    Attributes:
      cost: cost of a step, in forward and backward passes of one sample.
      steps: steps of a final run.
    """

    cost: float
    steps: int


def columns() -> tuple[str, ...]:
    """Every estimator that does not enumerate: the paper's first, as in Table 1."""
    first = (*presets.COLUMNS, *presets.EXTRA_COLUMNS)
    rest = [name for name in estimators.names() if not estimators.spec(name).enumerates]
    return tuple(dict.fromkeys((*first, *rest)))


def preset(name: str) -> Preset:
    """The preset of Table 1 with all columns; of the smoke preset, two more."""
    base = presets.PRESETS[name]
    if name == "smoke":
        return base._replace(extra_columns=("rloo", "reinmax"))
    return base._replace(extra_columns=columns()[len(base.columns) :])


class Survey(Table1):
    """The jobs of both tables and their results; arguments as for `Table1`."""

    name = NAME

    def __init__(
        self, preset: Preset, workdir: Path, results: Path, part: Part | None = None
    ) -> None:
        super().__init__(preset, workdir, results, part)
        self.runs = Runs.of_table(table1.NAME, workdir, results)
        self.times = step_times.read(results)
        self._layouts: dict[str, Pass] = {}  # by row
        self._shares: dict[Cell, Share] = {}

    def waves(self) -> Iterator[Wave]:
        """As for Table 1; the runs at equal cost follow those of equal steps."""
        for batch in batches(self.preset, self.part):
            cells = [cell for cell in batch.cells if self.share(cell).cost <= MAX_COST]
            if 0 in batch.seeds:
                lenders = dict.fromkeys(map(self._lender, batch.cells))  # maybe not of this part
                yield from self._picking_waves(batch.name, list(lenders))
            yield self._finals_wave(batch._replace(cells=cells))
            jobs = [job for cell in batch.cells for job in self._equal_jobs(cell, batch.seeds)]
            yield self.runs.missing(f"{batch.name}, equal cost, {batch.seeds_label}", jobs)

    def setting(self, cell: Cell) -> Overrides | None:
        """See `Table1.setting`; cells that train at equal cost only borrow it."""
        return super().setting(self._lender(cell))

    def _lender(self, cell: Cell) -> Cell:
        """The cell whose setting this one trains with: itself, unless its steps are too costly."""
        return cell._replace(estimator=LENDER) if self.share(cell).cost > MAX_COST else cell

    def settings_of(self, row: str, estimator: str) -> Settings:
        """The settings that a cell's runs share."""
        return config.read(protocol.base_config(Cell(row, estimator), self.preset))

    def affordable(self, row: str) -> list[str]:
        """The estimators that train for equal steps on a row."""
        cells = [cell for cell in presets.cells(self.preset) if cell.row == row]
        return [cell.estimator for cell in cells if self.share(cell).cost <= MAX_COST]

    def curves(self) -> dict[str, dict[str, list[Record]]]:
        """The records of the final runs by row and estimator, of the cells that have any."""
        panels: dict[str, dict[str, list[Record]]] = {row: {} for row in self.preset.rows}
        for cell in presets.cells(self.preset):
            if found := self.finals(cell):
                panels[cell.row][cell.estimator] = found
        return panels

    def share(self, cell: Cell) -> Share:
        """What the cell gets at equal cost."""
        if cell not in self._shares:  # a table asks hundreds of times
            settings = self.settings_of(cell.row, cell.estimator)
            if cell.row not in self._layouts:
                self._layouts[cell.row] = layout_of(settings)
            spec = estimators.spec(cell.estimator)
            passes = count_passes(spec, self._layouts[cell.row], settings.estimator.options)
            cost = passes / 2
            self._shares[cell] = Share(cost, max(1, math.floor(self.preset.final_steps / cost)))
        return self._shares[cell]

    def equals(self, cell: Cell) -> list[Record]:
        """The records of a cell's runs at equal cost, by seed."""
        return self.runs.records(self._equal_jobs(cell, range(self.preset.seeds)))

    def _equal_jobs(self, cell: Cell, seeds: Sequence[int]) -> list[Job]:
        setting, share = self.setting(cell), self.share(cell)
        if setting is None:
            return []
        if share.cost == 1:
            return [self._final(cell, setting, seed) for seed in seeds]
        base = protocol.base_config(cell, self.preset, pick_steps=share.steps)
        trials: list[Overrides] = [
            setting | {"seed": seed, "num_steps": share.steps} for seed in seeds
        ]
        return self.runs.jobs(base, f"equal/{cell.name}", trials)

    def collect(self) -> dict[str, Any]:
        """See `Table.collect`."""
        cells = presets.cells(self.preset)
        return super().collect() | {"equal_cost": [self._equal_cell(cell) for cell in cells]}

    def _cell(self, cell: Cell) -> dict[str, Any]:
        cost = self.share(cell).cost
        seconds = self.times.seconds.get((cell.row, cell.estimator))
        ms = None if seconds is None else 1000 * seconds
        entry = super()._cell(cell) | {"cost": cost, "ms": ms}
        if cost > MAX_COST:
            entry["missing"] = "too costly"
        return entry

    def _equal_cell(self, cell: Cell) -> dict[str, Any]:
        found, share = self.equals(cell), self.share(cell)
        values = [record["test_bound"] for record in found if record["test_bound"] is not None]
        entry: dict[str, Any] = {"row": cell.row, "estimator": cell.estimator, "cost": share.cost}
        entry |= {"equal_steps": share.steps, "seeds": len(values), "values": values}
        jobs = self._equal_jobs(cell, range(self.preset.seeds))
        if values:
            entry |= summary(values) | provenance_of(found)
            return entry | self.runs.failures(jobs)
        return entry | {"missing": self._why_missing(cell, jobs)}

    @staticmethod
    def markdown(table: dict[str, Any]) -> str:
        """See `Table.markdown`."""
        seeds, steps = table["preset"]["seeds"], f"{table['preset']['final_steps']:,}"
        versions = footnote([*table["cells"], *table["equal_cost"]])
        return f"""\
**Equal steps: {steps} for every estimator**

{_rows(table["cells"], seeds)}
**Equal cost: {steps} steps of a single pass, fewer of more passes**

{_rows(table["equal_cost"], seeds)}
Test bound in nats with discrete samples; lower is better. Mean over seeds ± half the width of the
95% interval. Bold: the best mean of a row, and all means within its interval; a single run has no
interval. *Cost*: forward and backward passes per step, divided by those of a single-sample step; if
they differ, the SBN rows come first, then the VAE rows. *ms*: time of a step, row by row
(`step_times.json`). *Rank*: mean rank over the rows, for estimators that have all rows. `vimco`
trains a bound of several samples, the others the single-sample one. An estimator with a cost above
{MAX_COST} trains at equal cost only, with the setting picked for `{LENDER}`.{versions}
"""


def _rows(entries: Sequence[dict[str, Any]], seeds: int) -> str:
    by = {(entry["row"], entry["estimator"]): entry for entry in entries}
    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    best = {row: best_of([e for e in entries if e["row"] == row]) for row in rows}
    rank = ranks(entries)
    timed = any(entry.get("ms") for entry in entries)  # at equal cost, none is
    columns = [row.replace("_", ", ") for row in rows]
    header = ["estimator", "cost", *(["ms"] if timed else []), *columns, "rank"]
    lines = []
    for name in dict.fromkeys(entry["estimator"] for entry in entries):
        own = [by[row, name] for row in rows]
        costs = ", ".join(dict.fromkeys(f"{entry['cost']:g}" for entry in own))
        ms = ", ".join(f"{entry['ms']:.1f}" for entry in own if entry.get("ms"))
        cells = [_shown(by[row, name], seeds, bold=name in best[row]) for row in rows]
        place = f"{rank[name]:.1f}" if name in rank else ""
        lines.append([f"`{name}`", costs, *([ms] if timed else []), *cells, place])
    return markdown_table(header, lines)


def _shown(entry: dict[str, Any], seeds: int, *, bold: bool) -> str:
    text = table1.bound_of(entry, seeds)
    return (f"**{text}**" if bold else text) + mark(entry)


def layout_of(settings: Settings) -> Pass:
    """The layout of the objective of these settings: one pass through it, as shapes."""
    task = tasks.load(settings.task)
    model = task.build(settings, jnp.zeros(_IMAGE_SHAPE), jax.random.key(0))
    annealed = task.annealed(settings, dynamic_of(settings), 0)
    batch = model.batch(jnp.zeros((2, *_IMAGE_SHAPE)))
    cost = objective(model, temperature=1.0, **annealed)
    return layout(cost, params_of(model), batch, jax.random.key(0), settings.family)
