"""Config files: Python files with a `get_config()` and perhaps a `get_sweep()`."""

import difflib
import importlib.util
import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from experiments.errors import UserError, one_line, short
from experiments.files import path_of


def load(path: str) -> ConfigDict:
    """The config that the file's `get_config()` returns; `FILE.py:TEXT` calls `get_config(TEXT)`.

    Raises:
      UserError: no such file, or it fails, or it gives no ConfigDict.
    """
    name, argument = _parted(path)
    config = _call(name, "get_config", *([] if argument is None else [argument]))
    if isinstance(config, FrozenConfigDict):
        config = config.as_configdict()
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
    return _call(_parted(path)[0], "get_sweep", fix=": give --grid")


def _parted(path: str) -> tuple[str, str | None]:
    """The file of `FILE.py:TEXT`, and the text if there is one. Directories may have colons, too.

    Example:
      >>> _parted("configs/anneal.py:sbn"), _parted("a:b/vae.py")
      (('configs/anneal.py', 'sbn'), ('a:b/vae.py', None))
    """
    name, suffix, argument = path.partition(".py:")
    return (name + ".py", argument) if suffix else (path, None)


def _call(name: str, function: str, *arguments: str, fix: str = "") -> Any:
    """What a function of the config file `name` returns; `fix` ends the error of having none."""
    file = path_of(name, "--config")
    module = _import(file)
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"config file {name} has no function {function}(){fix}")
    _check_arguments(name, function, found, arguments)
    try:
        return found(*arguments)
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"config file {name} calls sys.exit(): it must return instead") from error
    except Exception as error:
        raise UserError(f"config file {name} fails{_where(error, file)}") from error


def _check_arguments(name: str, function: str, found: Any, arguments: Sequence[str]) -> None:
    """Raises UserError unless a function of the config file takes just these arguments."""
    if _takes(found, *arguments):
        return
    if arguments and _takes(found):
        fix = f"takes no argument, and {short(arguments[0])} is given: give --config={name}"
    elif function == "get_config" and not arguments and _takes(found, ""):
        fix = f"takes an argument: give --config={name}:TEXT"
    else:
        allowed = "at most one argument" if function == "get_config" else "no argument"
        fix = f"cannot be called: it must take {allowed}"
    raise UserError(f"{function}() of {name} {fix}")


def _takes(found: Any, *arguments: str) -> bool:
    """Whether a callable takes these arguments, as far as its signature says."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # it has none
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _import(file: Path) -> ModuleType:
    """Executes a config file."""
    if file.is_dir():
        inside = next((str(path) for path in sorted(file.glob("[!_]*.py"))), "FILE.py")
        raise UserError(f"config file {file} is a directory: name a file, such as {inside}")
    if not file.is_file():
        siblings = [str(path) for path in sorted(file.parent.glob("[!_]*.py"))]
        near = difflib.get_close_matches(str(file), siblings, n=1) or siblings
        if file.parent == Path() and Path("configs", file).is_file():
            near = [str(Path("configs", file))]
        fix = f": did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"config file {file} does not exist{fix}")
    spec = importlib.util.spec_from_file_location("config", file)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {file} must be a Python file, named *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"config file {file} calls sys.exit(): leave that out") from error
    except Exception as error:
        raise UserError(f"config file {file} fails{_where(error, file)}") from error
    return module


def _where(error: Exception, file: Path) -> str:
    """The place and the kind of an error in a config file, or in what that calls."""
    if isinstance(error, SyntaxError):
        return f" at {error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    frame = [*frames[-1:], *(f for f in frames if Path(f.filename) == file.absolute())][-1]
    return f" at {frame.filename}:{frame.lineno}: {type(error).__name__}: {one_line(error)}"
