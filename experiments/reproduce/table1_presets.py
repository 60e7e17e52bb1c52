"""What Table 1 is: its cells, the settings each may pick from, and how long everything trains.

Every estimator gets the same learning rates, steps and seeds, and a centered signal wherever there
is a score function. Whether inputs are standardized is picked with the learning rate, as it suits
some estimators and not others. So is variance normalization, unless the preset turns it on for all:
it divides the signal by up to several tens, so the best learning rate depends on it. The schedule
of an annealed temperature is picked last, where the estimator reads one and the preset has several.

`full` is the paper's protocol: 500,000 steps of SGD with momentum 0.9 at a constant learning rate
from its six, its four schedules of the temperature, and 1000 samples on the test set. It picks by
successive halving, by the 20-sample bound on validation. That takes 0.3 of the steps of the finals
of three seeds, and 0.5 where the schedule is picked too:

1. all six rates for 25,000 steps, with standardized inputs;
2. the best two of them for 100,000 steps, and the best one with inputs as they are. Those learn
   more slowly at first and end lower in some cells, so a shorter round would reject them;
3. where the temperature is annealed, its four schedules for 100,000 steps, by which all of them
   have reached the floor. Rounds 1 and 2 have a schedule of the faster rate: it is at the floor for
   most of even a short run, as it is for most of a final one.

Variance normalization is on, which the paper needed for SF, DARN and MuProp. Where the paper is
silent, `full` does as `short` does: batches of 100, the same initialization, centered signals, a
slope that ends at 2 for slope-annealed straight-through. It trains one cell at a time, the first
seed's final run right after the picking, so the table fills from the start.
"""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.config import Overrides
from experiments.reproduce.table import PAPER
from experiments.sweeps import grids
from experiments.sweeps.grids import LEARNING_RATES, Grid

_PAPER = PAPER["table1"]
ROWS: tuple[str, ...] = tuple(_PAPER["rows"])
COLUMNS: tuple[str, ...] = tuple(_PAPER["columns"])
# Described in the paper but left out of its table; VIMCO has an objective of its own.
EXTRA_COLUMNS = ("nvil", "vimco")


class Cell(NamedTuple):
    """One cell of the table."""

    row: str
    estimator: str

    @property
    def name(self) -> str:
        """`row-estimator`, for file names."""
        return f"{self.row}-{self.estimator}"

    @property
    def model(self) -> str:
        """`sbn` or `vae`."""
        return self.row.partition("_")[0]

    @property
    def latent(self) -> str:
        """`bernoulli` or `categorical`."""
        return self.row.partition("_")[2]

    @property
    def paper(self) -> float | None:
        """The paper's number, in nats, or None where it has none."""
        if self.estimator not in COLUMNS:
            return None
        return float(_PAPER["rows"][self.row][COLUMNS.index(self.estimator)])


class Preset(NamedTuple):
    """How much to do.

    Attributes:
      name: name of the preset.
      learning_rates: learning rates to pick from.
      schedules: schedules of an annealed temperature, to pick from at the picked learning rate.
      pick_steps: optimizer steps of a picking run of the first round.
      final_steps: optimizer steps of a final run.
      seeds: how many final runs; picking uses a seed that these do not.
      pick_samples: m of the bounds of picking runs.
      changes: changes to the config, for all runs.
      columns, extra_columns: the estimators.
      rows: rows of the table.
      rows_at_once: how many rows train in one wave; None trains a cell at a time.
      slope_rate: growth of the slope per step, for slope-annealed straight-through.
      variance_normalization: values to pick from, for the estimators that have it.
      standardize: values to pick from for every estimator, by model.
      second_steps: optimizer steps of the second round and of picking the schedule. With
        None, there is one round, and the schedule is picked in `pick_steps`. With a second round,
        the first has only the first value of `standardize`.
    """

    name: str
    learning_rates: tuple[float, ...]
    schedules: Grid
    pick_steps: int
    final_steps: int
    seeds: int
    pick_samples: int
    changes: Overrides
    columns: tuple[str, ...] = COLUMNS
    extra_columns: tuple[str, ...] = EXTRA_COLUMNS
    rows: tuple[str, ...] = ROWS
    rows_at_once: int | None = 1
    slope_rate: float = 1e-5
    variance_normalization: tuple[bool, ...] = (True, False)
    standardize: Mapping[str, tuple[bool, ...]] = {"sbn": (True, False), "vae": (True, False)}
    second_steps: int | None = None

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The estimators of the table, those that the paper has first."""
        return (*self.columns, *self.extra_columns)


class Part(NamedTuple):
    """Which cells to train, and how many of their seeds; None for all.

    Attributes:
      rows, estimators: rows and estimators of the cells.
      seeds: number of their final runs, with seeds from 0 on.
      together: whether all seeds of a cell train at once, which pays off if runs are vmapped, or
        the first seed of all cells before any other.
    """

    rows: tuple[str, ...] | None = None
    estimators: tuple[str, ...] | None = None
    seeds: int | None = None
    together: bool = False

    def has(self, cell: Cell) -> bool:
        """Whether the cell trains."""
        of_row = self.rows is None or cell.row in self.rows
        return of_row and (self.estimators is None or cell.estimator in self.estimators)


_SCHEDULES = grids.product({"temperature.rate": (1e-4, 1e-5), "temperature.interval": (500, 1000)})
# A tenth of the steps, so learning rates start where the paper's grid ends, and fall to 0 so that
# the final numbers are not noisy; and the faster of the paper's rates for the temperature.
_SHORT_CHANGES: Overrides = {
    "learning_rate_schedule": "cosine",
    "temperature.rate": 1e-4,
    "validation_num_samples": 20,
}
PRESETS = {
    "full": Preset(
        name="full",
        learning_rates=LEARNING_RATES,
        schedules=_SCHEDULES,
        pick_steps=25_000,
        final_steps=500_000,
        seeds=3,
        pick_samples=20,
        changes={"validation_num_samples": 20},
        rows_at_once=None,
        slope_rate=2e-6,
        variance_normalization=(True,),
        second_steps=100_000,
    ),
    "short": Preset(
        name="short",
        learning_rates=(1e-2, 3e-2, 1e-1),
        schedules=[],
        pick_steps=10_000,
        final_steps=50_000,
        seeds=3,
        pick_samples=20,
        changes=_SHORT_CHANGES,
        rows_at_once=2,
        slope_rate=2e-5,
        variance_normalization=(True,),
    ),
    "smoke": Preset(
        name="smoke",
        learning_rates=(3e-3,),
        schedules=_SCHEDULES[:2],
        pick_steps=200,
        final_steps=200,
        seeds=2,
        pick_samples=5,
        changes={
            "dataset": "digits",
            "batch_size": 20,
            "num_classes": 5,
            "log_every": 100,
            "eval_every": 100,
            "checkpoint_every": 200,
            "test_num_samples": 5,
        },
        columns=("sf", "gumbel_softmax"),
        extra_columns=(),
        rows=("sbn_bernoulli", "vae_categorical"),
        rows_at_once=2,
        standardize={"sbn": (True,), "vae": (True,)},
    ),
}


def cells(preset: Preset) -> list[Cell]:
    """The cells of a preset, row by row."""
    return [Cell(row, estimator) for row in preset.rows for estimator in preset.all_columns]
