"""From the declared defaults to a ConfigDict that may be changed, and from there to `Settings`."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict, config_dict

from experiments import settings, tasks
from experiments.config import checks
from experiments.errors import TYPE_NAMES, UserError, nearest, refuse, short
from experiments.settings import ANY, SHARED_OPTIONS, Estimator, Key, Settings, Temperature
from gumbel import estimators

_GROUPS = ("temperature", "estimator")  # of keys
_MOST_NAMED = 4  # of the keys that differ


def base(task: str) -> ConfigDict:
    """The defaults that every config file of a task starts from.

    Args:
      task: the name of a module of `experiments.tasks`.

    Raises:
      UserError: there is no such task.
    """
    config = ConfigDict({"task": task})
    for key in (*settings.keys_of(Settings), *settings.keys_of(tasks.load(task).options)):
        config[key.name] = _value(key)
    config.temperature = ConfigDict({k.name: k.default for k in settings.keys_of(Temperature)})
    config.estimator = ConfigDict({"name": "gumbel_softmax"})
    for name, kind in _options().items():
        config.estimator[name] = config_dict.placeholder(kind)
    config.estimator.update(SHARED_OPTIONS)
    return config


def read(config: ConfigDict) -> Settings:
    """The settings that a config holds, checked.

    Raises:
      UserError: the first mistake found, and how to fix it.
    """
    found = unchecked(config)
    checks.check(found)
    tasks.load(found.task).check(found)
    return found


def unchecked(config: ConfigDict) -> Settings:
    """The settings that a config holds, whose values have the right types but may not go together.

    That is enough for the config of a sweep, to which every run of its grid adds values.

    Raises:
      UserError: a key is unknown or lacks a value, or a value is of another type.
    """
    if "task" not in config:
        raise UserError("config has no task: begin get_config() with experiments.config.base(TASK)")
    task = tasks.load(config.task)
    file = f"begin get_config() with experiments.config.base({config.task!r})"
    temperature = Temperature(**_fields(config, "temperature.", Temperature, file))
    options = task.options(**_fields(config, "", task.options, file))
    own = _fields(config, "", Settings, file)
    _require(config, "estimator.name", file)
    _refuse_unknown(config, task.options)
    values = {
        name: _typed(_option(name, kind), config.estimator.get(name), "estimator.")
        for name, kind in _options().items()
    }
    estimator = Estimator(_registered(config.estimator.name), values)
    return Settings(config.task, options, estimator, temperature, **own)


def _registered(name: Any) -> Any:
    """The registered name of an estimator, also for an alias; other values as they are."""
    with contextlib.suppress(ValueError):
        return estimators.spec(name).name if isinstance(name, str) else name
    return name


def _refuse_unknown(config: ConfigDict, options: type) -> None:
    """Raises UserError about a key that no run reads, such as a misspelled one."""
    known = {"task", *_GROUPS}
    known |= {key.name for fields in (Settings, options) for key in settings.keys_of(fields)}
    known |= {f"temperature.{key.name}" for key in settings.keys_of(Temperature)}
    known |= {f"estimator.{name}" for name in ("name", *_options())}
    inside = (f"{group}.{key}" for group in _GROUPS for key in config[group])
    for key in (*map(str, config), *inside):
        if key not in known:
            near = nearest(key, known)
            fix = f"did you mean {' or '.join(near)}?" if near else "leave it out"
            raise UserError(f"config has an unknown key {short(key)}: {fix}")


def from_flat(flat: Mapping[str, Any]) -> Settings:
    """The settings of what `Settings.flat()` returned; missing keys have their defaults.

    Example:
      >>> flat = read(base("structured_prediction")).flat()
      >>> from_flat(flat | {"seed": 3}).seed
      3
    """
    if "task" not in flat:
        raise UserError("this config has no task: it was written by another version")
    config = base(flat["task"])
    with config.unlocked():
        for dotted, value in flat.items():
            group, _, key = dotted.rpartition(".")
            try:
                holder = config[group] if group else config
                holder[key] = tuple(value) if isinstance(value, list) else value
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"this config has {dotted}={short(value)}, which no run has: it was written by "
                    "another version"
                ) from error
    return read(config)


def flatten(config: ConfigDict) -> dict[str, Any]:
    """`{dotted key: value}` of a config, as JSON has it: tuples become lists."""
    values = ((key, get(config, key)) for key in keys(config))
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values}


def differing(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recorded flat config, or a part of one, that differ from the settings.

    Keys added since the record was made count as their defaults, and others that it lacks as None.

    Example:
      >>> settings = flatten(base("generative"))
      >>> older = {key: value for key, value in settings.items() if key != "seed"}
      >>> differing(older, settings), differing(older | {"layers": [3]}, settings)
      ({}, {'layers': [3]})
    """
    defaults = _flat_defaults(settings["task"])
    theirs = {key: defaults[key] for key in settings if key in defaults} | dict(recorded)
    keys = sorted(theirs.keys() | settings)
    return {key: theirs.get(key) for key in keys if theirs.get(key) != settings.get(key)}


