"""The order in which the cells of Table 1 train: those of most interest first."""

from collections.abc import Iterator
from typing import NamedTuple

from experiments.reproduce.table1_presets import Cell, Part, Preset

# The paper's own estimators, which train first where cells train one at a time.
_FIRST_COLUMNS = ("gumbel_softmax", "st_gumbel_softmax")


class Batch(NamedTuple):
    """Cells whose runs may train at once.

    Attributes:
      name: name for the log.
      cells: cells of the table.
      seeds: seeds of their final runs; those of seed 0 come after the picking.
    """

    name: str
    cells: list[Cell]
    seeds: list[int]

    @property
    def seeds_label(self) -> str:
        """The seeds in words."""
        return f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"


def batches(preset: Preset, part: Part) -> Iterator[Batch]:
    """What trains of a part of the table, in priority order.

    The paper's cells come first, with one seed each. By rows, the columns that the paper left out
    follow, then the other seeds. Cell by cell, the columns of its own estimators lead, through the
    rows; their other seeds follow, then those of its other columns; what it left out comes last.
    Where `part.together`, all seeds of a cell train with its first.
    """
    found = (
        batch._replace(cells=cells)
        for batch in _batches(preset)
        if (cells := [cell for cell in batch.cells if part.has(cell)])
        and (part.seeds is None or max(batch.seeds) < part.seeds)
    )
    if not part.together:
        yield from found
        return
    merged: dict[tuple[Cell, ...], Batch] = {}
    for batch in found:
        merged.setdefault(tuple(batch.cells), batch._replace(seeds=[])).seeds.extend(batch.seeds)
    yield from merged.values()


def _batches(preset: Preset) -> Iterator[Batch]:
    if preset.rows_at_once:
        yield from _batches_by_rows(preset, preset.rows_at_once)
        return
    first = [name for name in preset.columns if name in _FIRST_COLUMNS]
    others = [name for name in preset.columns if name not in _FIRST_COLUMNS]
    seeds, further = range(preset.seeds), range(1, preset.seeds)
    for columns, those in (
        (first + others, range(1)),
        (first, further),
        (others, further),
        (preset.extra_columns, seeds),
    ):
        for seed in those:
            for cell in (Cell(row, column) for column in columns for row in preset.rows):
                yield Batch(cell.name, [cell], [seed])


def _batches_by_rows(preset: Preset, size: int) -> Iterator[Batch]:
    groups = [preset.rows[first : first + size] for first in range(0, len(preset.rows), size)]
    rounds = [(preset.columns, 0), (preset.extra_columns, 0)]
    for columns, seed in rounds + [(preset.all_columns, seed) for seed in range(1, preset.seeds)]:
        for rows in groups:
            cells = [Cell(row, column) for row in rows for column in columns]
            yield Batch(" and ".join(rows), cells, [seed])
