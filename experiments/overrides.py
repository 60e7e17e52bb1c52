"""Config files, and overriding their keys from the command line, with errors that name the mend."""

import difflib
import importlib.util
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.errors import UserError, one_line

Overrides = dict[str, Any]

_EXPECTED = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a tuple of the same types",
}


class Token(NamedTuple):
    """One override as given: the dotted key and the text of the command line."""

    key: str
    text: str


def split(argv: Sequence[str]) -> tuple[list[Token], list[str]]:
    """Part a command line into overrides, `--config.KEY=VALUE`, and the rest.

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


def load(path: str) -> ConfigDict:
    """The config that the file's `get_config()` returns; `FILE.py:TEXT` calls `get_config(TEXT)`.

    Raises:
        UserError: no such file, or it fails, or it gives no ConfigDict.
    """
    name, colon, argument = path.partition(":")
    config = _call(name, "get_config", *([argument] if colon else []))
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config() of {name} returns a {type(config).__name__}: it must return an"
            " ml_collections.ConfigDict"
        )
    return config


def load_sweep(path: str) -> Any:
    """What the file's `get_sweep()` returns, unchecked.

    Raises:
        UserError: no such file or function, or it fails.
    """
    return _call(path.partition(":")[0], "get_sweep", mend=": give --grid")


def apply(config: ConfigDict, tokens: Sequence[Token]) -> Overrides:
    """Override the keys in place, lock the config, and return what was overridden.

    Raises:
        UserError: an unknown key, a group of keys, or a value of the wrong type.
    """
    for token in tokens:
        _check_key(config, token)
    before = {token.key: _get(config, token.key) for token in tokens}
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config", config, flag_values=values, sys_argv=["", *(token.text for token in tokens)]
    )
    for key, default in before.items():
        texts = [token.text for token in tokens if token.key == key]
        try:
            values(["", *texts])
            _check_items(default, _get(config, key))
        except (flags.Error, TypeError, ValueError) as error:
            expected = _EXPECTED[_type(config, key)]
            example = "" if default is None else f", such as {default}"
            raise UserError(f"{texts[-1]}: {key} takes {expected}{example}") from error
    return config_flags.get_override_values(values["config"])


def describe(config: ConfigDict) -> list[str]:
    """One line for each key: `key=value (type)`."""
    return [f"{key}={_get(config, key)} ({_type(config, key).__name__})" for key in _keys(config)]


def nearest(word: str, possible: Sequence[str]) -> list[str]:
    """Up to three of the `possible` dotted keys that `word` may have been meant to be.

    Example:
        >>> nearest("learing_rate", ["learning_rate", "seed"])
        ['learning_rate']
        >>> nearest("rate", ["temperature.rate", "seed"])
        ['temperature.rate']
    """
    last = word.rpartition(".")[2]
    same_end = [key for key in possible if key.rpartition(".")[2] == last]
    close = difflib.get_close_matches(word, possible, n=3, cutoff=0.6)
    by_end = {key.rpartition(".")[2]: key for key in possible}
    close_end = [by_end[end] for end in difflib.get_close_matches(last, by_end, n=3, cutoff=0.75)]
    return list(dict.fromkeys([*same_end, *close, *close_end]))[:3]


def _call(name: str, function: str, *arguments: str, mend: str = "") -> Any:
    """What a function of the config file `name` returns; `mend` ends the error of having none."""
    module = _import(Path(name).expanduser())
    if not callable(getattr(module, function, None)):
        raise UserError(f"config file {name} has no function {function}(){mend}")
    try:
        return getattr(module, function)(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config file {name} fails{_where(error)}") from error


def _import(file: Path) -> ModuleType:
    """Execute a config file."""
    if not file.is_file():
        siblings = [str(path) for path in sorted(file.parent.glob("[!_]*.py"))]
        near = difflib.get_close_matches(str(file), siblings, n=1) or siblings
        mend = f": did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"config file {file} does not exist{mend}")
    spec = importlib.util.spec_from_file_location("config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {file} must be a Python file, named *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config file {file} fails{_where(error)}") from error
    return module


def _where(error: Exception) -> str:
    """The place and the kind of an error in a config file."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}: {error.msg}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" at {frame.filename}:{frame.lineno}: {type(error).__name__}: {one_line(error)}"


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """All dotted keys that have a value of their own."""
    for key in config:
        if issubclass(config.get_type(key), ConfigDict):
            yield from _keys(config[key], f"{prefix}{key}.")
        else:
            yield prefix + key


def _get(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _type(config: ConfigDict, key: str) -> type:
    group, _, last = key.rpartition(".")
    holder: ConfigDict = _get(config, group) if group else config
    return holder.get_type(last)


def _check_key(config: ConfigDict, token: Token) -> None:
    """Refuse a key that the config has not, or that stands for a group of keys."""
    keys = list(_keys(config))
    if token.key in keys:
        if _type(config, token.key) not in _EXPECTED:
            raise UserError(
                f"{token.text}: {token.key} cannot be set here, being a"
                f" {_type(config, token.key).__name__}: change it in the config file"
            )
        return
    inside = [key for key in keys if key.startswith(token.key + ".")]
    if inside:
        given = token.text.partition("=")[2]
        named = f"{token.key}.name"
        example = f"--config.{named}={given}" if named in inside else f"--config.{inside[0]}=..."
        raise UserError(
            f"{token.text}: {token.key} is a group of keys: give one of them, as in {example}"
        )
    near = nearest(token.key, keys)
    mend = f"did you mean {' or '.join(near)}?" if near else f"the keys are {', '.join(keys)}"
    raise UserError(f"unknown config key {token.key} ({token.text}): {mend}")


def _check_items(before: Any, after: Any) -> None:
    """Hold the items of a tuple, which are parsed as any literal, against those of the default."""
    if not isinstance(before, tuple) or not before:
        return
    kinds = {type(item) for item in before}
    if float in kinds:
        kinds.add(int)
    if not {type(item) for item in after} <= kinds:
        raise TypeError("items of the wrong type")
