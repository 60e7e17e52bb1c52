"""The keys of a config in words, for `--help` and errors."""

from collections.abc import Collection

from ml_collections import ConfigDict

from experiments import settings, tasks
from experiments.config.conversion import base, get, keys, type_of
from experiments.settings import SCHEDULES, Choice, Settings, Temperature
from gumbel import estimators


def describe(config: ConfigDict, required: list[str]) -> list[str]:
    """One line for each key: `key=value (type; what it may be, or what reads it)`.

    Args:
      config: any config.
      required: the dotted keys without a value, which has to be given.
    """
    said = _notes(config)
    lines = []
    for key in keys(config):
        value = "..." if key in required else get(config, key)
        kind = type_of(config, key).__name__ + (", required" if key in required else "")
        lines.append(f"{key}={value} ({'; '.join(filter(None, (kind, said.get(key, ''))))})")
    return lines


def owner(config: ConfigDict, key: str) -> str | None:
    """Another task than the config's that has a key of this name, if there is one.

    Example:
      >>> owner(base("generative"), "alpha")
      'semi_supervised'
    """
    others = [name for name in tasks.names() if name != config.get("task")]
    return next((name for name in others if key in list(keys(base(name)))), None)


def _notes(config: ConfigDict) -> dict[str, str]:
    """By key: the names that it may have, or which schedules or estimators read it."""
    if "task" not in config:
        return {}
    found = {"estimator.name": _one_of(estimators.names())}
    groups = (("", Settings), ("temperature.", Temperature), ("", tasks.load(config.task).options))
    for prefix, fields in groups:
        for key in settings.keys_of(fields):
            if isinstance(key.valid, Choice):
                found[prefix + key.name] = _one_of(key.valid.names)
    for key in settings.keys_of(Temperature)[1:]:
        readers = [name for name, read in SCHEDULES.items() if key.name in read]
        found[f"temperature.{key.name}"] = f"for {', '.join(readers)}"
    for name in estimators.names():
        for option in estimators.spec(name).options:
            dotted = f"estimator.{option}"
            found[dotted] = f"{found[dotted]}, {name}" if dotted in found else f"for {name}"
    return found


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(names)}"
