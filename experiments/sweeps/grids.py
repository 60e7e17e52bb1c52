"""Grids of trials: what each run of a sweep overrides, from a config file or the command line."""

import copy
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from ml_collections import ConfigDict

from experiments.config import Overrides, Token, apply, get, unread
from experiments.errors import UserError
from experiments.training.job import Job

Trial = Overrides  # what one run of a grid overrides
Grid = list[Trial]

# The paper's grid, from which each estimator's best is picked on validation (Appendix, Table 1).
LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)

_MOST_RUNS = 10_000
_EXAMPLE = "--grid 'learning_rate=1e-4,1e-3;seed=0..4'"


def product(axes: Mapping[str, Iterable[Any]]) -> Grid:
    """Every combination of the axes' values, the last axis running fastest.

    Example:
      >>> product({"learning_rate": (1e-4, 1e-3), "seed": (0,)})
      [{'learning_rate': 0.0001, 'seed': 0}, {'learning_rate': 0.001, 'seed': 0}]
    """
    values = itertools.product(*axes.values())
    return [dict(zip(axes, trial, strict=True)) for trial in values]


def parse(text: str, config: ConfigDict) -> Grid:
    """The grid that a text such as `learning_rate=1e-4,1e-3;seed=0..4` names.

    Semicolons separate keys, and commas values, outside of brackets; `0..4` stands for the whole
    numbers from 0 to 4. The config says which keys there are and of what type.

    Raises:
      UserError: an unknown key, a key given twice, a value of the wrong type, or no value at all.
    """
    typed = _reader(config, "--grid")
    axes: dict[str, list[Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, values = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"--grid: {part!r} is not KEY=VALUE,VALUE,...: as in {_EXAMPLE}")
        if key in axes:
            raise UserError(f"--grid: {key} is given twice: join its values with commas")
        if "=" in values:
            raise UserError(f"--grid: {part!r} has two '=': separate keys by ';', as in {_EXAMPLE}")
        axes[key] = [typed(key, value) for value in _split(key, values)]
    if not axes:
        raise UserError(f"--grid: no key is named: as in {_EXAMPLE}")
    if (runs := math.prod(map(len, axes.values()))) > _MOST_RUNS:
        raise UserError(f"--grid: {runs} runs are more than {_MOST_RUNS}: name fewer values")
    return _distinct(product(axes))


def checked(trials: object, config: ConfigDict, source: str) -> Grid:
    """The trials that a config file's `get_sweep()` returned, with values of the config's types.

    Args:
      trials: what it returned: a list of `{dotted key: value}`.
      config: says which keys there are and of what type.
      source: source of the trials, with which an error message begins.

    Raises:
      UserError: not such a list, no trial, an unknown key or a value of the wrong type.
    """
    if not are_trials(trials):
        raise UserError(f"{source} must return a list of {{'dotted.key': value}}")
    if not trials:
        raise UserError(f"{source} returns no run: name one at least, or use {_EXAMPLE}")
    typed = _reader(config, source)
    return _distinct({key: typed(key, str(value)) for key, value in t.items()} for t in trials)


def keys(text: str) -> list[str]:
    """The keys that the text of a grid names.

    Example:
      >>> keys("learning_rate=1e-4,1e-3;seed=0..4")
      ['learning_rate', 'seed']
    """
    return [part.partition("=")[0].strip() for part in text.split(";")]


def are_trials(trials: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether this is a list of `{dotted key: value}`.

    Example:
      >>> are_trials([{"seed": 0}]), are_trials([0]), are_trials(None)
      (True, False, False)
    """
    return isinstance(trials, Sequence) and all(map(_has_named_keys, trials))


def union(grids: Iterable[Grid]) -> Grid:
    """The runs of all the grids, each once.

    Example:
      >>> union([[{"seed": 0}], [{"seed": 0}, {"seed": 1}]])
      [{'seed': 0}, {'seed': 1}]
    """
    return _distinct(trial for grid in grids for trial in grid)


def name(trial: Mapping[str, Any]) -> str:
    """The name of a run's directory: a hash of what it overrides, the same on every machine.

    Example:
      >>> name({"seed": 0, "learning_rate": 0.001}) == name({"learning_rate": 1e-3, "seed": 0})
      True
      >>> name({"seed": 1})
      'fbe47f6d82'
    """
    canonical = json.dumps(trial, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def label(trial: Mapping[str, Any]) -> str:
    """A trial in one line.

    Example:
      >>> label({"learning_rate": 0.001, "seed": 0})
      'learning_rate=0.001 seed=0'
    """
    return " ".join(f"{key}={value}" for key, value in trial.items()) or "the config as it is"


def without_seed(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The setting of a trial, which its seeds share.

    Example:
      >>> without_seed({"learning_rate": 0.1, "seed": 3})
      {'learning_rate': 0.1}
    """
    return {key: value for key, value in trial.items() if key != "seed"}


def settings_of(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The setting of each job: the values of all keys that any of them overrides, without the seed.

    Keys that a job's run does not read are left out of its setting. So jobs that share a setting
    differ in their seeds alone.
    """
    swept = without_seed({key: None for job in jobs for key in job.overrides})
    settings = []
    for job in jobs:
        flat, idle = job.settings.flat(), unread(job.settings)
        settings.append({key: flat[key] for key in swept if key not in idle})
    return settings


def config_at(config: ConfigDict, trial: Mapping[str, Any]) -> ConfigDict:
    """A locked copy of the config with the trial's values."""
    changed = copy.deepcopy(config)  # keeps the types of keys that are unset
    changed.update_from_flattened_dict(dict(trial))
    return changed.lock()


def varied(grid: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values differ between the trials, in order of appearance.

    Example:
      >>> varied([{"momentum": 0.9, "seed": 0}, {"momentum": 0.9, "seed": 1}])
      ['seed']
    """
    keys = dict.fromkeys(key for trial in grid for key in trial)
    return [key for key in keys if len({repr(trial.get(key)) for trial in grid}) > 1]


def _has_named_keys(trial: object) -> bool:
    return isinstance(trial, Mapping) and all(isinstance(key, str) for key in trial)


def _split(key: str, text: str) -> list[str]:
    """The values that a text parts by commas outside of brackets, ranges written out."""
    pieces = [piece.strip() for piece in re.split(r",(?![^(\[]*[)\]])", text)]
    values: list[str] = []
    for piece in pieces:
        if not piece:
            raise UserError(f"--grid: {key}={text} has an empty value: as in {_EXAMPLE}")
        bounds = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", piece)
        if bounds is None:
            values.append(piece)
            continue
        first, last = map(int, bounds.groups())
        if first > last:
            raise UserError(f"--grid: {key}={piece} is empty: give the smaller number first")
        if last - first >= _MOST_RUNS:
            raise UserError(f"--grid: {key}={piece} is more than {_MOST_RUNS} values: name fewer")
        values += map(str, range(first, last + 1))
    return values


def _reader(config: ConfigDict, source: str) -> Callable[[str, str], Any]:
    """`(key, text)` to the value that the command line would have for it; each is read once."""

    @functools.cache
    def typed(key: str, text: str) -> Any:
        scratch = copy.deepcopy(config)
        try:
            apply(scratch, [Token(key, f"--config.{key}={text}")])
        except UserError as error:
            raise UserError(f"{source}: {str(error).replace('--config.', '')}") from error
        return get(scratch, key)

    return typed


def _distinct(trials: Iterable[Overrides]) -> Grid:
    """The trials without repeats, in order."""
    return list({name(trial): trial for trial in trials}.values())
