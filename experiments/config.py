"""The keys of a config, their defaults, and the checks made before anything is run."""

import inspect
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict, config_dict

import gumbel
from experiments.errors import UserError, nearest
from gumbel import estimators

TEMPERATURES = ("constant", "exponential", "linear", "cosine", "learned")
OPTIMIZERS = ("sgd", "adam")
LEARNING_RATES = ("constant", "cosine")
BINARIZATIONS = ("threshold", "dynamic")
LABELS = ("true", "random")
LATENTS = ("bernoulli", "categorical")

_LARGEST = 2**31 - 1  # steps and seeds are int32 on the device
# And all other numbers are float32.
_SMALLEST_FLOAT, _LARGEST_FLOAT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

# Numbers that may differ between runs of one compiled program; every other key changes it.
TRACED = (
    "seed",
    "learning_rate",
    "momentum",
    "temperature.value",
    "temperature.rate",
    "temperature.floor",
    "temperature.interval",
)


def base() -> ConfigDict:
    """The defaults that every config file starts from: the paper's common set-up of Table 1."""
    config = ConfigDict()
    config.model = "sbn"
    config.dataset = "binarized_mnist"
    config.binarization = "threshold"  # of grey images: or "dynamic", anew for each minibatch
    config.latent = "bernoulli"
    config.layers = (200, 200)  # units of each stochastic layer
    config.num_classes = 10  # of a categorical variable: units / num_classes variables a layer
    config.estimator = _estimator_options()
    config.estimator.name = "gumbel_softmax"
    # What the paper needed for SF, DARN and MuProp goes to every score-function estimator.
    config.estimator.centring = True
    config.estimator.variance_normalization = True
    config.temperature = ConfigDict(
        {"name": "constant", "value": 1.0, "rate": 1e-5, "floor": 0.5, "interval": 1}
    )
    config.optimizer = "sgd"
    config.learning_rate = 1e-3
    config.learning_rate_schedule = "constant"  # or "cosine": down to 0 over the run's steps
    config.momentum = 0.9
    config.batch_size = 100
    config.num_steps = 200_000
    config.seed = 0
    config.eval_samples = 1000  # m of the final test bound
    # m of the final validation bound, if it is not to be that of the test bound.
    config.eval_valid_samples = config_dict.placeholder(int)
    config.eval_batch_size = 100
    config.valid_samples = 1  # m of the validation bound while training
    config.log_every = 1000
    config.eval_every = 5000
    config.checkpoint_every = 10_000
    config.steps_per_call = 1000  # optimizer steps in one compiled call
    return config


def _estimator_options() -> ConfigDict:
    """Every option of every registered estimator that a config can hold, unset."""
    options = ConfigDict()
    for name in estimators.names():
        for option, parameter in estimators.spec(name).options.items():
            kind = _config_type(parameter)
            if kind is not None:
                options[option] = config_dict.placeholder(kind)
    return options


def _config_type(parameter: inspect.Parameter) -> type | None:
    for kind in (bool, int, float):
        if parameter.annotation in (kind, kind | None):
            return kind
    return None


def family_of(config: ConfigDict) -> gumbel.Family:
    """The family of the config's latent variables."""
    return gumbel.family(config.latent)


def estimator_options(config: ConfigDict) -> dict[str, Any]:
    """The options that the config gives its estimator: those it has, and those that are set."""
    known = estimators.spec(config.estimator.name).options
    shared = ("centring", "variance_normalization")
    return {
        option: value
        for option, value in config.estimator.items()
        if option != "name" and value is not None and (option in known or option not in shared)
    }


def semi_supervised(config: ConfigDict) -> bool:
    """Whether the config's model learns from labels, too."""
    return config.model == "semi_supervised"


def final_samples(config: ConfigDict) -> dict[str, int]:
    """The m of the final bounds, by split."""
    valid = config.eval_valid_samples
    return {
        "validation": config.eval_samples if valid is None else valid,
        "test": config.eval_samples,
    }


def traced_keys(config: ConfigDict) -> tuple[str, ...]:
    """The dotted keys whose numbers are arguments of the compiled program."""
    known = estimators.spec(config.estimator.name).options
    floats = ["alpha"] if semi_supervised(config) else []
    floats += [
        f"estimator.{option}"
        for option in estimator_options(config)
        if option in known and _config_type(known[option]) is float
    ]
    return (*TRACED, *floats)


