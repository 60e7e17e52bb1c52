"""The keys of a config with their defaults, as frozen dataclasses: what a run is, read once.

`experiments.config.read` makes a `Settings` of the ConfigDict that a config file returns. After
that, only `Settings` is passed around.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import gumbel
from experiments.data import DATASETS
from experiments.errors import check_choice, refuse
from gumbel import estimators

# Schedules of the temperature, and the keys below `temperature` that each reads.
SCHEDULES = {
    "constant": ("value",),
    "exponential": ("value", "rate", "floor", "interval"),
    "linear": ("value", "floor", "interval", "share"),
    "cosine": ("value", "floor", "interval", "share"),
    "learned": ("value", "floor", "learning_rate", "update_every", "average_over"),
}

# Options that `base()` sets for every estimator that has them: the paper needed them for SF, DARN
# and MuProp, so every score-function estimator gets them.
SHARED_OPTIONS = {"centering": True, "variance_normalization": True}

LARGEST = 2**31 - 1  # steps and seeds are int32 on the device
# And all other numbers are float32.
SMALLEST_FLOAT, LARGEST_FLOAT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class Range(NamedTuple):
    """Values that a key may have: those that pass the test; `fix` ends the error of the others."""

    test: Callable[[Any], bool]
    fix: str

    def check(self, key: str, value: Any) -> None:
        """Raises UserError for a value outside."""
        if not self.test(value):
            refuse(key, value, self.fix)


class Choice(NamedTuple):
    """Names that a key may take."""

    names: Collection[str]

    def check(self, key: str, value: Any) -> None:
        """Raises UserError for another name, with the nearest ones."""
        check_choice(key, value, self.names)


COUNT = Range(lambda v: 1 <= v <= LARGEST, f"give an integer from 1 to {LARGEST}")
SEED = Range(lambda v: 0 <= v <= LARGEST, f"give an integer from 0 to {LARGEST}")
POSITIVE = Range(lambda v: SMALLEST_FLOAT <= v <= LARGEST_FLOAT, "give a finite number over 0")
NOT_NEGATIVE = Range(lambda v: 0 <= v <= LARGEST_FLOAT, "give a finite number of at least 0")
SHARE = Range(lambda v: 0 <= v <= 1, "give a number in [0, 1]")
ANY = Range(lambda _: True, "")


def setting(default: Any, valid: Range | Choice = ANY, *, dynamic: bool = False) -> Any:
    """A field of settings.

    Args:
      default: default of the annotated type.
      valid: the values that it may have; None is accepted if the annotation allows it.
      dynamic: whether its number may differ between runs of one compiled program.
    """
    return dataclasses.field(default=default, metadata={"valid": valid, "dynamic": dynamic})


class Key(NamedTuple):
    """A config key: its name, type, default, whether it may be None, and what `setting` says."""

    name: str
    kind: type
    default: Any
    optional: bool
    valid: Range | Choice = ANY
    dynamic: bool = False


@functools.cache
def keys_of(fields: Any) -> tuple[Key, ...]:
    """The keys that a dataclass of settings declares with a default."""
    hints = typing.get_type_hints(fields)
    found = []
    for field in dataclasses.fields(fields):
        hint, optional = hints[field.name], False
        if isinstance(hint, types.UnionType):
            hint, optional = typing.get_args(hint)[0], True
        kind = typing.get_origin(hint) or hint
        if field.default is not dataclasses.MISSING:
            default = kind(field.default) if type(field.default) is int else field.default
            found.append(Key(field.name, kind, default, optional, **field.metadata))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Temperature:
    """The temperature and its schedule; see `gumbel.schedules`."""

    name: str = setting("constant", Choice(SCHEDULES))
    value: float = setting(1.0, POSITIVE, dynamic=True)
    rate: float = setting(1e-5, NOT_NEGATIVE, dynamic=True)
    floor: float = setting(0.5, POSITIVE, dynamic=True)
    interval: int = setting(1, COUNT, dynamic=True)
    # Fraction of the run's steps after which a linear or cosine schedule is at its floor.
    share: float = setting(1.0, Range(lambda v: 0 < v <= 1, "give a number in (0, 1]"))
    # For a learned one: Adam's learning rate, in log(temperature - floor); steps between updates;
    # and the number of gradient estimates that average out noise, see `gumbel.adaptation`.
    learning_rate: float = setting(0.02, POSITIVE, dynamic=True)
    update_every: int = setting(10, COUNT)
    average_over: float = setting(
        10.0, Range(lambda v: 1 <= v <= LARGEST_FLOAT, "give a number of at least 1"), dynamic=True
    )


@dataclasses.dataclass(frozen=True)
class Estimator:
    """The estimator's name and options.

    Attributes:
      name: registered name.
      values: value of every option that any estimator has; None if unset.
    """

    name: str
    values: Mapping[str, Any]

    @property
    def spec(self) -> estimators.Spec:
        """Its entry in the library's registry."""
        return estimators.spec(self.name)

    @property
    def options(self) -> dict[str, Any]:
        """The options that are set; shared ones only if the estimator has them."""
        known = self.spec.options
        return {
            option: value
            for option, value in self.values.items()
            if value is not None and (option in known or option not in SHARED_OPTIONS)
        }

    @property
    def dynamic(self) -> dict[str, float]:
        """The options among them that may differ between runs of one program: floats."""
        known = self.spec.options
        return {
            option: value
            for option, value in self.options.items()
            if option in known and known[option].kind is float
        }


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run; the defaults are the paper's common set-up of Table 1.

    Attributes:
      task: the name of a module of `experiments.tasks`.
      options: the task's own settings, an instance of its `Task.options`.
      estimator, temperature: groups of keys.
    """

    task: str
    options: Any
    estimator: Estimator
    temperature: Temperature
    dataset: str = setting("binarized_mnist", Choice(DATASETS))
    # For gray images; "dynamic" redraws the pixels for each minibatch.
    binarization: str = setting("threshold", Choice(("threshold", "dynamic")))
    latent: str = setting("bernoulli", Choice(("bernoulli", "categorical")))
    layers: tuple[int, ...] = setting((200, 200))  # units of each stochastic layer
    # Values of a categorical variable: a layer has units / num_classes variables.
    num_classes: int = setting(10, COUNT)
    # Standardizes inputs of layers: pixels to mean 0, samples to mean 0 and variance 1.
    standardize: bool = setting(default=True)
    optimizer: str = setting("sgd", Choice(("sgd", "adam")))
    learning_rate: float = setting(1e-3, POSITIVE, dynamic=True)
    # "cosine" decays to 0 over the run's steps.
    learning_rate_schedule: str = setting("constant", Choice(("constant", "cosine")))
    momentum: float = setting(
        0.9, Range(lambda v: 0 <= v < 1, "give a number in [0, 1)"), dynamic=True
    )
    batch_size: int = setting(100, COUNT)
    num_steps: int = setting(200_000, COUNT)
    seed: int = setting(0, SEED, dynamic=True)
    # Samples of the final importance-weighted bound on test images; on validation images, None for
    # as many; and of the validation bound during training.
    test_num_samples: int = setting(1000, COUNT)
    validation_num_samples: int | None = setting(None, COUNT)
    monitor_num_samples: int = setting(1, COUNT)
    eval_batch_size: int = setting(100, COUNT)
    log_every: int = setting(1000, COUNT)
    eval_every: int = setting(5000, COUNT)
    checkpoint_every: int = setting(10_000, COUNT)
    steps_per_call: int = setting(1000, COUNT)  # optimizer steps in one compiled call

    @property
    def family(self) -> gumbel.Family:
        """The family of the latent variables."""
        return gumbel.family(self.latent)

    @property
    def dynamic_binarization(self) -> bool:
        """Whether pixels are drawn anew for each minibatch."""
        return self.binarization == "dynamic"

    @property
    def num_variables(self) -> tuple[int, ...]:
        """Variables in each layer: its units, over the classes if categorical."""
        each = self.num_classes if self.latent == "categorical" else 1
        return tuple(units // each for units in self.layers)

    @property
    def final_num_samples(self) -> dict[str, int]:
        """Samples of the final bounds, by split."""
        validation = self.validation_num_samples
        return {
            "validation": self.test_num_samples if validation is None else validation,
            "test": self.test_num_samples,
        }

    def items(self) -> Iterator[tuple[str, Key, Any]]:
        """Yields `(dotted key, Key, value)` for each declared key."""
        groups: list[Any] = [self, self.temperature, self.options]
        for group, prefix in zip(groups, ("", "temperature.", ""), strict=True):
            kind: Any = type(group)
            for key in keys_of(kind):
                yield prefix + key.name, key, getattr(group, key.name)

    def flat(self) -> dict[str, Any]:
        """`{dotted key: value}` as JSON has it: tuples become lists."""
        values: dict[str, Any] = {"task": self.task, "estimator.name": self.estimator.name}
        values |= {dotted: value for dotted, _, value in self.items()}
        values |= {f"estimator.{name}": value for name, value in self.estimator.values.items()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def dynamic(self) -> dict[str, float | int]:
        """The dynamic hyperparameters by dotted key: the numbers that the program takes."""
        found = {dotted: value for dotted, key, value in self.items() if key.dynamic}
        options = self.estimator.dynamic
        return found | {f"estimator.{name}": value for name, value in options.items()}

    def program_key(self) -> str:
        """The same text for runs that share one compiled program."""
        dynamic = self.dynamic()
        fixed = {key: value for key, value in self.flat().items() if key not in dynamic}
        return json.dumps(fixed, sort_keys=True)
