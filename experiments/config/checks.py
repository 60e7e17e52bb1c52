"""The checks of settings that are made before data is loaded and models are built."""

import dataclasses

import numpy as np

from experiments.data import DATASETS
from experiments.errors import UserError, check_choice, refuse
from experiments.settings import SCHEDULES, Settings, Temperature, option_kind
from gumbel import estimators

CHOICES = {
    "dataset": DATASETS,
    "latent": ("bernoulli", "categorical"),
    "binarization": ("threshold", "dynamic"),
    "optimizer": ("sgd", "adam"),
    "learning_rate_schedule": ("constant", "cosine"),
}
COUNTS = (
    "batch_size",
    "num_steps",
    "test_num_samples",
    "validation_num_samples",
    "eval_batch_size",
    "monitor_num_samples",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "steps_per_call",
    "num_classes",
)

_LARGEST = 2**31 - 1  # steps and seeds are int32 on the device
# And all other numbers are float32.
_SMALLEST_FLOAT, _LARGEST_FLOAT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def check(settings: Settings) -> None:
    """Checks what all tasks share.

    Raises:
      UserError: the first mistake found, and how to fix it.
    """
    for key, choices in CHOICES.items():
        check_choice(key, getattr(settings, key), choices)
    check_choice("temperature.name", settings.temperature.name, SCHEDULES)
    _check_numbers(settings)
    _check_temperature(settings)
    if settings.latent == "categorical" and settings.num_classes < 2:
        refuse("num_classes", settings.num_classes, "give at least 2")
    _check_estimator(settings)


def _check_numbers(settings: Settings) -> None:
    counts = {key: getattr(settings, key) for key in COUNTS}
    counts["temperature.interval"] = settings.temperature.interval
    for key, value in counts.items():
        if value is not None and not 1 <= value <= _LARGEST:
            refuse(key, value, f"give a whole number from 1 to {_LARGEST}")
    if not _positive(settings.learning_rate):
        refuse("learning_rate", settings.learning_rate, "give a number over 0")
    if not 0 <= settings.momentum < 1:
        refuse("momentum", settings.momentum, "give a number in [0, 1)")
    if not 0 <= settings.seed <= _LARGEST:
        refuse("seed", settings.seed, f"give a whole number from 0 to {_LARGEST}")
    for key in ("eval_every", "checkpoint_every"):
        if counts[key] % settings.log_every:
            refuse(key, counts[key], f"give a multiple of log_every={settings.log_every}")


def _check_temperature(settings: Settings) -> None:
    temperature = settings.temperature
    for key in ("value", "floor"):
        if not _positive(getattr(temperature, key)):
            refuse(f"temperature.{key}", getattr(temperature, key), "give a finite number over 0")
    if not 0 <= temperature.rate <= _LARGEST_FLOAT:
        refuse("temperature.rate", temperature.rate, "give a finite number of at least 0")
    if not 0 < temperature.share <= 1:
        refuse("temperature.share", temperature.share, "give a number in (0, 1]")
    if temperature.name != "constant" and temperature.floor > temperature.value:
        fix = f"give at most temperature.value={temperature.value}"
        refuse("temperature.floor", temperature.floor, fix)
    if temperature.name == "learned":
        if temperature.floor >= temperature.value:
            refuse("temperature.floor", temperature.floor, "give less than temperature.value")
        spec = _spec(settings)
        if not spec.relaxes:
            relaxing = [name for name in estimators.names() if estimators.spec(name).relaxes]
            raise UserError(
                f"config.temperature.name=learned: estimator {spec.name!r} does not read the "
                f"temperature; use {' or '.join(relaxing)}, or another schedule"
            )


def _check_estimator(settings: Settings) -> None:
    spec, options = _spec(settings), settings.estimator.options
    for option, value in options.items():
        if option not in spec.options or option_kind(spec.options[option]) not in (int, float):
            continue  # unknown options, and those of other types, are refused by the library
        least, most = (1, _LARGEST) if isinstance(value, int) else (0, _LARGEST_FLOAT)
        if not least <= value <= most:
            refuse(f"estimator.{option}", value, f"give a number from {least} to {most:.10g}")
        if option == "decay" and value >= 1:
            refuse("estimator.decay", value, "give a number in [0, 1)")
    try:
        estimators.make(spec.name, settings.family, **options)
    except ValueError as error:
        raise UserError(f"config.estimator: {error}") from error


def unread(settings: Settings) -> dict[str, str]:
    """The keys that a run does not read, each with the reason.

    Example:
      >>> from experiments import config
      >>> mine = config.base("generative")
      >>> mine.estimator.name = "st"
      >>> unread(config.read(mine))["temperature.rate"]
      'estimator.name=st reads no temperature'
    """
    if settings.estimator.spec.relaxes:
        read: tuple[str, ...] = ("name", *SCHEDULES[settings.temperature.name])
        why = f"temperature.name={settings.temperature.name} has none"
    else:
        read = ()
        why = f"estimator.name={settings.estimator.name} reads no temperature"
    temperature = (field.name for field in dataclasses.fields(Temperature))
    keys = {f"temperature.{key}": why for key in temperature if key not in read}
    if settings.optimizer != "sgd":
        keys["momentum"] = f"optimizer={settings.optimizer} has none"
    if settings.latent != "categorical":
        keys["num_classes"] = f"latent={settings.latent} has none"
    return keys


def _spec(settings: Settings) -> estimators.Spec:
    try:
        return settings.estimator.spec
    except ValueError as error:
        raise UserError(f"config.estimator.name: {error}") from error


def _positive(value: float) -> bool:
    """Whether the number is positive and finite, also as the float32 that training makes of it."""
    return _SMALLEST_FLOAT <= value <= _LARGEST_FLOAT