def program_key(config: ConfigDict) -> str:
    """The same text for configs that share one compiled program: all but the traced numbers."""
    traced = traced_keys(config)
    flat = flatten(config)
    return json.dumps({key: flat[key] for key in sorted(flat) if key not in traced})


def flatten(config: ConfigDict) -> dict[str, Any]:
    """`{dotted key: value}` of a config, as JSON has it (tuples become lists)."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{key}.{k}": v for k, v in flatten(value).items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def get(config: ConfigDict, dotted: str) -> Any:
    """The value at a dotted key."""
    value = config
    for part in dotted.split("."):
        value = value[part]
    return value


def validate(config: ConfigDict) -> None:
    """Checks everything that can be known before data is loaded and models are built.

    Raises:
      UserError: the first mistake found, with its mend.
    """
    from experiments.data import DATASETS
    from experiments.models import KLS, MODELS

    _choice("model", config.model, MODELS)
    _choice("dataset", config.dataset, DATASETS)
    _choice("latent", config.latent, LATENTS)
    _choice("binarization", config.binarization, BINARIZATIONS)
    _choice("optimizer", config.optimizer, OPTIMIZERS)
    _choice("learning_rate_schedule", config.learning_rate_schedule, LEARNING_RATES)
    _choice("temperature.name", config.temperature.name, TEMPERATURES)
    if "kl" in config:
        _choice("kl", config.kl, KLS)
    _validate_numbers(config)
    _validate_temperature(config)
    _validate_layers(config)
    _validate_estimator(config)


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
        if not 1 <= get(config, key) <= _LARGEST:
            _fail(key, get(config, key), f"give a whole number from 1 to {_LARGEST}")
    if config.eval_valid_samples is not None and config.eval_valid_samples < 1:
        _fail("eval_valid_samples", config.eval_valid_samples, "give a whole number over 0")
    if not _positive(config.learning_rate):
        _fail("learning_rate", config.learning_rate, "give a number over 0")
    if not 0 <= config.momentum < 1:
        _fail("momentum", config.momentum, "give a number in [0, 1)")
    if not 0 <= config.seed <= _LARGEST:
        _fail("seed", config.seed, f"give a whole number from 0 to {_LARGEST}")
    for key in ("eval_every", "checkpoint_every"):
        if get(config, key) % config.log_every:
            _fail(key, get(config, key), f"give a multiple of log_every={config.log_every}")


def _validate_temperature(config: ConfigDict) -> None:
    temperature = config.temperature
    for key in ("value", "floor"):
        if not _positive(temperature[key]):
            _fail(f"temperature.{key}", temperature[key], "give a finite number over 0")
    if not 0 <= temperature.rate <= _LARGEST_FLOAT:
        _fail("temperature.rate", temperature.rate, "give a finite number of at least 0")
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
    if not config.layers or min(config.layers) < 1:
        _fail("layers", config.layers, "give at least one layer, of 1 unit or more")
    if config.latent == "categorical" and config.num_classes < 2:
        _fail("num_classes", config.num_classes, "give at least 2")
    if semi_supervised(config):
        _validate_semi_supervised(config)
        return
    if config.latent == "categorical":
        for units in config.layers:
            if units % config.num_classes:
                _fail("layers", config.layers, f"give multiples of {config.num_classes} classes")
    if config.model == "vae":
        _validate_vae(config)


def _validate_vae(config: ConfigDict) -> None:
    _has_keys(config, ("kl", "decoder"))
    if len(config.layers) != 1:
        _fail("layers", config.layers, "give one layer, such as (200,)")
    if any(not isinstance(units, int) or units < 1 for units in config.decoder or ()):
        _fail("decoder", config.decoder, "give whole numbers of at least 1, such as (200,)")


def _validate_semi_supervised(config: ConfigDict) -> None:
    _has_keys(config, ("labels", "num_labels", "labelled_batch_size", "alpha"))
    _has_keys(config, ("style_dim", "head", "encoder", "decoder", "kl"))
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
    if not 0 <= config.alpha <= _LARGEST_FLOAT:
        _fail("alpha", config.alpha, "give a finite number of at least 0")
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
    for option, value in estimator_options(config).items():
        least, most = (1, _LARGEST) if isinstance(value, int) else (0, _LARGEST_FLOAT)
        if not isinstance(value, bool) and not least <= value <= most:
            _fail(f"estimator.{option}", value, f"give a number from {least} to {most:.10g}")
        if option == "decay" and value >= 1:
            _fail("estimator.decay", value, "give a number in [0, 1)")
    try:
        estimators.make(spec.name, family_of(config), **estimator_options(config))
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
