"""The command lines of absl flags: parsed, explained by `--help`, and run."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from absl import flags

from experiments.command.guarding import guarded
from experiments.errors import UserError, nearest, one_line

DefineFlags = Callable[[flags.FlagValues], object]

# What Python says of a text that is no number, and what to do about it.
_NUMBERS = {
    "invalid literal for int()": "give an integer",
    "could not convert string to float": "give a number",
}


def launch(
    main: Callable[..., int | None],
    define_flags: DefineFlags = lambda _values: None,
    argv: Sequence[str] | None = None,
    *,
    takes: str = "",
    choices: Iterable[str] = (),
) -> int:
    """Runs `main(values)`, or `main(values, arguments)`, as the command line says.

    Args:
      main: its docstring, or else that of its module, heads the help; what it returns is the exit
        status, None standing for 0. `values` has the flags by name.
      define_flags: defines the command's own flags in the FlagValues that it is given; by default,
        it has none.
      argv: the command line without the program's name; by default that of this process.
      takes: what arguments the command takes besides flags, for the help; `...` at the end allows
        several.
      choices: what the first argument may be, for the help and for where it is missing.

    Returns:
      The exit status: 2 for a UserError or a file that cannot be read or written, 130 after Ctrl-C,
      and that of a `Stopped`.
    """

    def command(arguments: list[str]) -> int | None:
        if wants_help(arguments):
            doc = main.__doc__ or sys.modules[main.__module__].__doc__ or ""
            print("\n".join(usage(doc, define_flags, takes, choices)))
            return 0
        values, arguments = parse_flags(arguments, define_flags)
        _check_arguments(arguments, takes, choices)
        return main(values.flag_values_dict(), *([arguments] if takes else []))

    return expanding(command, argv)


def expanding(command: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs `command(arguments)` guarded, with `--debug` and all other flags of each `--flagfile`.

    Args:
      command: gets the arguments of `expanded`; returns the exit status, None standing for 0.
      argv: the command line without the program's name; by default that of this process.

    Returns:
      The exit status, as `launch` does.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    arguments: list[str] = []
    status = guarded(lambda: arguments.extend(expanded(given)), debug=wants_debug(given))
    return status or guarded(lambda: command(arguments), debug=wants_debug(arguments))


def expanded(argv: Sequence[str]) -> list[str]:
    """The command line with the lines of the file in the place of each `--flagfile=FILE`.

    Raises:
      UserError: there is no such file, or it is not text.
    """
    try:
        return flags.FlagValues().read_flags_from_files(list(argv))
    except (flags.Error, ValueError) as error:
        raise UserError(f"--flagfile: {one_line(error)}") from error


def parse_flags(
    argv: Sequence[str], define_flags: DefineFlags
) -> tuple[flags.FlagValues, list[str]]:
    """The flags, and the remaining arguments.

    Raises:
      UserError: an unknown flag, or a value that a flag does not take.
    """
    values = _flags(define_flags)
    try:
        return values, values(["", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        near = nearest(error.flagname, [name for name in values if len(name) > 1])
        fix = f"did you mean --{near[0]}?" if near else "try --help"
        if "config" in values and not near:
            fix = f"try --help, or --config.{error.flagname}=VALUE for a key of the config"
        raise UserError(f"unknown flag --{error.flagname}: {fix}") from error
    except flags.Error as error:
        said = one_line(error)
        for reason, fix in _NUMBERS.items():
            if (at := said.find(reason)) >= 0:
                raise UserError(said[:at] + fix) from error
        raise UserError(f"{said}: try --help") from error


def usage(
    doc: str, define_flags: DefineFlags, takes: str = "", choices: Iterable[str] = ()
) -> list[str]:
    """The lines of a command's help."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else sys.argv[0]
    values = _flags(define_flags)
    width = max(map(len, values)) + 2
    return [
        " ".join(filter(None, (f"usage: python -m {name}", takes, "[--FLAG=VALUE ...]"))),
        "",
        re.split(r"\n+Args:\n", inspect.cleandoc(doc))[0],
        "",
        *([f"{takes}: {', '.join(choices)}", ""] if choices else []),
        *(f"  --{name:<{width}}{values[name].help}" for name in values if len(name) > 1),
    ]


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the command line asks for help."""
    return any(re.fullmatch(r"--?(help|h)(=(true|1|yes))?", argument) for argument in argv)


def wants_debug(argv: Sequence[str]) -> bool:
    """Whether the command line asks for tracebacks."""
    return any(re.fullmatch(r"--?debug(=(true|1|yes))?", argument) for argument in argv)


def _check_arguments(arguments: Sequence[str], takes: str, choices: Iterable[str]) -> None:
    if takes and not arguments:
        fix = f"choose one of {', '.join(choices)}" if choices else "try --help"
        raise UserError(f"{takes.split(maxsplit=1)[0]} is missing: {fix}")
    allowed = len(arguments) if takes.endswith("...]") else int(bool(takes))
    if len(arguments) > allowed:
        refuse_argument(arguments[allowed], takes)


def refuse_argument(extra: str, takes: str = "", meant: str = "") -> NoReturn:
    """Raises UserError about an argument that a command does not take.

    Args:
      extra: the argument.
      takes: what the command takes besides flags, if anything.
      meant: the flag that `extra` may stand for, if it looks like one; by default, itself.
    """
    if re.match(r"[a-zA-Z_][\w.]*=", extra):
        fix = f"did you mean --{meant or extra}?"
    elif takes:
        fix = f"give one {takes} at a time; a flag begins with --"
    else:
        fix = "a flag begins with --, as in --FLAG=VALUE"
    raise UserError(f"unexpected argument {extra!r}: {fix}")


def _flags(define_flags: DefineFlags) -> flags.FlagValues:
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    return values
