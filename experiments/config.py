"""The keys of a config, their defaults, and what follows from them."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

import gumbel
from gumbel import estimators

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
    config.standardize = True  # pixels to mean 0, samples to mean 0 and variance 1, as inputs
    config.estimator = _estimator_options()
    config.estimator.name = "gumbel_softmax"
    # What the paper needed for SF, DARN and MuProp goes to every score-function estimator.
    config.estimator.centering = True
    config.estimator.variance_normalization = True
    config.temperature = ConfigDict(
        {"name": "constant", "value": 1.0, "rate": 1e-5, "floor": 0.5, "interval": 1, "share": 1.0}
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
            if parameter.kind is not None:
                options[option] = config_dict.placeholder(parameter.kind)
    return options


def family_of(config: ConfigDict) -> gumbel.Family:
    """The family of the config's latent variables."""
    return gumbel.family(config.latent)


def estimator_options(config: ConfigDict) -> dict[str, Any]:
    """The options that the config gives its estimator: those it has, and those that are set."""
    known = estimators.spec(config.estimator.name).options
    shared = ("centering", "variance_normalization")
    return {
        option: value
        for option, value in config.estimator.items()
        if option != "name" and value is not None and (option in known or option not in shared)
    }


# The schedules of the temperature, and which keys below `temperature` each reads.
SCHEDULES = {
    "constant": ("value",),
    "exponential": ("value", "rate", "floor", "interval"),
    "linear": ("value", "floor", "interval", "share"),
    "cosine": ("value", "floor", "interval", "share"),
    "learned": ("value", "floor"),
}


def unread(config: ConfigDict) -> dict[str, str]:
    """The keys that a run of this config does not read, each with the reason.

    Example:
      >>> config = base()
      >>> config.estimator.name = "st"
      >>> unread(config)["temperature.rate"]
      'estimator.name=st reads no temperature'
    """
    keys: dict[str, str] = {}
    if estimators.spec(config.estimator.name).relaxes:
        read = ("name", *SCHEDULES[config.temperature.name])
        why = f"temperature.name={config.temperature.name} has none"
    else:
        read = ()
        why = f"estimator.name={config.estimator.name} reads no temperature"
    keys |= {f"temperature.{key}": why for key in config.temperature if key not in read}
    if config.optimizer != "sgd":
        keys["momentum"] = f"optimizer={config.optimizer} has none"
    if config.latent != "categorical":
        keys["num_classes"] = f"latent={config.latent} has none"
    return keys


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
    floats = ["alpha", "labelled_weight", "style_beta"] if semi_supervised(config) else []
    floats += [
        f"estimator.{option}"
        for option in estimator_options(config)
        if option in known and known[option].kind is float
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


def unflatten(flat: Mapping[str, Any]) -> ConfigDict:
    """The config that `flatten` made flat; keys of `base()` that it lacks are at their defaults.

    Example:
      >>> unflatten(flatten(base()) | {"seed": 3}).seed
      3
    """
    config = base()
    for dotted, value in flat.items():
        *groups, key = dotted.split(".")
        group = config
        for name in groups:
            if name not in group:
                group[name] = ConfigDict()
            group = group[name]
        group[key] = tuple(value) if isinstance(value, list) else value
    return config


def get(config: ConfigDict, dotted: str) -> Any:
    """The value at a dotted key."""
    value = config
    for part in dotted.split("."):
        value = value[part]
    return value
