"""The checks of a config that are made before data is loaded and models are built."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import config as configs
from experiments.data import DATASETS
from experiments.errors import UserError, nearest
from experiments.models import KLS, MODELS
from gumbel import estimators

OPTIMIZERS = ("sgd", "adam")
LEARNING_RATES = ("constant", "cosine")
BINARIZATIONS = ("threshold", "dynamic")
LABELS = ("true", "random")
LATENTS = ("bernoulli", "categorical")

_LARGEST = 2**31 - 1  # steps and seeds are int32 on the device
# And all other numbers are float32.
_SMALLEST_FLOAT, _LARGEST_FLOAT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def validate(config: ConfigDict) -> None:
    """Checks everything that can be known before data is loaded and models are built.

    Raises:
      UserError: the first mistake found, with its mend.
    """
    _base_keys(config)
    _choice("model", config.model, MODELS)
    _choice("dataset", config.dataset, DATASETS)
    _choice("latent", config.latent, LATENTS)
    _choice("binarization", config.binarization, BINARIZATIONS)
    _choice("optimizer", config.optimizer, OPTIMIZERS)
    _choice("learning_rate_schedule", config.learning_rate_schedule, LEARNING_RATES)
    _choice("temperature.name", config.temperature.name, configs.SCHEDULES)
    if "kl" in config:
        _choice("kl", config.kl, KLS)
    _validate_numbers(config)
    _validate_temperature(config)
    _validate_layers(config)
    if config.model == "vae":
        _validate_vae(config)
    if configs.semi_supervised(config):
        _validate_labels(config)
        _validate_style(config)
    _validate_estimator(config)


def _base_keys(config: ConfigDict) -> None:
    """Refuses a config that lacks a key of `configs.base()`, or has it with another type."""
    flat = configs.flatten(config)
    for key, default in configs.flatten(configs.base()).items():
        if key not in flat:
            raise UserError(
                f"config has no {key}: begin get_config() with experiments.config.base()"
            )
        kinds = (int, float) if isinstance(default, float) else type(default)
        if default is not None and (
            not isinstance(flat[key], kinds)
            or isinstance(flat[key], bool) != isinstance(default, bool)
        ):
            _fail(key, flat[key], f"give a value like {default!r}")


def _validate_numbers(config: ConfigDict) -> None:
    for key in (
        "batch_size",
        "num_steps",
        "eval_samples",
        "eval_batch_size",
        "valid_samples",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "steps_per_call",
        "temperature.interval",
        "num_classes",
    ):
        if not 1 <= configs.get(config, key) <= _LARGEST:
            _fail(key, configs.get(config, key), f"give a whole number from 1 to {_LARGEST}")
    samples = config.eval_valid_samples
    if samples is not None and not 1 <= samples <= _LARGEST:
        _fail("eval_valid_samples", samples, f"give a whole number from 1 to {_LARGEST}")
    if not _positive(config.learning_rate):
        _fail("learning_rate", config.learning_rate, "give a number over 0")
    if not 0 <= config.momentum < 1:
        _fail("momentum", config.momentum, "give a number in [0, 1)")
    if not 0 <= config.seed <= _LARGEST:
        _fail("seed", config.seed, f"give a whole number from 0 to {_LARGEST}")
    for key in ("eval_every", "checkpoint_every"):
        if configs.get(config, key) % config.log_every:
            _fail(key, configs.get(config, key), f"give a multiple of log_every={config.log_every}")


def _validate_temperature(config: ConfigDict) -> None:
    temperature = config.temperature
    for key in ("value", "floor"):
        if not _positive(temperature[key]):
            _fail(f"temperature.{key}", temperature[key], "give a finite number over 0")
    if not 0 <= temperature.rate <= _LARGEST_FLOAT:
        _fail("temperature.rate", temperature.rate, "give a finite number of at least 0")
    if not 0 < temperature.share <= 1:
        _fail("temperature.share", temperature.share, "give a number in (0, 1]")
    if temperature.name != "constant" and temperature.floor > temperature.value:
        _fail(
            "temperature.floor",
            temperature.floor,
            f"give at most temperature.value={temperature.value}",
        )
    if temperature.name == "learned":
        if temperature.floor >= temperature.value:
            _fail("temperature.floor", temperature.floor, "give less than temperature.value")
        spec = _spec(config)
        if not spec.relaxes:
            relaxing = [name for name in estimators.names() if estimators.spec(name).relaxes]
            raise UserError(
                f"config.temperature.name=learned: estimator {spec.name!r} does not read the "
                f"temperature; use {' or '.join(relaxing)}, or another schedule"
            )


def _validate_layers(config: ConfigDict) -> None:
    if not config.layers or any(not isinstance(u, int) or u < 1 for u in config.layers):
        _fail("layers", config.layers, "give at least one layer, of 1 unit or more")
    if config.latent == "categorical" and config.num_classes < 2:
        _fail("num_classes", config.num_classes, "give at least 2")
    if config.latent == "categorical" and not configs.semi_supervised(config):
        for units in config.layers:
            if units % config.num_classes:
                _fail("layers", config.layers, f"give multiples of {config.num_classes} classes")


def _validate_vae(config: ConfigDict) -> None:
    _has_keys(config, ("kl", "decoder"))
    if len(config.layers) != 1:
        _fail("layers", config.layers, "give one layer, such as (200,)")
    if any(not isinstance(units, int) or units < 1 for units in config.decoder or ()):
        _fail("decoder", config.decoder, "give whole numbers of at least 1, such as (200,)")


def _validate_labels(config: ConfigDict) -> None:
    _has_keys(config, ("labels", "num_labels", "labelled_batch_size", "alpha", "labelled_weight"))
    _has_keys(config, ("kl",))
    _choice("labels", config.labels, LABELS)
    if config.latent != "categorical":
        _fail("latent", config.latent, "the class of semi_supervised is categorical")
    classes, labels = config.num_classes, config.num_labels
    if labels < classes:
        _fail("num_labels", labels, f"give at least one label for each of {classes} classes")
    if labels % classes:
        below, above = labels // classes * classes, -(-labels // classes) * classes
        _fail("num_labels", labels, f"give a multiple of {classes} classes: {below} or {above}")
    if not 1 <= config.labelled_batch_size <= labels:
        _fail(
            "labelled_batch_size", config.labelled_batch_size, f"give a number from 1 to {labels}"
        )
    for key in ("alpha", "labelled_weight"):
        if not 0 <= config[key] <= _LARGEST_FLOAT:
            _fail(key, config[key], "give a finite number of at least 0")


def _validate_style(config: ConfigDict) -> None:
    _has_keys(config, ("style_beta", "style_beta_share", "style_dim", "head", "encoder", "decoder"))
    if not _positive(config.style_beta):
        _fail("style_beta", config.style_beta, "give a finite number over 0")
    if not 0 <= config.style_beta_share <= 1:
        _fail("style_beta_share", config.style_beta_share, "give a number in [0, 1]")
    for key in ("style_dim", "head"):
        if config[key] < 1:
            _fail(key, config[key], "give at least 1")
    for key in ("encoder", "decoder"):
        _three_widths(key, config[key])


def _has_keys(config: ConfigDict, keys: Iterable[str]) -> None:
    for key in keys:
        if key not in config:
            file = f"configs/{config.model}.py"
            _fail("model", config.model, f"this config file has no {key}: use --config={file}")


def _three_widths(key: str, widths: Sequence[Any]) -> None:
    if len(widths) != 3 or any(not isinstance(width, int) or width < 1 for width in widths):
        _fail(key, widths, "give three whole numbers of at least 1, such as (16, 32, 8)")


def _validate_estimator(config: ConfigDict) -> None:
    spec = _spec(config)
    for option, value in configs.estimator_options(config).items():
        least, most = (1, _LARGEST) if isinstance(value, int) else (0, _LARGEST_FLOAT)
        if not isinstance(value, bool | str) and not least <= value <= most:
            _fail(f"estimator.{option}", value, f"give a number from {least} to {most:.10g}")
        if option == "decay" and value >= 1:
            _fail("estimator.decay", value, "give a number in [0, 1)")
    try:
        estimators.make(spec.name, configs.family_of(config), **configs.estimator_options(config))
    except ValueError as error:
        raise UserError(f"config.estimator: {error}") from error
    kl = config.get("kl", "sample")
    if kl == "relaxed" and spec.name != "gumbel_softmax":
        _fail("kl", kl, f"estimator {spec.name!r} draws discrete samples; use sample or analytic")
    if kl == "analytic" and spec.name == "vimco":
        _fail("kl", kl, "vimco needs the log weight of each sample; use sample")


def _spec(config: ConfigDict) -> estimators.Spec:
    try:
        return estimators.spec(config.estimator.name)
    except ValueError as error:
        raise UserError(f"config.estimator.name: {error}") from error


def _positive(value: float) -> bool:
    """Whether the number is positive and finite, also as the float32 that training makes of it."""
    return _SMALLEST_FLOAT <= value <= _LARGEST_FLOAT


def _choice(key: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"config.{key}={value!r} is not known: {nearest(str(value), choices)}")


def _fail(key: str, value: Any, mend: str) -> None:
    raise UserError(f"config.{key}={value!r}: {mend}")
