"""Overriding the keys of a config from the command line, with errors that name the fix."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import RequiredValueError, placeholder

from experiments.config import describing
from experiments.config.conversion import base, flatten, get, keys, optional, type_of
from experiments.errors import TYPE_NAMES, UserError, nearest

Overrides = dict[str, Any]
Swept = Callable[[], Set[str]]

# What a key takes, by its type; keys of other types cannot be set from the command line.
_EXPECTED: Mapping[type, str] = {kind: TYPE_NAMES[kind] for kind in (bool, int, float, str)} | {
    tuple: "a tuple"
}


class Token(NamedTuple):
    """One override as given: the dotted key and the text of the command line."""

    key: str
    text: str


def split(argv: Sequence[str]) -> tuple[list[Token], list[str]]:
    """Splits a command line into overrides, `--config.KEY=VALUE`, and the rest.

    `--config.KEY VALUE` is joined, and `--noconfig.KEY` stays as the negation of a bool.

    Example:
      >>> split(["--config.seed", "3", "--workdir=runs/a"])
      ([Token(key='seed', text='--config.seed=3')], ['--workdir=runs/a'])
    """
    tokens, rest, arguments = [], [], list(argv)
    while arguments:
        argument = arguments.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(=.*)?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
            continue
        negated, key, value = match.groups()
        # A next argument like "-1" is this one's value, one like "--workdir" or "-h" a flag.
        bare = not negated and value is None
        if bare and arguments and not re.match(r"--?[a-zA-Z]", arguments[0]):
            value = "=" + arguments.pop(0)
        tokens.append(Token(key, f"--{negated or ''}config.{key}{value or ''}"))
    return tokens, rest


def apply(config: ConfigDict, tokens: Sequence[Token], swept: Swept | None = None) -> Overrides:
    """Overrides the keys in place, locks the config, and returns what was overridden.

    If a key is given more than once, the last value wins.

    Args:
      config: to be changed.
      tokens: the overrides.
      swept: the keys that every run of a sweep sets itself. Those of them that are required and
        have no value get the task's default here.

    Raises:
      UserError: an unknown key, a group of keys, a value of the wrong type, or a required key
        without a value.
    """
    needed = _unset_required(config)
    for token in tokens:
        _check_key(config, token)
    before = {token.key: get(config, token.key) for token in tokens}
    may_be_none = optional(config)
    overridden: Overrides = {}
    for token in tokens:  # one by one: together, a tuple given twice would be concatenated
        overridden |= _override(config, token, before[token.key], may_be_none)
    missing = [key for key in needed if get(config, key) is None]
    if missing and swept is not None and (set_later := swept() & set(missing)):
        defaults = flatten(base(config.task)) if "task" in config else {}
        config.update_from_flattened_dict({key: defaults.get(key) for key in set_later})
        missing = [key for key in missing if key not in set_later]
    if missing:
        named = ", ".join(f"config.{key}" for key in missing)
        fix = " ".join(f"--config.{key}=..." for key in missing)
        raise UserError(f"{named} {'has' if len(missing) == 1 else 'have'} no value: give {fix}")
    config.lock()
    return overridden


def _override(
    config: ConfigDict, token: Token, default: Any, may_be_none: Collection[str]
) -> Overrides:
    """Overrides one key in place; returns its value by the dotted key."""
    key, text = token
    if text.partition("=")[2].strip() == "None" and (key in may_be_none or default is None):
        config.update_from_flattened_dict({key: None})
        return {key: None}
    values = flags.FlagValues()
    argv = ["", text]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
        _check_items(default, get(config, key))
    except (flags.Error, TypeError, ValueError, SyntaxError, RecursionError) as error:
        expected = _EXPECTED[type_of(config, key)] + (" or None" if key in may_be_none else "")
        example = "" if default is None else f", such as {default}"
        raise UserError(f"{text[:200]}: {key} takes {expected}{example}") from error
    overridden: Overrides = config_flags.get_override_values(values["config"])
    return overridden


def described(config: ConfigDict) -> list[str]:
    """One line for each key; see `describing.describe`."""
    return describing.describe(config, _unset_required(config))


def _unset_required(config: ConfigDict, prefix: str = "") -> list[str]:
    """The dotted keys that are required and have no value, which becomes None."""
    found = []
    for key in list(config):
        try:
            value = config[key]
        except RequiredValueError:
            # Else not even the flag that would give the value can be defined.
            kind = config.get_ref(key).get_type()
            with config.unlocked():
                del config[key]  # assigned to, it would still be required
                config[key] = placeholder(kind)
            found.append(prefix + key)
            continue
        if isinstance(value, ConfigDict):
            found += _unset_required(value, f"{prefix}{key}.")
    return found


def _check_key(config: ConfigDict, token: Token) -> None:
    """Raises UserError if the key is unknown, is a group of keys, or cannot be a flag."""
    known = list(keys(config))
    if token.key == "task":
        raise UserError("--config.task: a config is of one task: give another --config instead")
    if token.key in known:
        if type_of(config, token.key) not in _EXPECTED:
            raise UserError(
                f"{token.text}: {token.key} cannot be set here, being a"
                f" {type_of(config, token.key).__name__}: change it in the config file"
            )
        return
    inside = [key for key in known if key.startswith(token.key + ".")]
    if inside:
        given = token.text.partition("=")[2]
        number = re.fullmatch(r"[-+.\deE]+", given) is not None
        named = f"{token.key}.{'value' if number else 'name'}"
        example = f"--config.{named}={given}" if named in inside else f"--config.{inside[0]}=..."
        raise UserError(
            f"{token.text}: {token.key} is a group of keys: give one of them, as in {example}"
        )
    near = nearest(token.key, known)
    if near:
        fix = f"did you mean {' or '.join(near)}?"
    elif (other := describing.owner(config, token.key)) is not None:
        fix = f"it is a key of task {other}, and this config is of {config.get('task')}"
    else:
        fix = "--help together with --config lists the keys"
    raise UserError(f"unknown config key {token.key} ({token.text}): {fix}")


def _check_items(before: Any, after: Any) -> None:
    """Checks that the items of a tuple have the types of the default's items."""
    if not isinstance(before, tuple) or not before:
        return
    kinds = {type(item) for item in before}
    if float in kinds:
        kinds.add(int)
    if not {type(item) for item in after} <= kinds:
        raise TypeError("items of the wrong type")
