"""The checks of settings that are made before data is loaded and models are built."""

import dataclasses

from experiments import tasks
from experiments.errors import UserError, refuse
from experiments.settings import (
    LARGEST,
    LARGEST_FLOAT,
    SCHEDULES,
    SHARED_OPTIONS,
    Settings,
    Temperature,
)
from gumbel import estimators

_FEW_CHANGES = 5  # of the temperature in a whole run


def check(settings: Settings) -> None:
    """Checks what all tasks share.

    Raises:
      UserError: the first mistake found, and how to fix it.
    """
    for dotted, key, value in settings.items():
        if value is not None:
            key.valid.check(dotted, value)
    for every in ("eval_every", "checkpoint_every"):
        if getattr(settings, every) % settings.log_every:
            fix = f"give a multiple of log_every={settings.log_every}"
            refuse(every, getattr(settings, every), fix)
    if settings.latent == "categorical" and settings.num_classes < 2:
        refuse("num_classes", settings.num_classes, "give at least 2")
    _check_estimator(settings)
    _check_temperature(settings)


def _check_temperature(settings: Settings) -> None:
    temperature, spec = settings.temperature, settings.estimator.spec
    read = "floor" in SCHEDULES[temperature.name] and spec.relaxes
    if read and temperature.floor > temperature.value:
        fix = f"give at most temperature.value={temperature.value}"
        refuse("temperature.floor", temperature.floor, fix)
    if temperature.name == "learned" and temperature.floor >= temperature.value:
        refuse("temperature.floor", temperature.floor, "give less than temperature.value")
    if temperature.name == "learned" and settings.batch_size < 2:
        fix = "give at least 2: a learned temperature compares the halves of a batch"
        refuse("batch_size", settings.batch_size, fix)
    if temperature.name == "learned" and not spec.relaxes:
        relaxing = [name for name in estimators.names() if estimators.spec(name).relaxes]
        raise UserError(
            f"config.temperature.name=learned: estimator {spec.name!r} does not read the "
            f"temperature: use another schedule, or one of {', '.join(relaxing)}"
        )


def _check_estimator(settings: Settings) -> None:
    try:
        spec, options = settings.estimator.spec, settings.estimator.options
    except ValueError as error:
        raise UserError(f"config.estimator.name: {error}") from error
    for option, value in options.items():
        # The library refuses all else; these are the limits of numbers on the device.
        most = LARGEST if isinstance(value, int) else LARGEST_FLOAT
        if isinstance(value, int | float) and value > most:
            refuse(f"estimator.{option}", value, f"give a number of at most {most:.10g}")
    try:
        estimators.make(spec.name, settings.family, **options)
    except ValueError as error:
        raise UserError(f"config.estimator: {error}") from error


def unread(settings: Settings) -> dict[str, str]:
    """The keys that a run does not read, each with the reason.

    Example:
      >>> from experiments import config
      >>> mine = config.base("structured_prediction")
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
    for option in SHARED_OPTIONS:
        if option not in settings.estimator.spec.options:
            keys[f"estimator.{option}"] = f"estimator.name={settings.estimator.name} has none"
    keys |= tasks.load(settings.task).unread(settings)
    if settings.dataset == "binarized_mnist":
        keys["binarization"] = f"dataset={settings.dataset} is binary"
    if settings.optimizer != "sgd":
        keys["momentum"] = f"optimizer={settings.optimizer} has none"
    if settings.latent != "categorical":
        keys["num_classes"] = f"latent={settings.latent} has none"
    return keys


def coarse_schedule(settings: Settings) -> str | None:
    """What is wrong with a schedule of the temperature that changes it only a few times, or None.

    Example:
      >>> from experiments import config
      >>> mine = config.base("generative")
      >>> mine.temperature.name, mine.temperature.interval = "linear", 1000
      >>> mine.num_steps, mine.layers = 3000, (200,)
      >>> coarse_schedule(config.read(mine))
      'temperature.interval=1000 changes the temperature 2 times in num_steps=3000: lower it'
    """
    temperature = settings.temperature
    if "interval" not in SCHEDULES[temperature.name] or "temperature.name" in unread(settings):
        return None
    changes = (settings.num_steps - 1) // temperature.interval
    within = f"num_steps={settings.num_steps}"
    if "share" in SCHEDULES[temperature.name] and temperature.share < 1:
        length = max(1, round(temperature.share * settings.num_steps))
        changes = min(changes, -(-length // temperature.interval))
        within = f"temperature.share={temperature.share:g} of {within}"
    if changes >= _FEW_CHANGES:
        return None
    return (
        f"temperature.interval={temperature.interval} changes the temperature {changes} times in "
        f"{within}: lower it"
    )
