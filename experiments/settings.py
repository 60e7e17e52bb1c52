"""The keys of a config with their defaults, as frozen dataclasses: what a run is, read once.

`experiments.config.read` makes a `Settings` of the ConfigDict that a config file returns. Below
that door nothing else is passed around.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gumbel
from gumbel import estimators

# Schedules of the temperature, and the keys below `temperature` that each reads.
SCHEDULES = {
    "constant": ("value",),
    "exponential": ("value", "rate", "floor", "interval"),
    "linear": ("value", "floor", "interval", "share"),
    "cosine": ("value", "floor", "interval", "share"),
    "learned": ("value", "floor"),
}

# Options that `base()` sets for every estimator that has them: the paper needed them for SF, DARN
# and MuProp, so every score-function estimator gets them.
SHARED_OPTIONS = {"centering": True, "variance_normalization": True}


def dynamic(default: float) -> Any:
    """A field whose number may differ between runs of one compiled program."""
    return dataclasses.field(default=default, metadata={"dynamic": True})


class Key(NamedTuple):
    """A config key: its name, type, default, and whether it may be None."""

    name: str
    kind: type
    default: Any
    optional: bool
    dynamic: bool


@functools.cache
def keys_of(fields: type) -> tuple[Key, ...]:
    """The keys that a dataclass of settings declares; those of groups are left out."""
    hints = typing.get_type_hints(fields)
    found = []
    for field in dataclasses.fields(fields):
        hint, optional = hints[field.name], False
        if isinstance(hint, types.UnionType):
            hint, optional = typing.get_args(hint)[0], True
        kind = typing.get_origin(hint) or hint
        if field.default is not dataclasses.MISSING:
            dynamic_field = bool(field.metadata.get("dynamic"))
            found.append(Key(field.name, kind, field.default, optional, dynamic_field))
    return tuple(found)


def option_kind(option: Any) -> type | None:
    """The type of an estimator's option, if a config can hold it."""
    kinds = (bool, int, float, str, tuple)
    return next((k for k in kinds if option.annotation in (k, k | None)), None)


@dataclasses.dataclass(frozen=True)
class Temperature:
    """The temperature and its schedule; see `gumbel.schedules`."""

    name: str = "constant"
    value: float = dynamic(1.0)
    rate: float = dynamic(1e-5)
    floor: float = dynamic(0.5)
    interval: int = dynamic(1)
    share: float = 1.0  # of the run's steps, after which a linear or cosine one is at its floor


@dataclasses.dataclass(frozen=True)
class Estimator:
    """The estimator's name and options.

    Attributes:
      name: as registered.
      values: of every option that any estimator has; None where unset.
    """

    name: str
    values: Mapping[str, Any]

    @property
    def spec(self) -> estimators.Spec:
        """What the library knows of it."""
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
            if option in known and option_kind(known[option]) is float
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
    dataset: str = "binarized_mnist"
    binarization: str = "threshold"  # of grey images; "dynamic": drawn anew for each minibatch
    latent: str = "bernoulli"
    layers: tuple[int, ...] = (200, 200)  # units of each stochastic layer
    num_classes: int = 10  # of a categorical variable: units / num_classes variables a layer
    standardize: bool = True  # pixels to mean 0, samples to mean 0 and variance 1, as inputs
    optimizer: str = "sgd"
    learning_rate: float = dynamic(1e-3)
    learning_rate_schedule: str = "constant"  # or "cosine": down to 0 over the run's steps
    momentum: float = dynamic(0.9)
    batch_size: int = 100
    num_steps: int = 200_000
    seed: int = dynamic(0)
    test_num_samples: int = 1000  # m of the final importance-weighted bound on test images
    validation_num_samples: int | None = None  # the same on validation images; None: as for test
    monitor_num_samples: int = 1  # m of the validation bound while training
    eval_batch_size: int = 100
    log_every: int = 1000
    eval_every: int = 5000
    checkpoint_every: int = 10_000
    steps_per_call: int = 1000  # optimizer steps in one compiled call

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
        """The m of the final bounds, by split."""
        validation = self.validation_num_samples
        return {
            "validation": self.test_num_samples if validation is None else validation,
            "test": self.test_num_samples,
        }

    def items(self) -> Iterator[tuple[str, Any, bool]]:
        """Each dotted key with its value and whether it is a dynamic hyperparameter."""
        yield "task", self.task, False
        groups = (("", self), ("temperature.", self.temperature), ("", self.options))
        for prefix, group in groups:
            for key in keys_of(type(group)):
                yield prefix + key.name, getattr(group, key.name), key.dynamic
        yield "estimator.name", self.estimator.name, False
        moving = self.estimator.dynamic
        for option, value in self.estimator.values.items():
            yield f"estimator.{option}", value, option in moving

    def flat(self) -> dict[str, Any]:
        """`{dotted key: value}` as JSON has it: tuples become lists."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v, _ in self.items()}

    def dynamic(self) -> dict[str, float | int]:
        """The dynamic hyperparameters by dotted key: the numbers that the program takes."""
        return {key: value for key, value, moves in self.items() if moves}

    def program_key(self) -> str:
        """The same text for runs that share one compiled program."""
        moving = self.dynamic()
        flat = self.flat()
        return json.dumps({key: flat[key] for key in sorted(flat) if key not in moving})
