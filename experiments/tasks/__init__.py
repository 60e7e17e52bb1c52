"""The tasks, one file each; the only place of the project that imports Flax.

`config.task` is the name of a module here, whose `TASK` says what the task adds to the generic
machinery. A new task is one more file, and a config that names it.
"""

import functools
import importlib
import pkgutil

from experiments.errors import UserError, check_choice
from experiments.tasks import contract
from experiments.tasks.base import Task

_SHARED = ("base", "contract", "functional", "labels", "layers", "style")


@functools.cache
def names() -> tuple[str, ...]:
    """The tasks there are."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in modules if name not in _SHARED)


def load(name: str) -> Task:
    """The task of this name.

    Raises:
      UserError: there is none, or one of its options is also a key of every run.
    """
    check_choice("task", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    try:
        task: Task = module.TASK
    except AttributeError:
        raise UserError(f"config.task={name!r}: {module.__file__} defines no TASK") from None
    contract.check_options(name, task)
    return task