def difference(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """How a recorded flat config differs from the settings, in words; empty if it does not.

    Example:
      >>> settings = flatten(base("generative"))
      >>> difference(settings | {"seed": 5}, settings)
      'seed is 5 there, 0 here'
    """
    theirs = differing(recorded, settings)
    words = [
        f"{key} is {short(value)} there, {short(settings.get(key))} here"
        for key, value in theirs.items()
    ]
    more = [f"and {len(words) - _MOST_NAMED} more"] if len(words) > _MOST_NAMED else []
    return "; ".join([*words[:_MOST_NAMED], *more])


@functools.cache
def _flat_defaults(task: str) -> dict[str, Any]:
    return flatten(base(task))


def get(config: Any, dotted: str) -> Any:
    """The value at a dotted key."""
    for part in dotted.split("."):
        config = config[part]
    return config


def type_of(config: ConfigDict, dotted: str) -> type:
    """The type of the values that a dotted key takes."""
    group, _, last = dotted.rpartition(".")
    holder: ConfigDict = get(config, group) if group else config
    return holder.get_type(last)


def optional(config: ConfigDict) -> set[str]:
    """The dotted keys of a config that may be None; none of a config without a task.

    Example:
      >>> sorted(optional(base("structured_prediction")))[-1]
      'validation_num_samples'
    """
    if "task" not in config:
        return set()
    found = {f"estimator.{name}" for name in _options()}
    for fields in (Settings, tasks.load(config.task).options):
        found |= {key.name for key in settings.keys_of(fields) if key.optional}
    return found


def _option(name: str, kind: type) -> Key:
    return Key(name, kind, None, optional=True, valid=ANY, dynamic=False)


def _value(key: Key) -> Any:
    return config_dict.placeholder(key.kind) if key.default is None else key.default


def _options() -> dict[str, type]:
    """Every option of every registered estimator that a config can hold, with its type."""
    found = {}
    for name in estimators.names():
        for option, declared in estimators.spec(name).options.items():
            if declared.kind is not None:
                found[option] = declared.kind
    return found


def _fields(config: ConfigDict, prefix: str, fields: type, file: str) -> dict[str, Any]:
    """The values of a dataclass's keys, each of its type."""
    return {
        key.name: _typed(key, _require(config, prefix + key.name, file), prefix)
        for key in settings.keys_of(fields)
    }


def _require(config: ConfigDict, dotted: str, file: str) -> Any:
    try:
        return get(config, dotted)
    except config_dict.RequiredValueError:
        raise UserError(f"config.{dotted} has no value: set it") from None
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"config has no {dotted}: {file}") from None


def _typed(key: Key, value: Any, prefix: str) -> Any:
    """The value as the key's type, with integers converted where the key is a float."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None and key.optional:
        return value
    kinds = (int, float) if key.kind is float else key.kind
    if not isinstance(value, kinds) or isinstance(value, bool) != (key.kind is bool):
        like = f"a value like {key.default!r}" if key.default is not None else TYPE_NAMES[key.kind]
        refuse(prefix + key.name, value, f"give {like}")
    convert: Any = key.kind
    return convert(value) if convert in (tuple, float) else value


def keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """All dotted keys that have a value of their own."""
    for key in config:
        if issubclass(config.get_type(key), ConfigDict):
            yield from keys(config[key], f"{prefix}{key}.")
        else:
            yield prefix + key
