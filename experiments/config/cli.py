"""The command line of every experiment: a config file, overrides of its keys, and a workdir.

    python -m experiments.train --config=FILE.py --workdir=DIR [--config.KEY=VALUE ...]

`run` is the launcher: whatever is the user's to mend becomes one line on stderr and status 2.
"""

import argparse
import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import absl.logging
from absl import flags
from ml_collections import ConfigDict

from experiments import overrides
from experiments.errors import UserError, one_line
from experiments.overrides import Overrides

USER_ERROR = 2
INTERRUPTED = 130

Main = Callable[..., int | None]
DefineFlags = Callable[[flags.FlagValues], object]


class Command(NamedTuple):
    """A command line, read and checked.

    Attributes:
        config: the config file's ConfigDict with the overrides applied, locked.
        workdir: the directory for the run's files.
        overrides: what was overridden, by dotted key.
    """

    config: ConfigDict
    workdir: str
    overrides: Overrides


def run(
    main: Main, argv: Sequence[str] | None = None, define_flags: DefineFlags | None = None
) -> int:
    """Run `main(config, workdir, overrides)` as the command line says.

    Flags may come in any order. `--help` prints the usage, and with `--config` the keys that can
    be overridden; `--debug` shows the traceback of an error that is otherwise one line.

    Args:
        main: the experiment; what it returns is the exit status, None standing for 0. Its
            docstring heads the help.
        argv: the command line without the program's name; by default that of this process.
        define_flags: defines the experiment's own flags in the FlagValues that it is given. Then
            `main` gets a fourth argument, the values of all flags by name.

    Returns:
        The exit status: 2 for a UserError or a file that cannot be read or written, 130 after
        Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def launch() -> int | None:
        if _wants_help(arguments):
            print(_help(main, arguments, define_flags))
            return 0
        command, values = _read(arguments, define_flags)
        return main(*command, *([values] if define_flags else []))

    return guarded(launch, debug="--debug" in arguments)


def guarded(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a command so that the user's mistakes become one line each.

    Args:
        command: returns the exit status, None standing for 0.
        debug: show the traceback too.

    Returns:
        The exit status, as `run` does.
    """
    _set_up_logging()
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (UserError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_message(error)}", file=sys.stderr)
        return USER_ERROR


def count(text: str) -> int:
    """An argument of argparse that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least 1")
    return int(text)


def path(text: str) -> Path:
    """An argument of argparse that is a path; after `--output=` no shell expands its `~`."""
    return Path(text).expanduser()


def refuse_output(output: Path | None) -> None:
    """Raises UserError, before the work, if there is no folder for `--output`."""
    if output and not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no {output.parent}")


def parse(argv: Sequence[str]) -> Command:
    """Read a command line, without the program's name.

    Raises:
        UserError: anything about it that is wrong.
    """
    return _read(argv, None)[0]


def _read(
    argv: Sequence[str], define_flags: DefineFlags | None
) -> tuple[Command, Mapping[str, Any]]:
    """The command, and the values of all flags."""
    tokens, rest = overrides.split(argv)
    values = _parse_flags(rest, define_flags)
    if not values["config"].value:
        raise UserError(
            "--config=FILE.py is missing: name a config file, such as configs/quickstart.py"
        )
    if not values["workdir"].value:
        raise UserError("--workdir=DIR is missing: name a directory for the files of this run")
    workdir = Path(values["workdir"].value).expanduser()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory")
    config = overrides.load(values["config"].value)
    command = Command(config, str(workdir), overrides.apply(config, tokens))
    return command, values.flag_values_dict()


def _flags(define_flags: DefineFlags | None) -> flags.FlagValues:
    values = flags.FlagValues()
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("config", None, "the config file, a .py with get_config()", **define)
    flags.DEFINE_string("workdir", None, "the directory for the files of this run", **define)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", **define)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", **define)
    if define_flags:
        define_flags(values)
    return values


def _parse_flags(argv: Sequence[str], define_flags: DefineFlags | None) -> flags.FlagValues:
    values = _flags(define_flags)
    with _flag_errors(values):
        extra = values(["", *argv])[1:]
        if extra:
            raise UserError(f"unexpected argument {extra[0]!r}: a flag looks like --workdir=DIR")
    return values


@contextlib.contextmanager
def _flag_errors(values: flags.FlagValues) -> Iterator[None]:
    """Put absl's complaints in our words."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        near = overrides.nearest(error.flagname, [name for name in values if len(name) > 1])
        mend = f"did you mean --{near[0]}?" if near else "try --help"
        raise UserError(
            f"unknown flag --{error.flagname}: {mend} (a key of the config is overridden with"
            " --config.KEY=VALUE)"
        ) from error
    except flags.Error as error:
        raise UserError(f"{one_line(error)}: try --help") from error


def _wants_help(argv: Sequence[str]) -> bool:
    return any(argument in ("--help", "-help", "-h") for argument in argv)


def _help(main: Main, argv: Sequence[str], define_flags: DefineFlags | None) -> str:
    """The usage; with the keys of the config file, if one is named that can be loaded."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else f"python {sys.argv[0]}"
    values = _flags(define_flags)
    width = max(map(len, values)) + 2
    lines = [
        f"usage: {program} --config=FILE.py --workdir=DIR [--config.KEY=VALUE ...]",
        "",
        (main.__doc__ or "").strip(),
        "",
        *(f"  --{name:<{width}}{values[name].help}" for name in values if len(name) > 1),
    ]
    _, rest = overrides.split(argv)
    path = _parse_flags(rest, define_flags)["config"].value
    if path:
        lines += ["", f"keys of {path}, with their values:", ""]
        lines += [f"  --config.{line}" for line in overrides.describe(overrides.load(path))]
    else:
        lines += ["", "with --config=FILE.py, --help also lists the keys of that file"]
    return "\n".join(lines)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file'}: {error.strerror}"
    return one_line(error)


class _Formatter(logging.Formatter):
    """`warning: message`, to go with `error: message`."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _set_up_logging() -> None:
    """Warnings on stderr, one line each; nothing below a warning."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    absl.logging.set_verbosity(absl.logging.WARNING)
