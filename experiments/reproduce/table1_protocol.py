"""How a cell of Table 1 picks its setting: the config it starts from, and each round's runs."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.config import Overrides, load
from experiments.reproduce.table import CONFIGS, PICK_SEED
from experiments.reproduce.table1_presets import Cell, Preset
from experiments.sweeps import grids
from experiments.sweeps.grids import Grid
from gumbel import estimators

_SMOKE_LAYERS = {"sbn": (20, 20), "vae": (20,)}
_FINALISTS = 2  # learning rates in the second round
VARIANCE_NORMALIZATION, STANDARDIZE = "estimator.variance_normalization", "standardize"
# The keys that are picked.
PICKED = (
    "learning_rate",
    VARIANCE_NORMALIZATION,
    STANDARDIZE,
    "temperature.rate",
    "temperature.interval",
)


def base_config(cell: Cell, preset: Preset, *, pick_steps: int | None = None) -> ConfigDict:
    """The config of a cell before anything is picked.

    Args:
      cell, preset: a cell, and the preset of the table.
      pick_steps: the length of a picking run, in which what is annealed and not itself picked is
        annealed faster, to go through as much of its course as in a final run; None for a final.
    """
    config = load(str(CONFIGS / f"{cell.model}.py"))
    changes = preset.changes | {"latent": cell.latent, "estimator.name": cell.estimator}
    if preset.changes.get("dataset") == "digits":
        changes["layers"] = _SMOKE_LAYERS[cell.model]
    config = grids.config_at(config, changes)
    faster = preset.final_steps / pick_steps if pick_steps else 1.0
    if "slope_rate" in estimators.spec(cell.estimator).options:
        config.estimator.slope_rate = preset.slope_rate * faster
    if config.temperature.name == "exponential" and not preset.schedules:
        config.temperature.rate *= faster
        config.temperature.interval = max(1, round(config.temperature.interval / faster))
    if pick_steps and config.validation_num_samples is not None:
        config.validation_num_samples = preset.pick_samples
    return config


def pick_trials(cell: Cell, preset: Preset, ranked: Sequence[Sequence[Overrides]]) -> Grid | None:
    """The runs of the next round of picking, None after the last.

    Args:
      cell, preset: a cell, and the preset of the table.
      ranked: the settings of each round so far, best first.
    """
    rounds: list[Grid] = [first_trials(cell, preset)]
    if ranked:
        best = ranked[-1][0]
        rounds += filter(
            None, (second_trials(cell, preset, ranked[0]), schedule_trials(cell, preset, best))
        )
    return rounds[len(ranked)] if len(ranked) < len(rounds) else None


def first_trials(cell: Cell, preset: Preset) -> Grid:
    """The runs that the learning rate is picked from, and what goes with it.

    Inputs that are not standardized learn more slowly: they go without the smallest learning rate.
    """
    trials: Grid = []
    ways = preset.standardize[cell.model]
    for standardize in ways[:1] if preset.second_steps else ways:
        skipped = 0 if standardize else int(len(preset.learning_rates) > 1)
        changed = {} if standardize else {STANDARDIZE: False}
        trials += [
            {"learning_rate": rate} | normalization | changed
            for rate in preset.learning_rates[skipped:]
            for normalization in _normalizations(cell, preset)
        ]
    schedule = preset.schedules[0] if _annealed(cell, preset) else {}
    return [trial | schedule | _picking(preset, preset.pick_steps) for trial in trials]


def _normalizations(cell: Cell, preset: Preset) -> Grid:
    """The ways to normalize the variance of the signal that are picked from."""
    options = estimators.spec(cell.estimator).options
    if "variance_normalization" not in options:
        return [{}]
    return [{VARIANCE_NORMALIZATION: on} for on in preset.variance_normalization]


def second_trials(cell: Cell, preset: Preset, ranked: Sequence[Overrides]) -> Grid:
    """The longer runs of the best of the first round, none where the preset has one round.

    Args:
      cell, preset: a cell, and the preset of the table.
      ranked: the settings of the first round, best first.
    """
    if preset.second_steps is None:
        return []
    trials = list(ranked[:_FINALISTS])
    trials += [ranked[0] | {STANDARDIZE: way} for way in preset.standardize[cell.model][1:]]
    return [trial | _picking(preset, preset.second_steps) for trial in trials]


def schedule_trials(cell: Cell, preset: Preset, setting: Overrides) -> Grid:
    """The runs that the temperature's schedule is picked from, none where it is not annealed.

    The one of them that the round before had is the same run.

    Args:
      cell, preset: a cell, and the preset of the table.
      setting: what was picked before.
    """
    if not _annealed(cell, preset):
        return []
    length = _picking(preset, preset.second_steps or preset.pick_steps)
    return [setting | schedule | length for schedule in preset.schedules]


def _annealed(cell: Cell, preset: Preset) -> bool:
    """Whether the cell has a temperature whose schedule is picked."""
    if not preset.schedules or not estimators.spec(cell.estimator).relaxes:
        return False
    return bool(base_config(cell, preset).temperature.name == "exponential")


def final_trial(preset: Preset, setting: Overrides, seed: int) -> Overrides:
    """A final run at a picked setting and a seed."""
    return setting | {"seed": seed, "num_steps": preset.final_steps}


def _picking(preset: Preset, num_steps: int) -> Overrides:
    return {"seed": PICK_SEED, "num_steps": num_steps, "test_num_samples": preset.pick_samples}
