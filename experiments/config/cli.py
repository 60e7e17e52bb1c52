"""The command line of every experiment: a config file, overrides of its keys, and a workdir.

python -m experiments.train --config=FILE.py --workdir=DIR [--config.KEY=VALUE ...]
"""

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from experiments import command
from experiments.command import DefineFlags
from experiments.config import files, overrides
from experiments.config.overrides import Overrides
from experiments.errors import UserError

Main = Callable[[ConfigDict, Path, Overrides, Mapping[str, Any]], int | None]
SweptOf = Callable[[Mapping[str, Any]], Set[str]]


class Command(NamedTuple):
    """A command line, read and checked.

    Attributes:
      config: the config file's ConfigDict with the overrides applied, locked.
      workdir: the directory for the run's files.
      overrides: what was overridden, by dotted key.
    """

    config: ConfigDict
    workdir: Path
    overrides: Overrides


def run(
    main: Main,
    argv: Sequence[str] | None = None,
    define_flags: DefineFlags | None = None,
    swept: SweptOf | None = None,
) -> int:
    """Runs `main(config, workdir, overrides, values)` as the command line says.

    Flags may come in any order. `--help` prints the usage, and with `--config` the keys that can
    be overridden; `--debug` shows the traceback of an error that is otherwise one line.

    Args:
      main: the experiment; what it returns is the exit status, None standing for 0. Its
        docstring heads the help. `values` has all flags by name.
      argv: the command line without the program's name; by default that of this process.
      define_flags: defines the experiment's own flags in the FlagValues that it is given.
      swept: by the values of all flags, the keys to which `main` gives values; see
        `overrides.apply`.

    Returns:
      The exit status; see `command.launch`.
    """

    def launch(arguments: list[str]) -> int | None:
        if command.wants_help(arguments):
            print("\n".join(_help(main, arguments, define_flags)))
            return 0
        (config, workdir, overridden), values = _read(arguments, define_flags, swept)
        return main(config, workdir, overridden, values)

    return command.expanding(launch, argv)


def parse(argv: Sequence[str], define_flags: DefineFlags | None = None) -> Command:
    """Reads a command line, without the program's name.

    Raises:
      UserError: something in it is wrong.
    """
    return _read(command.expanded(argv), define_flags)[0]


def _read(
    argv: Sequence[str], define_flags: DefineFlags | None, swept: SweptOf | None = None
) -> tuple[Command, Mapping[str, Any]]:
    """The command, and the values of all flags."""
    tokens, rest = overrides.split(argv)
    parsed, extra = command.parse_flags(rest, _define(define_flags))
    if extra:
        key = extra[0].partition("=")[0]
        flag = key in parsed or key.startswith("config.")
        command.refuse_argument(extra[0], meant=extra[0] if flag else f"config.{extra[0]}")
    values = parsed.flag_values_dict()
    file = command.required(
        values["config"], "config=FILE.py", "name a config file, such as configs/quickstart.py"
    )
    workdir = command.required_path(
        values["workdir"], "workdir=DIR", "name a directory for the files of this run"
    )
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory")
    config = files.load(file)
    set_later = partial(swept, values) if swept else None
    return Command(config, workdir, overrides.apply(config, tokens, set_later)), values


def _define(define_flags: DefineFlags | None) -> DefineFlags:
    def define_all(values: flags.FlagValues) -> None:
        define: dict[str, Any] = {"flag_values": values}
        flags.DEFINE_string(
            "config", None, "(required) the config file, a .py with get_config()", **define
        )
        flags.DEFINE_string(
            "workdir", None, "(required) the directory of this run or sweep", **define
        )
        if define_flags:
            define_flags(values)

    return define_all


def _help(main: Main, argv: Sequence[str], define_flags: DefineFlags | None) -> list[str]:
    """The usage; with the keys of the config file, if one is named that can be loaded."""
    define = _define(define_flags)
    takes = "--config=FILE.py --workdir=DIR [--config.KEY=VALUE ...]"
    lines = command.usage(main.__doc__ or "", define, takes)
    _, rest = overrides.split(argv)
    path = command.parse_flags(rest, define)[0]["config"].value
    if not path:
        return [*lines, "", "with --config=FILE.py, --help also lists the keys of that file"]
    try:
        described = overrides.described(files.load(path))
    except UserError as error:
        return [*lines, "", f"--config={path} cannot be loaded: {error}"]
    lines += ["", f"keys of {path}, with their values:", ""]
    return [*lines, *(f"  --config.{line}" for line in described)]
